package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
	"github.com/wgjail/wgjail/veth"
)

// vethForward are the arguments of the forward that meets faults.
func vethForward(more ...string) []string {
	return append([]string{"forward", "--mode", "veth", "--drain-timeout", "0"}, append(more, "8080:80", "8081:81/udp")...)
}

// A vethLab is a lab with the jail vpn, and what it was like before its forward met
// a fault.
type vethLab struct {
	*lab
	before, up string
	turn       int
}

func newVethLab(t *testing.T, w *world.World) *vethLab {
	l := &vethLab{lab: newLab(t, w)}
	l.before = w.Snapshot(t)
	l.begin(t)
	return l
}

// begin makes the jail.
func (l *vethLab) begin(t *testing.T) {
	l.quiet(t, "up", l.conf)
	keeperBegun(t)
	l.up = l.snapshot(t)
}

// whole wants a forward that is there to be whole, by itself or after another
// command, and another one to be possible if there is none.
func (l *vethLab) whole(t *testing.T) {
	t.Helper()
	service := serve(t, l.w.Open(t, "vpn"), "app", "tcp", "[::]:80")
	defer service.Close()
	world.Eventually(t, "a forward that is whole", func() error { // it can be killed at any time
		s, err := jail.ReadStatus("vpn")
		if err != nil {
			return err
		}
		if len(s.Forwards) == 0 {
			l.quiet(t, vethForward("-d")...)
		}
		if s.State != jail.StateUp {
			return fmt.Errorf("it is %s: %q", s.State, s.Missing)
		}
		for to, from := range map[string]string{world.HostLANV4: world.LANV4, "[" + world.HostLANV6 + "]": world.LANV6} {
			if _, seen, err := greet(l.LAN, to+":8080"); err != nil || seen.String() != from {
				return fmt.Errorf("a client of %s is seen as %s (%w), want %s", to, seen, err, from)
			}
		}
		return nil
	})
}

// gone wants nothing to be left of the forward when it has been stopped, and in
// every other turn nothing of the jail after down.
func (l *vethLab) gone(t *testing.T) {
	t.Helper()
	if l.turn++; l.turn%2 == 0 {
		l.quiet(t, "down", "vpn")
		l.unchanged(t, l.before, "down")
		l.begin(t)
		return
	}
	world.Eventually(t, "a jail without forwards", func() error { // whoever is killed while it stops leaves that to the next
		l.quiet(t, "forward", "--stop")
		if diff := world.Diff(l.up, l.snapshot(t)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// snapshot is of the world and the jail's network. One switch in the jail stays: it
// does nothing without a packet that is marked.
func (l *vethLab) snapshot(t *testing.T) string {
	return without(l.w.Snapshot(t)+l.w.Open(t, "vpn").Snapshot(t), "forward.log", "/tcp_fwmark_accept ")
}

// A veth forward whose start met a fault is whole, or has failed and can be made
// again.
func TestVethForwardWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newVethLab(t, w)
		eachFault(t, 100, 467, func(t *testing.T, f *fault.Fault) {
			l.withFault(t, f, exec.Command("wgjail", vethForward("-d")...)).sane(t, f)
			l.whole(t)
			l.gone(t)
		})
	})
}

// One that meets a fault while it repairs its rules and its pair, or ends them, is
// repaired by the next look, or can be made again.
func TestVethServesWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newVethLab(t, w)
		eachFault(t, 100, 467, func(t *testing.T, f *fault.Fault) {
			f.Later = true
			cmd := exec.Command("wgjail", vethForward()...)
			cmd.Env = append(os.Environ(), faultVariable+"=1")
			p := l.Host.Start(t, cmd)
			if err := f.Watch(p.Pid); err != nil {
				t.Fatal(err)
			}
			p.WaitOutput(t, "forwarding 8081:81/udp")
			f.Begin()
			l.Host.Run(t, "sh", "-ec", "ip6tables -t nat -F; ip link delete "+veth.HostLink("vpn"))
			l.whole(t)
			p.Signal(t, syscall.SIGTERM)
			p.Wait()
			f.Stop()
			l.gone(t)
		})
	})
}

// A stop that met a fault is done by the next command.
func TestVethStopWithFaults(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newVethLab(t, w)
		for _, command := range []string{"forward --stop", "down vpn"} {
			t.Run(command, func(t *testing.T) {
				eachFault(t, 10, 311, func(t *testing.T, f *fault.Fault) {
					p := l.Host.Start(t, exec.Command("wgjail", vethForward()...))
					p.WaitOutput(t, "forwarding 8081:81/udp")
					p.Signal(t, syscall.SIGKILL)
					p.Wait()
					l.withFault(t, f, exec.Command("wgjail", strings.Fields(command)...)).sane(t, f)
					l.quiet(t, "down", "vpn")
					l.unchanged(t, l.before, "down")
					l.begin(t)
				})
			})
		}
	})
}

// iptables that fails once, before it has done anything or after, or is killed.
func TestVethForwardWithFailingCommands(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newVethLab(t, w)
		first, stride := whichFaults(41)
		for _, how := range []string{"exit 4", "kill -9 $$", `"$real" "$@"; exit 4`} {
			n := first
			for ; ; n += stride {
				dir := failingCommands(t, l.Host, n, how)
				forward := exec.Command("wgjail", vethForward()...)
				forward.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
				p := l.Host.Start(t, forward)
				world.Eventually(t, "the forward's start or end", func() error {
					select {
					case <-p.Done():
						return nil
					default:
					}
					if !strings.Contains(p.Output(), "forwarding 8081:81/udp") {
						return errors.New("neither")
					}
					return nil
				})
				l.Host.Run(t, "sh", "-ec", "iptables -t nat -F")
				l.whole(t)
				p.Signal(t, syscall.SIGTERM)
				p.Wait()
				l.gone(t)
				if t.Failed() {
					t.Fatalf("that was with the command %d: %s", n, how)
				}
				if calls := commandCalls(t, dir); calls < n {
					break
				}
			}
			if n < 10 {
				t.Errorf("there were only %d commands", n)
			}
		}
	})
}

// failingCommands makes a folder of iptables commands of which the nth that is
// started does what the shell script how says, once.
func failingCommands(t *testing.T, host *world.Node, n int, how string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, tool := range []string{"", "-save", "-restore"} {
			real, err := exec.LookPath(name + tool)
			if err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf("#!/bin/sh\nreal=%s\nn=$(flock %s/lock sh -c 'echo >>%[2]s/calls; wc -l <%[2]s/calls')\nif [ $n -eq %d ]; then %s; fi\nexec $real \"$@\"\n", real, dir, n, how)
			if err := os.WriteFile(filepath.Join(dir, name+tool), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// commandCalls returns how many of them have been started.
func commandCalls(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return len(text)
}
