package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/bench"
)

// A bar shows on a terminal how far the benchmark is, in one line that it
// writes over. Elsewhere it shows nothing.
type bar struct {
	terminal *os.File // nil: there is none
	started  time.Time
}

func newBar(w io.Writer) *bar {
	if !isTerminal(w) {
		return &bar{}
	}
	return &bar{terminal: w.(*os.File), started: time.Now()}
}

// clearLine goes to the beginning of the line and erases it (ECMA-48).
const clearLine = "\r\x1b[K"

func (b *bar) show(p bench.Progress) {
	if b.terminal == nil {
		return
	}
	fmt.Fprint(b.terminal, clearLine+fit(b.line(p), b.width()))
}

func (b *bar) clear() {
	if b.terminal != nil {
		fmt.Fprint(b.terminal, clearLine)
	}
}

const barCells = 24

func (b *bar) line(p bench.Progress) string {
	if p.Total == 0 {
		return p.What
	}
	full := barCells * p.Done / p.Total
	text := fmt.Sprintf("[%s%s] %3d %%", strings.Repeat("█", full), strings.Repeat("·", barCells-full), 100*p.Done/p.Total)
	if p.Done > 0 && p.Done < p.Total {
		left := time.Since(b.started) / time.Duration(p.Done) * time.Duration(p.Total-p.Done)
		text += fmt.Sprintf(" %v left", left.Round(time.Second))
	}
	return text + "  " + p.What
}

func (b *bar) width() int {
	size, err := unix.IoctlGetWinsize(int(b.terminal.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

// fit cuts a line so that it does not wrap.
func fit(line string, width int) string {
	runes := []rune(line)
	return string(runes[:min(len(runes), max(0, width-1))])
}
