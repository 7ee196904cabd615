package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A user's NAME stands for a file of the user's before it stands for root's.
func TestRootlessConfigByName(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		text, err := os.ReadFile(l.conf)
		if err != nil {
			t.Fatal(err)
		}
		put := func(path string, mode os.FileMode, own func(string) error) {
			t.Helper()
			if err := errors.Join(os.WriteFile(path, text, mode), own(path)); err != nil {
				t.Fatal(err)
			}
		}
		folder := func(path ...string) string {
			t.Helper()
			dir := l.user.Home
			for _, p := range path {
				dir = filepath.Join(dir, p)
				if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
					t.Fatal(err)
				}
				if err := l.user.Own(dir); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		}
		call := func(config string, args ...string) result {
			t.Helper()
			cmd := l.command(args...)
			cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+config)
			return l.runCmd(t, cmd)
		}
		root := func(string) error { return nil }
		if err := os.MkdirAll("/etc/wireguard", 0o755); err != nil {
			t.Fatal(err)
		}
		put("/etc/wireguard/work.conf", 0o600, root)
		own := filepath.Join(l.user.Home, ".config/wireguard/work.conf")
		l.refused(t, 1, []string{"/etc/wireguard/work.conf: permission denied",
			"hint: take a copy of your own: sudo cat /etc/wireguard/work.conf | install -D -m 600 /dev/stdin " + own + "; or run it with sudo\n"}, "up", "work")
		l.refused(t, 1, []string{"hint: a bare name stands for " + l.user.Home + "/.config/wireguard/none.conf or /etc/wireguard/none.conf; give any other"}, "up", "none")

		put(filepath.Join(folder(".config", "wireguard"), "work.conf"), 0o600, l.user.Own)
		other := folder("settings")
		put(filepath.Join(folder("settings", "wireguard"), "other.conf"), 0o600, l.user.Own)
		for _, tt := range []struct{ config, name string }{{"", "work"}, {"relative", "work"}, {other, "other"}} {
			if r := call(tt.config, "run", tt.name, "--", "true"); r.status != 0 || !strings.Contains(r.err, "jail "+tt.name+" is up") {
				t.Errorf("with %q: %+v", tt.config, r)
			}
		}
		// Root's file is for all where there is no own one.
		if r := call(other, "run", "work", "--", "true"); r.status != 1 || !strings.Contains(r.err, "permission denied") {
			t.Errorf("root's file: %+v", r)
		}
		if err := os.Chmod("/etc/wireguard/work.conf", 0o644); err != nil {
			t.Fatal(err)
		}
		if r := call(other, "run", "work", "--", "true"); r.status != 0 {
			t.Errorf("root's file, open to all: %+v", r)
		}
		for config, want := range map[string]string{"": "work", other: "other"} {
			if r := call(config, "__complete", "up", want[:1]); !offers(r.out, want) {
				t.Errorf("with %q, not offered: %s:\n%s", config, want, r.out)
			}
		}
	})
}

// Users are offered their own jails, and told where root's are seen.
func TestRootlessNames(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		rooted := newLab(t, w)
		l := rooted.as(t, "ann")
		before := w.Snapshot(t)
		status := func(hinted bool) {
			t.Helper()
			const want = "wgjail: hint: these are your own; root's jails are shown by: sudo wgjail status\n"
			if r := l.run(t, "status"); r.status != 0 || (r.err == want) != hinted || !hinted && r.err != "" {
				t.Errorf("hinted %v: %+v", hinted, r)
			}
			if r := l.run(t, "status", "--json"); r.err != "" {
				t.Errorf("as JSON: %+v", r)
			}
		}
		offered := func(want ...string) {
			t.Helper()
			out := l.do(t, "__complete", "down", "")
			for _, name := range []string{"vpn", "own"} {
				wanted := strings.Contains(strings.Join(want, " "), name)
				if offers(out, name) != wanted || strings.Count(out, name+"\n") > 1 {
					t.Errorf("%s is offered: %v, in:\n%s", name, !wanted, out)
				}
			}
		}
		status(false)
		offered()
		l.unchanged(t, before, "looking")
		rooted.up(t)
		status(true)
		offered("vpn")
		if err := os.Rename(l.conf, filepath.Join(l.user.Home, "own.conf")); err != nil {
			t.Fatal(err)
		}
		l.do(t, "up", "own.conf")
		status(false)
		offered("vpn", "own")
		rooted.do(t, "down", "vpn")
		offered("own")
		l.do(t, "down", "own")
		status(false)
		offered()
		if err := os.Rename(filepath.Join(l.user.Home, "own.conf"), l.conf); err != nil {
			t.Fatal(err)
		}
		l.unchanged(t, before, "down")
	})
}
