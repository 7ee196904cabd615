package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// colours reports whether to print in colours: on a terminal that can, unless
// the user wants none (https://no-color.org).
func (p *program) colours() bool {
	f, ok := p.out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
