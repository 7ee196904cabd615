package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// colours reports whether to print in colours: on a terminal that can, unless
// the user wants none (https://no-color.org).
func (p *program) colours() bool {
	return isTerminal(p.out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
