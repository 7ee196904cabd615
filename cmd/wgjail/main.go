// Wgjail makes WireGuard jails, runs programs in them and opens ports into
// them. See the README, or wgjail help.
package main

import (
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/wgjail/wgjail/jail"
)

// The main goroutine keeps the main thread, so that no goroutine that enters a
// namespace can get it: that thread stands for the whole process in /proc.
func init() { runtime.LockOSThread() }

func main() {
	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, started: time.Now()}
	os.Exit(p.run(os.Args[1:]))
}

// A program is one call of wgjail.
type program struct {
	in        *os.File
	out, err  io.Writer
	args      []string
	started   time.Time
	debug     bool
	world     *jail.World // that this process is in; nil if it is in none
	logFormat logFormat
	// wrapLog lets tests see what is logged; nil does nothing.
	wrapLog func(slog.Handler) slog.Handler
}

// run runs wgjail with args and returns its exit status.
func (p *program) run(args []string) int {
	if err := notSetID(); err != nil {
		return p.report(err)
	}
	p.args = args
	defer p.leaveWorld()
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	return p.report(root.Execute())
}
