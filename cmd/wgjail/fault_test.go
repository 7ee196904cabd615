package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// everyFaultVariable makes these tests try each of that many calls, "1" for every
// one, beginning with the first or, "7+3", another one. Otherwise they try as many as
// there is time for.
const everyFaultVariable = "WGJAIL_TEST_EVERY_FAULT"

// whichFaults returns which calls are tried: the usual ones, or what the variable says.
func whichFaults(usual int) (first, stride int) {
	first, stride = 1, usual
	fmt.Sscanf(os.Getenv(everyFaultVariable), "%d+%d", &stride, &first)
	return first, max(1, stride)
}

// eachFault calls test with faults at one system call after the other, both
// kinds, until a command makes no more calls. test runs the command and looks at
// what it left; it has calls to make.
func eachFault(t *testing.T, least, stride int, test func(t *testing.T, f *fault.Fault)) {
	first, stride := whichFaults(stride)
	for _, kill := range []bool{false, true} {
		t.Run(map[bool]string{false: "fails", true: "kills"}[kill], func(t *testing.T) {
			n, f := first, &fault.Fault{}
			defer func() {
				if t.Failed() {
					t.Logf("that was after %s", f)
				}
			}()
			for ; ; n += stride {
				f = &fault.Fault{N: n, Kill: kill}
				if test(t, f); t.Failed() || f.String() == "nothing" {
					break
				}
			}
			if n < least {
				t.Errorf("there were only %d calls", n)
			}
		})
	}
}

// withFault runs cmd on the host while the fault is there: until cmd ends, though
// what it has started may go on.
func (l *lab) withFault(t *testing.T, f *fault.Fault, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), faultVariable+"=1")
	cmd.WaitDelay = time.Minute // for those who keep its output open
	if err := l.Host.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := f.Watch(cmd.Process.Pid); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	f.Stop()
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// sane fails the test if a command did not end as commands do that meet a fault.
func (r result) sane(t *testing.T, f *fault.Fault) {
	t.Helper()
	why := strings.Contains(r.err, "wgjail: error: ")
	if r.status == -1 && f.Kill || r.status == 0 && !why || r.status == 1 && why {
		return
	}
	t.Errorf("it ended with status %d: %s", r.status, r.err)
}

// A call that fails makes up fail, or not, and leaves nothing; after a kill down
// does. The calls are those of the keeper too.
func TestUpWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachFault(t, 200, times(13, 80), func(t *testing.T, f *fault.Fault) {
			r := l.withFault(t, f, exec.Command("wgjail", "up", l.conf))
			r.sane(t, f)
			switch {
			case r.status == 0:
				if f.Kill { // the keeper, once up was done
					l.quiet(t, "up", l.conf)
				}
				l.usable(t, "after up")
			case !f.Kill && !strings.Contains(f.String(), "flock"): // which somebody else may hold
				l.unchanged(t, before, "an up that failed")
			}
			l.quiet(t, "down", "vpn")
			l.unchanged(t, before, "down")
		})
		l.up(t)
		l.usable(t, "in the end")
	})
}

// quiet calls wgjail and logs it only if it fails.
func (l *lab) quiet(t *testing.T, args ...string) {
	t.Helper()
	r, err := runIn(l.Host, exec.Command("wgjail", args...))
	if err != nil || r.status != 0 {
		t.Errorf("wgjail %s: %v, %+v", strings.Join(args, " "), err, r)
	}
}

// A forward that met a fault can be made again.
func TestForwardWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.up(t)
		keeperBegun(t)
		up := w.Snapshot(t)
		eachFault(t, 30, 4, func(t *testing.T, f *fault.Fault) {
			r := l.withFault(t, f, exec.Command("wgjail", "forward", "-d", "8080"))
			r.sane(t, f)
			var s *jail.Status
			world.Eventually(t, "a jail that is up", func() (err error) { // a forward repairs its rules
				if s, err = jail.ReadStatus("vpn"); err == nil && s.State != jail.StateUp {
					err = fmt.Errorf("it is %s: %q", s.State, s.Missing)
				}
				return err
			})
			if len(s.Forwards) == 0 {
				l.quiet(t, "forward", "-d", "8080")
			}
			// One that is killed while it removes its rules leaves that to the next.
			world.Eventually(t, "a jail without forwards", func() error {
				l.quiet(t, "forward", "--stop")
				os.Remove("/run/wgjail/vpn/forward.log")
				if diff := world.Diff(up, w.Snapshot(t)); diff != "" {
					return errors.New(diff)
				}
				return nil
			})
		})
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// A down that met a fault is done by the next one.
func TestDownWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachFault(t, 50, 8, func(t *testing.T, f *fault.Fault) {
			l.quiet(t, "up", l.conf, "-p", "8080")
			r := l.withFault(t, f, exec.Command("wgjail", "down", "vpn"))
			r.sane(t, f)
			l.quiet(t, "down", "vpn")
			l.unchanged(t, before, "down")
		})
	})
}

// Run takes down what it has made, and after a kill down does.
func TestRunWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachFault(t, 300, 29, func(t *testing.T, f *fault.Fault) {
			r := l.withFault(t, f, exec.Command("wgjail", "run", l.conf, "-p", "8080", "--", "true"))
			if r.status != 0 && r.status != 1 && r.status != 126 && !(f.Kill && (r.status == -1 || r.status == 137)) {
				t.Errorf("it ended with %+v", r)
			}
			if !f.Kill && r.status != 0 && !strings.Contains(r.err, "wgjail: error: ") {
				t.Errorf("it ended with %+v", r)
			}
			l.quiet(t, "down", "vpn")
			l.unchanged(t, before, "down")
		})
	})
}
