package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A session is what programs of a user talk to on a desktop: its bus, a terminal
// multiplexer, a container engine, displays. They are real where Debian has small
// ones.
const (
	sessionUID  = 7000
	sessionDir  = "/run/user/7000"
	sessionUser = "7000:7000"
)

// escapes are ways in which a program gets something done outside, by shell
// commands that succeed where it can.
var escapes = map[string]string{
	"the session's bus":        "dbus-send --bus=unix:path=" + sessionDir + "/bus --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames",
	"tmux":                     "tmux -S /tmp/tmux-7000/default new-window -d true",
	"docker":                   "curl -sfm 20 --unix-socket /run/docker.sock http://docker/version",
	"docker, at /var/run":      "curl -sfm 20 --unix-socket /var/run/docker.sock http://docker/version",
	"X11":                      "probe -dial /tmp/.X11-unix/X0",
	"Wayland":                  "probe -dial " + sessionDir + "/wayland-0",
	"an agent":                 "probe -dial /tmp/ssh-abc/agent.1",
	"the bus, by its variable": "dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames",
	"tmux, by its variable":    "tmux new-window -d true",
}

// newSession starts all of it.
func newSession(t *testing.T, l *lab) {
	t.Helper()
	if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
		t.Fatal(err)
	}
	passwd := readText(t, "/etc/passwd") + "ann:x:7000:7000::/:/bin/sh\n" // D-Bus looks for it
	if err := os.WriteFile("/etc/passwd", []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{sessionDir, "/tmp/tmux-7000", "/tmp/.X11-unix", "/tmp/ssh-abc"} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, sessionUID, sessionUID)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/tmp/.X11-unix/X0", "@/tmp/.X11-unix/X0", sessionDir + "/wayland-0", "/tmp/ssh-abc/agent.1"} {
		serveUnix(t, path)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"Version":"0"}`) })}
	t.Cleanup(func() { engine.Close() })
	go engine.Serve(serveUnix(t, "/run/docker.sock"))
	for socket, command := range map[string]string{
		sessionDir + "/bus":      "dbus-daemon --session --nofork --nopidfile --address=unix:path=" + sessionDir + "/bus",
		"/tmp/tmux-7000/default": "tmux -D -S /tmp/tmux-7000/default",
	} {
		l.Host.Start(t, asSession("sh", "-c", "exec "+command))
		world.Eventually(t, socket, func() error {
			_, err := os.Stat(socket)
			return err
		})
	}
	l.Host.Run(t, "setpriv", "--reuid=7000", "--regid=7000", "--clear-groups", "tmux", "-S", "/tmp/tmux-7000/default", "new-session", "-d", "sleep", "1000")
}

// serveUnix listens where everybody may connect, and lets nobody wait.
func serveUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if filepath.IsAbs(path) {
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// asSession is a command of the session's user.
func asSession(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: sessionUID, Gid: sessionUID}}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HOME=/", "DBUS_SESSION_BUS_ADDRESS=unix:path="+sessionDir+"/bus", "XDG_RUNTIME_DIR="+sessionDir, "TMUX=/tmp/tmux-7000/default,1,0")
	return cmd
}

// With --isolate a program reaches nothing of its user's session; without, it
// reaches all that has a path, as the README says. What has none, such as X11's
// abstract socket, is out of reach of the namespace alone.
func TestIsolateHidesTheSession(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		newSession(t, l)
		asUser := []string{"--user", sessionUser}
		if l.user != nil {
			l.user = &world.User{Name: "ann", UID: sessionUID, GID: sessionUID, Home: t.TempDir(), Runtime: sessionDir}
			for _, dir := range []string{l.user.Home, filepath.Dir(l.user.Home)} {
				if err := l.user.Own(dir); err != nil {
					t.Fatal(err)
				}
			}
			l.conf, asUser = l.Conf(t, "vpn"), nil
		}
		l.up(t)
		call := func(args ...string) result {
			cmd := asSession("wgjail", args...)
			if l.user == nil {
				cmd.SysProcAttr = nil // root calls it
			}
			return l.runCmd(t, cmd)
		}
		in := func(command string, args ...string) result {
			return call(append(append(append(args, asUser...), "vpn", "--"), "sh", "-c", command)...)
		}
		for name, command := range escapes {
			if r, err := runIn(l.Host, asSession("sh", "-c", command)); err != nil || r.status != 0 {
				t.Errorf("the control, %s on the host: %+v, %v", name, r, err)
			}
			if r := in(command, "exec"); r.status != 0 {
				t.Errorf("%s without --isolate: %+v", name, r)
			}
			if r := in(command, "exec", "--isolate"); r.status == 0 {
				t.Errorf("%s with --isolate: %+v", name, r)
			}
		}
		const abstract = "probe -dial @/tmp/.X11-unix/X0"
		if r, err := runIn(l.Host, asSession("sh", "-c", abstract)); err != nil || r.status != 0 {
			t.Errorf("the control, X11's abstract socket: %+v, %v", r, err)
		}
		if r := in(abstract, "exec"); r.status == 0 {
			t.Errorf("X11's abstract socket is reached: %+v", r)
		}
		// run takes it too.
		l.do(t, "down", "vpn")
		script := "true"
		for _, command := range escapes {
			script += "; " + command + " && echo escaped"
		}
		if r := call(append(append([]string{"run", "--isolate"}, asUser...), l.conf, "--", "sh", "-c", script)...); strings.Contains(r.out, "escaped") || !strings.Contains(r.err, "jail vpn is down") {
			t.Errorf("run --isolate: %+v", r)
		}
	})
}
