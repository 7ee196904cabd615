package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A terminal is a pseudo-terminal with a command in its foreground (pty(7)).
type terminal struct {
	*world.Process
	keyboard *os.File

	mu     sync.Mutex
	screen strings.Builder
}

// startOnTerminal starts cmd in a node, with a terminal of its own.
func startOnTerminal(t *testing.T, n *world.Node, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if c := cmd.SysProcAttr.Credential; c != nil { // as login(1) does
		if err := slave.Chown(int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	term := &terminal{keyboard: master}
	go term.read(master)
	term.Process = n.Start(t, cmd)
	return term
}

// read ends when nobody has the other side open, or the test has closed this one.
func (term *terminal) read(master *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		if err != nil {
			return
		}
		term.mu.Lock()
		term.screen.Write(buf[:n])
		term.mu.Unlock()
	}
}

// text returns what has been printed so far, with the line ends of a file.
func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return strings.ReplaceAll(term.screen.String(), "\r\n", "\n")
}

// waitFor waits until text has been printed.
func (term *terminal) waitFor(t *testing.T, text string) {
	t.Helper()
	world.Eventually(t, fmt.Sprintf("%q on the terminal", text), func() error {
		if got := term.text(); !strings.Contains(got, text) {
			return fmt.Errorf("it shows %q", got)
		}
		return nil
	})
}

// press types keys: "\x03" is Ctrl-C.
func (term *terminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := term.keyboard.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// status waits for the end of the command and returns its exit status.
func (term *terminal) status() int {
	return exitCode(term.Wait())
}

// exitCode is the exit status that an error of exec.Cmd.Wait stands for, -1 for
// a signal.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -2
}
