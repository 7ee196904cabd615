package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// Who kills the process that was called means the other one as well.
func TestRootlessKilled(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		run := l.start(t, "run", "vpn.conf", "-p", "8080", "--", "sh", "-c", "echo ready; exec sleep 12345")
		run.WaitOutput(t, "ready\n")
		run.Signal(t, syscall.SIGKILL)
		run.Wait()
		l.unchanged(t, before, "a killed run")
		l.do(t, "up", "vpn.conf")
		up := w.Snapshot(t)
		program := l.start(t, "exec", "vpn", "--", "sh", "-c", "echo ready; exec sleep 12345")
		program.WaitOutput(t, "ready\n")
		program.Signal(t, syscall.SIGKILL)
		program.Wait()
		l.unchanged(t, up, "a killed exec")
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// Without its keeper the jail is dark; with programs in it, up repairs it under
// them, and without, makes it anew. Down clears up either.
func TestRootlessKeeperKilled(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		kill := func() {
			t.Helper()
			var pid int
			if text, err := os.ReadFile(l.state("vpn", "keeper")); err != nil {
				t.Fatal(err)
			} else if _, err := fmt.Sscan(string(text), &pid); err != nil {
				t.Fatal(err)
			}
			unix.Kill(pid, unix.SIGKILL)
			world.Eventually(t, "the end of the keeper", func() error {
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(text) > 0 {
					return fmt.Errorf("process %d is there", pid)
				}
				return nil
			})
		}
		usable := func() {
			t.Helper()
			if out := l.do(t, "exec", "vpn", "--", "sh", "-c", "getent hosts whoami.test | cut -d' ' -f1"); out != "fd64::1\n" {
				t.Errorf("in the jail the name is %q", out)
			}
		}
		l.do(t, "up", "vpn.conf")
		program := l.start(t, "exec", "vpn", "--", "sh", "-c", "readlink /proc/self/ns/net; exec sleep 12345")
		program.WaitOutput(t, "]\n")
		kill()
		if out := l.do(t, "status"); !strings.Contains(out, "broken") {
			t.Errorf("the status is %s", out)
		}
		if out := l.do(t, "up", "vpn.conf"); !strings.Contains(out, "jail vpn was up and has been repaired") {
			t.Errorf("up printed %q", out)
		}
		usable()
		if out := l.do(t, "exec", "vpn", "--", "readlink", "/proc/self/ns/net"); out != program.Output() {
			t.Errorf("the program is in %s, others in %s", program.Output(), out)
		}
		program.Signal(t, syscall.SIGTERM)
		program.Wait()
		kill()
		l.do(t, "up", "vpn.conf")
		usable()
		kill()
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// A shell stops both processes and lets them go on, and Ctrl-C ends both.
func TestRootlessOnATerminal(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		l.do(t, "up", "vpn.conf")
		script := filepath.Join(l.user.Home, "script")
		if err := os.WriteFile(script, []byte("trap 'echo going on' CONT; echo ready; while :; do sleep 0.05; done"), 0o644); err != nil {
			t.Fatal(err)
		}
		term := startOnTerminal(t, l.Host, l.user.Command("bash", "--norc", "-i"))
		term.press(t, "wgjail exec vpn -- sh script\n")
		term.waitFor(t, "ready\n")
		term.press(t, "\x1a") // Ctrl-Z
		term.waitFor(t, "Stopped")
		term.press(t, "fg\n")
		term.waitFor(t, "going on\n")
		term.press(t, "\x03")
		term.press(t, "echo status $?\n")
		term.waitFor(t, "status 130\n")
		term.press(t, "exit 4\n")
		if status := term.status(); status != 4 {
			t.Errorf("it ended with status %d", status)
		}
	})
}
