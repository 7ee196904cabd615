package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// capabilitiesOf returns the capability sets that any thread of a process has,
// in /proc's words (proc(5)): "CapEff:0000000000001000", for example.
func capabilitiesOf(t *testing.T, pid int) map[string]bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads of process %d: %v", pid, err)
	}
	sets := map[string]bool{}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			value = strings.TrimSpace(value)
			if strings.HasPrefix(name, "Cap") && strings.Trim(value, "0") != "" || name == "NoNewPrivs" && value != "1" {
				sets[name+":"+value] = true
			}
		}
	}
	return sets
}

// crowd has many clients at once be greeted from the LAN, so that the forward
// needs its threads.
func (l *lab) crowd(t *testing.T, addr, banner string) {
	t.Helper()
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 10 {
				if got, _, err := greet(l.LAN, addr); got != banner || err != nil {
					t.Errorf("banner %q, error %v", got, err)
				}
			}
		})
	}
	g.Wait()
}

// Once its ports are open a forward has no capability left, in any thread, and
// works, logs, is stopped and clears up without.
func TestForwardDropsCapabilities(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp4", "127.0.0.1:80")
		settled(t, "vpn")
		before := w.Snapshot(t)
		if sets := capabilitiesOf(t, keeperPid(t)); len(sets) == 0 {
			t.Error("the keeper has no capabilities either: this test sees none") // the positive control
		}
		for _, detach := range []string{"--detach=false", "--detach"} {
			p := l.forward(t, detach, "--allow", world.LANV4, "80", "8081:80", "9000-9009", "5353:53/udp")
			pid := l.status(t).Forwards[0].PID
			if sets := capabilitiesOf(t, pid); len(sets) != 0 {
				t.Errorf("%s: the forward has %v", detach, sets)
			}
			l.crowd(t, world.HostLANV4+":80", "app")
			mustBeReset(t, l.Host, "127.0.0.1:80") // and this is logged
			if sets := capabilitiesOf(t, pid); len(sets) != 0 {
				t.Errorf("%s: after some work the forward has %v", detach, sets)
			}
			world.Eventually(t, "the log", func() error {
				log := p.Output()
				if detach == "--detach" {
					text, err := os.ReadFile("/run/wgjail/vpn/forward.log")
					if err != nil {
						return err
					}
					log = string(text)
				}
				if !strings.Contains(log, "client refused") {
					return fmt.Errorf("it says %q", log)
				}
				return nil
			})
			l.do(t, "forward", "--stop", "80")
			l.crowd(t, world.HostLANV4+":8081", "app")
			if detach == "--detach" {
				l.do(t, "forward", "--stop")
			} else {
				p.Signal(t, syscall.SIGTERM)
			}
			p.Wait()
			world.Eventually(t, "the end of "+detach, func() error {
				if diff := world.Diff(without(before, "forward.log"), without(w.Snapshot(t), "forward.log")); diff != "" {
					return fmt.Errorf("left behind:\n%s", diff)
				}
				return nil
			})
		}
	})
}

// A forward into a namespace whose file only its owner, or a capability, can
// look at goes on, and still sees the end of it.
func TestForwardWatchesWithoutCapabilities(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		app := w.Namespace(t, "app")
		app.Addr(t, "lo", "192.0.0.8/32")
		serve(t, app, "app", "tcp4", "127.0.0.1:80")
		dir := t.TempDir()
		file := filepath.Join(dir, "ns")
		l.Host.Run(t, "sh", "-ec", fmt.Sprintf("touch %s; mount --bind /run/netns/app %[1]s; chown 1000 %s; chmod 700 %[2]s", file, dir))
		p := l.forward(t, "--netns", file, "8080:80")
		sets := capabilitiesOf(t, p.Pid)
		if len(sets) != 2 || !sets["CapPrm:0000000000000004"] || !sets["CapEff:0000000000000004"] {
			t.Errorf("the forward has %v; want CAP_DAC_READ_SEARCH and no other", sets)
		}
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		l.Host.Run(t, "umount", "-l", file)
		if err := p.Wait(); err == nil || !strings.Contains(p.Output(), "was removed: the forward has ended\n") {
			t.Errorf("the forward ended with %v and printed:\n%s", err, p.Output())
		}
	})
}
