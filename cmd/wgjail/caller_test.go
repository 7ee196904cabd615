package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// eachCaller runs a test of what jails promise twice, each time in a lab of its
// own: with wgjail called by root, and by an ordinary user. Where the kernel's
// WireGuard is tested, it is root alone who can have that.
func eachCaller(t *testing.T, fn func(*testing.T, *lab)) {
	t.Run("root", func(t *testing.T) {
		world.Run(t, func(t *testing.T, w *world.World) { fn(t, newLab(t, w)) })
	})
	if kernelBackend() {
		return
	}
	t.Run("user", func(t *testing.T) {
		world.Run(t, func(t *testing.T, w *world.World) { fn(t, newUserLab(t, w)) })
	})
}

// newUserLab builds a lab whose wgjail is called by an ordinary user.
func newUserLab(t *testing.T, w *world.World) *lab {
	t.Helper()
	return newLab(t, w).as(t, "ann")
}

// as returns the lab with wgjail called by a new ordinary user of this name, who
// has the configuration vpn.conf at home.
func (l *lab) as(t *testing.T, name string) *lab {
	t.Helper()
	u := *l
	u.user = l.w.User(t, name)
	u.conf = u.Conf(t, "vpn")
	return &u
}

// Conf is that of world.Lab, for whoever calls wgjail.
func (l *lab) Conf(t testing.TB, name string) string {
	t.Helper()
	path := l.Lab.Conf(t, name)
	if l.user == nil {
		return path
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(l.user.Home, filepath.Base(path))
	if err := errors.Join(os.WriteFile(own, text, 0o600), l.user.Own(own)); err != nil {
		t.Fatal(err)
	}
	return own
}

// command is wgjail with these arguments, called by whoever calls it here.
func (l *lab) command(args ...string) *exec.Cmd {
	if l.user != nil {
		return l.user.Command("wgjail", args...)
	}
	return exec.Command("wgjail", args...)
}

// keeper returns the process of the keeper of the jail vpn.
func (l *lab) keeper(t *testing.T) int {
	t.Helper()
	if l.user != nil {
		return keeperIn(t, l.state())
	}
	return keeperPid(t)
}

// jail returns the namespace of the jail vpn. A user's has its name in the mount
// namespace that its keeper is in.
func (l *lab) jail(t *testing.T) *world.Node {
	t.Helper()
	if l.user != nil {
		return l.w.OpenAt(t, "vpn", fmt.Sprintf("/proc/%d/root/run/netns/vpn", l.keeper(t)))
	}
	return l.w.Open(t, "vpn")
}

// hold keeps the jail vpn, whatever becomes of its keeper. A user's jail lasts as
// long as a process that is in the user's world, such as a forward.
func (l *lab) hold(t *testing.T) {
	t.Helper()
	if l.user != nil {
		l.do(t, "forward", "-d", "9999")
	}
}

// backend is what this caller's jails use here.
func (l *lab) backend() string {
	if l.user != nil {
		return "userspace"
	}
	return backend()
}

// programs are whom exec runs programs as here, by its options.
func (l *lab) programs() [][]string {
	if l.user != nil {
		return [][]string{{}}
	}
	return [][]string{{"--user", "0"}, {"--user", "65534:65534"}}
}
