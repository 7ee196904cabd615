package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// killedAt calls wgjail so that the process which runs command kills itself when
// its nth step begins. It reports whether that came to pass, and how wgjail
// ended: a command that has fewer steps goes on to its end.
func (l *lab) killedAt(t *testing.T, n int, command string, args ...string) (result, bool) {
	t.Helper()
	r := l.runCmd(t, withEnv([]string{fmt.Sprintf("%s=%d %s", killVariable, n, command)}, args...))
	return r, r.status == -1
}

// eachStep calls test with each stride-th step of a command, until test reports
// that the command was not killed any more. It has at least these many steps.
func eachStep(t *testing.T, least, stride int, test func(n int) (killed bool)) {
	t.Helper()
	n := 1
	for test(n) {
		n += stride
	}
	if n <= least {
		t.Errorf("there were only %d steps", n-1)
	}
}

// some is the stride for what the backends have in common: all steps where tests
// are fast.
func some() int { return times(1, 4) }

// usable fails the test if nothing comes through the jail vpn.
func (l *lab) usable(t *testing.T, when string) {
	t.Helper()
	if err := echo(l.w.Open(t, "vpn"), "tcp", world.InternetV4+":7", "hello"); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

func TestUpKilledAnywhereThenDown(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 15, 1, func(n int) bool {
			r, killed := l.killedAt(t, n, "up", "up", l.conf, "-p", "8080")
			if !killed && r.status != 0 {
				t.Errorf("up ended with status %d", r.status)
			}
			l.do(t, "down", "vpn")
			l.unchanged(t, before, fmt.Sprintf("a kill at step %d, and down", n))
			return killed
		})
	})
}

func TestUpKilledAnywhereThenUp(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 15, some(), func(n int) bool {
			_, killed := l.killedAt(t, n, "up", "up", l.conf)
			l.do(t, "up", l.conf)
			l.usable(t, fmt.Sprintf("after a kill at step %d, and up", n))
			if out := l.do(t, "up", l.conf); out != "jail vpn is already up\n" {
				t.Errorf("after a kill at step %d and up it lacks something: %s", n, out)
			}
			l.do(t, "down", "vpn")
			l.unchanged(t, before, "down")
			return killed
		})
	})
}

// An up whose keeper dies before it is ready fails, and needs no down.
func TestKeeperKilledAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 4, some(), func(n int) bool {
			r, _ := l.killedAt(t, n, "keeper", "up", l.conf)
			if r.status == 0 {
				l.usable(t, "after up")
				l.do(t, "down", "vpn")
			} else if r.status != 1 || !strings.Contains(r.err, "wgjail keeper ended before it was ready") {
				t.Errorf("after a kill at step %d of the keeper up ended with %+v", n, r)
			}
			l.unchanged(t, before, fmt.Sprintf("a kill at step %d of the keeper", n))
			return r.status != 0
		})
	})
}

// A repair that is killed leaves a jail that can be repaired, and its programs
// unharmed.
func TestRepairKilledAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		jail := l.up(t)
		c := connect(t, jail)
		eachStep(t, 10, some(), func(n int) bool {
			killKeeper(t)
			jail.Run(t, "ip", "route", "del", "default")
			_, killed := l.killedAt(t, n, "up", "up", l.conf)
			l.do(t, "up", l.conf)
			c.goesOn(t, fmt.Sprintf("a kill at step %d of a repair", n))
			return killed
		})
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

func TestDownKilledAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 7, some(), func(n int) bool {
			l.do(t, "up", l.conf, "-p", "8080")
			_, killed := l.killedAt(t, n, "down", "down", "vpn")
			l.do(t, "down", "vpn")
			l.unchanged(t, before, fmt.Sprintf("a kill at step %d of down, and down", n))
			return killed
		})
		eachStep(t, 7, some(), func(n int) bool {
			l.do(t, "up", l.conf)
			_, killed := l.killedAt(t, n, "down", "down", "vpn")
			l.do(t, "up", l.conf)
			l.usable(t, fmt.Sprintf("after a kill at step %d of down, and up", n))
			return killed
		})
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

func TestRunKilledAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 22, some(), func(n int) bool {
			_, killed := l.killedAt(t, n, "run", "run", l.conf, "-p", "8080", "--", "true")
			l.do(t, "down", "vpn")
			l.unchanged(t, before, fmt.Sprintf("a kill at step %d of run, and down", n))
			return killed
		})
		// The command goes on, in its jail, until somebody ends it.
		cmd := exec.Command("wgjail", "run", l.conf, "--", "sleep", "12345")
		nowhere, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer nowhere.Close()
		cmd.Stdout, cmd.Stderr = nowhere, nowhere // which the command keeps open
		run := l.Host.Start(t, cmd)
		world.Eventually(t, "the command", func() error {
			_, err := l.Host.Try(t, "pgrep", "-f", "^sleep 12345")
			return err
		})
		run.Signal(t, syscall.SIGKILL)
		run.Wait()
		l.usable(t, "after run was killed")
		l.refused(t, 0, []string{"warning: still running in jail vpn", "sleep 12345"}, "down", "vpn")
		l.Host.Run(t, "pkill", "-f", "^sleep 12345")
		l.unchanged(t, before, "a kill of run, and down")
	})
}

// Steps are not all moments.
func TestUpKilledAtAnyTime(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		begun := time.Now()
		l.do(t, "up", l.conf)
		whole := time.Since(begun)
		l.do(t, "down", "vpn")
		n := times(16, 4)
		for i := range n {
			cmd := exec.Command("wgjail", "up", l.conf)
			up := l.Host.Start(t, cmd)
			select {
			case <-up.Done():
			case <-time.After(whole * time.Duration(i) / time.Duration(n)):
			}
			up.Signal(t, syscall.SIGKILL)
			up.Wait()
			if i%2 == 0 {
				l.do(t, "up", l.conf)
				l.usable(t, "after up")
			}
			l.do(t, "down", "vpn")
			l.unchanged(t, before, "a kill and down")
		}
	})
}
