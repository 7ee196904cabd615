package veth_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// crashVar holds the number of the step at which this process kills itself.
const crashVar = "WGJAIL_VETH_CRASH"

// crashChild opens the jail "vpn", forwards and closes. It dies at a step.
func crashChild() int {
	at, err := strconv.Atoi(os.Getenv(crashVar))
	if err == nil {
		err = crashAt(at)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func crashAt(step int) error {
	ns, err := netnsx.OpenNamed("vpn")
	if err != nil {
		return err
	}
	opts := options("vpn", &world.Node{Namespace: ns}, tunnel4, tunnel6)
	opts.Log = slog.New(&killer{left: step})
	v, err := veth.Open(opts)
	if err != nil {
		return err
	}
	for _, f := range []veth.Forward{tcp(8080), udp(8080), {ID: "s", Network: "tcp", First: 1, Last: 2, Target: 1, Source: veth.SourceJail}} {
		if err := v.Add(f); err != nil {
			return err
		}
	}
	return v.Close()
}

// A killer kills the process when it is told the step after the given number.
type killer struct{ left int }

func (k *killer) Enabled(context.Context, slog.Level) bool { return true }
func (k *killer) WithAttrs([]slog.Attr) slog.Handler       { return k }
func (k *killer) WithGroup(string) slog.Handler            { return k }

func (k *killer) Handle(context.Context, slog.Record) error {
	if k.left--; k.left < 0 {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	return nil
}

// TestCrash: killed before any of its steps, a process leaves nothing that
// Teardown does not remove by the jail's name; and what it leaves, the next Open
// makes whole.
func TestCrash(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "tcp", "[::]:8080")
		host, jail := l.host.Snapshot(t), withoutMarks(l.jail.Snapshot(t))
		for step := 0; ; step++ {
			killed := crash(t, l, step)
			if step%5 == 2 { // the next process, instead
				if step%10 == 2 {
					if _, err := veth.Prune(l.opts, func(string) bool { return false }); err != nil {
						t.Errorf("killed at step %d: Prune: %v", step, err)
					}
				}
				v := l.mustOpen(t, tcp(8080))
				must(t, l.everywhere("tcp", "8080")...)
				if r, err := v.Inspect(); err != nil || len(r.Missing) > 0 {
					t.Errorf("killed at step %d: Inspect: %v, %v", step, r, err)
				}
				if err := v.Close(); err != nil {
					t.Errorf("killed at step %d: Close: %v", step, err)
				}
				if _, err := veth.Prune(l.opts, func(string) bool { return false }); err != nil {
					t.Errorf("killed at step %d: Prune: %v", step, err)
				}
			} else if err := veth.Teardown("vpn", l.jail.Namespace); err != nil {
				t.Errorf("killed at step %d: Teardown: %v", step, err)
			}
			if d := world.Diff(host, l.host.Snapshot(t)); d != "" {
				t.Fatalf("killed at step %d, left on the host:\n%s", step, d)
			}
			if d := world.Diff(jail, withoutMarks(l.jail.Snapshot(t))); d != "" {
				t.Fatalf("killed at step %d, left in the jail:\n%s", step, d)
			}
			if !killed {
				if step < 30 {
					t.Fatalf("only %d steps", step)
				}
				return
			}
		}
	})
}

// crash runs a process that dies at a step, and reports whether it did.
func crash(t *testing.T, l *lab, step int) bool {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", crashVar, step))
	var out []byte
	err := l.host.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || status.Signal() != unix.SIGKILL {
		t.Fatalf("step %d: %v: %s", step, err, out)
	}
	return true
}
