package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// hooked writes a configuration with two commands at each moment. Each of them
// appends to the file that is returned its moment, its number, the interface's
// name, the namespace, and what is there.
func (l *lab) hooked(t *testing.T) (conf, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	var lines []string
	for _, moment := range []string{"PreUp", "PostUp", "PreDown", "PostDown"} {
		for n := range 2 {
			lines = append(lines, fmt.Sprintf("%s = echo %s %d %%i $(readlink /proc/self/ns/net) $(id -u) $(ls /sys/class/net) $(ip -4 route show default) >> %s",
				moment, moment, n+1, log))
		}
	}
	return l.write(t, "vpn", "Address = 10.64.0.2/32\n"+strings.Join(lines, "\n"), "AllowedIPs = 0.0.0.0/0\nEndpoint = "+l.Client.Endpoint), log
}

func TestHooksAreNotRun(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		conf, log := l.hooked(t)
		r := l.run(t, "up", conf)
		if want := "vpn.conf:4: PreUp would run a command: ignored unless --allow-hooks is given"; !strings.Contains(r.err, want) {
			t.Errorf("no warning in:\n%s", r.err)
		}
		l.do(t, "down", "vpn")
		if text, err := os.ReadFile(log); err == nil {
			t.Errorf("commands were run:\n%s", text)
		}
	})
}

func TestHooksAreRunInside(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		conf, log := l.hooked(t)
		before := w.Snapshot(t)
		if r := l.run(t, "up", "--allow-hooks", conf); r.status != 0 || strings.Contains(r.err, "allow-hooks") {
			t.Errorf("up ended with %+v", r)
		}
		id := w.Open(t, "vpn").ID()
		// Neither a repair nor a second up runs them again, and no crash makes
		// them forgotten.
		l.Host.Run(t, "ip", "netns", "exec", "vpn", "ip", "route", "del", "default")
		l.killedAt(t, 8, "up", "up", "--allow-hooks", conf)
		l.do(t, "up", "--allow-hooks", conf)
		l.do(t, "up", "--allow-hooks", conf)
		l.do(t, "down", "vpn")
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var want string
		for _, tt := range []struct{ moment, sees string }{
			{"PreUp", "lo vpn"},
			{"PostUp", "lo vpn default dev vpn scope link"},
			{"PreDown", "lo vpn default dev vpn scope link"},
			{"PostDown", "lo"},
		} {
			for n := range 2 {
				want += fmt.Sprintf("%s %d vpn %v 0 %s\n", tt.moment, n+1, id, tt.sees)
			}
		}
		if string(text) != want {
			t.Errorf("the commands wrote\n%swant\n%s", text, want)
		}
		l.unchanged(t, before, "down")
	})
}

// A PreDown that fails or hangs does not keep the jail, and down says so.
func TestDownGoesOnPastHooks(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.do(t, "up", "--allow-hooks", l.write(t, "vpn", "Address = 10.64.0.2/32\nPreDown = exit 4", "Endpoint = "+l.Client.Endpoint))
		l.refused(t, 1, []string{"PreDown = exit 4: exit status 4"}, "down", "vpn")
		l.run(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}
