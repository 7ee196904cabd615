package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// Machines that lack something which users' jails could use.

// mask mounts an empty tmpfs on path for as long as the test runs.
func mask(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mount("mask", path, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// Where a part of /sys is covered, as in containers, the kernel refuses users
// one that shows the jail's devices. It shows none then, and none of the host's.
func TestRootlessMaskedSys(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		const look = `find /sys -name lan0 -o -name lo -o -name vpn -o -name net; echo $(ls /sys) in $(pwd)
test -r /sys/devices/system/cpu/online && test -d /sys/fs/cgroup && ! touch /sys/x 2>/dev/null && echo the rest`
		if out := l.do(t, "run", "vpn.conf", "--", "ls", "/sys/class/net"); out != "lo\nvpn\n" {
			t.Errorf("without a mask the devices are %q", out)
		}
		mask(t, "/sys/module")
		before := w.Snapshot(t)
		if out := l.Host.Run(t, "find", "/sys/devices/virtual/net", "-name", "lan0"); out == "" {
			t.Error("the host has nothing to hide")
		}
		l.do(t, "up", "vpn.conf")
		cmd := l.user.Command("wgjail", "--debug", "exec", "vpn", "--", "sh", "-c", look)
		cmd.Dir = "/sys/class/net"
		r := l.runCmd(t, cmd)
		if r.status != 0 || r.out != "devices fs kernel in /\nthe rest\n" {
			t.Errorf("it ended with %+v", r)
		}
		if !strings.Contains(r.err, "/sys shows no devices in the jail") {
			t.Errorf("the log does not tell: %s", r.err)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// Without a device for tunnels one error says what to do.
func TestRootlessWithoutTUN(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		for _, tt := range []struct {
			name  string
			spoil func(path string) error
			says  []string
		}{
			{"missing", nil, []string{"open /dev/net/tun: no such file or directory", "hint: as root: modprobe tun; a container needs --device /dev/net/tun"}},
			{"root's", func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))) },
				[]string{"open /dev/net/tun: permission denied", "hint: sudo chmod 0666 /dev/net/tun"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				mask(t, "/dev/net")
				if tt.spoil != nil {
					if err := tt.spoil("/dev/net/tun"); err != nil {
						t.Fatal(err)
					}
				}
				before := w.Snapshot(t)
				for _, args := range [][]string{{"up", "vpn.conf"}, {"run", "vpn.conf", "--", "true"}} {
					r := l.run(t, args...)
					for _, text := range append(tt.says, "error: jail vpn: make the TUN interface: ", "; wgjail check --rootless says whether more is missing\n") {
						if r.status != 1 && r.status != 125 || r.out != "" || strings.Count(r.err, text) != 1 {
							t.Errorf("%q: exit status %d, no %q in:\n%s", args, r.status, text, r.err)
						}
					}
					if strings.Count(r.err, "\n") != 2 {
						t.Errorf("%q: there is more than one error and its hint:\n%s", args, r.err)
					}
					l.unchanged(t, before, "the failure")
				}
			})
		}
		l.do(t, "run", "vpn.conf", "--", "true")
	})
}

// A mark leads packets where the host's rules say. Nothing is sent without it.
func TestRootlessFwMark(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		text, err := os.ReadFile(l.conf)
		if err != nil {
			t.Fatal(err)
		}
		before := w.Snapshot(t)
		for _, tt := range []struct {
			mark   string
			status int
			says   string
		}{
			{"0x1234", 1, "error: FwMark = 0x1234: only root can mark packets on the host\nwgjail: hint: without it the host's usual routes hold for the tunnel: take the line out if that is well; or try again with sudo\n"},
			{"off", 0, ""},
		} {
			marked := strings.Replace(string(text), "[Interface]\n", "[Interface]\nFwMark = "+tt.mark+"\n", 1)
			if err := os.WriteFile(filepath.Join(l.user.Home, "vpn.conf"), []byte(marked), 0o600); err != nil {
				t.Fatal(err)
			}
			r := l.run(t, "up", "vpn.conf")
			if r.status != tt.status || !strings.Contains(r.err, tt.says) {
				t.Errorf("FwMark = %s: %+v", tt.mark, r)
			}
			l.do(t, "down", "vpn")
			l.unchanged(t, before, "down")
		}
	})
}
