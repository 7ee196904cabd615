package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A User is an ordinary user of the world: a user and a group of its own, no
// other groups, no rights, and what a login gives. It is in /etc/passwd.
type User struct {
	Name     string
	UID, GID int
	Home     string // the working directory of what it starts
	Runtime  string // $XDG_RUNTIME_DIR
}

// firstUser and firstGroup number users and their groups: nobody on any machine,
// and not the same, so that one taken for the other is seen.
const firstUser, firstGroup = 12001, 13001

// User makes an ordinary user called name, who may make tunnel interfaces in user
// namespaces of its own: in the world /dev/net/tun is a node that all may open,
// and not the machine's.
func (w *World) User(t testing.TB, name string) *User {
	t.Helper()
	u := &User{Name: name, UID: firstUser + w.users, GID: firstGroup + w.users}
	u.Runtime = filepath.Join("/run/user", fmt.Sprint(u.UID))
	if w.users == 0 {
		if err := privateTun(); err != nil {
			t.Fatalf("make /dev/net/tun: %v", err)
		}
	}
	w.users++
	var err error
	if u.Home, err = os.MkdirTemp("", "home"); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.Mkdir(u.Runtime, 0o700), u.Own(u.Runtime), u.Own(u.Home),
		appendLine("/etc/passwd", "%s:x:%d:%d::%s:/bin/sh\n", name, u.UID, u.GID, u.Home),
		appendLine("/etc/group", "%s:x:%d:\n", name, u.GID))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Own gives the user a file or an empty directory.
func (u *User) Own(path string) error { return os.Chown(path, u.UID, u.GID) }

// Command returns a command that runs as the user after a login. What starts
// commands in a node starts it.
func (u *User) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = u.Home
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ofSession),
		"HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name, "SHELL=/bin/sh", "XDG_RUNTIME_DIR="+u.Runtime)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
	return cmd
}

// ofSession reports whether a variable tells of the session of whoever runs the
// tests.
func ofSession(variable string) bool {
	return slices.ContainsFunc([]string{"XDG_", "DBUS_", "SUDO_", "DOAS_", "PKEXEC_", "MAIL="}, func(prefix string) bool {
		return strings.HasPrefix(variable, prefix)
	})
}

// privateTun mounts a node of the world's own on /dev/net/tun.
func privateTun() error {
	dir, err := os.MkdirTemp("", "tun")
	if err != nil {
		return err
	}
	if err := unix.Mount("tun", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755"); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) // the node stays where it is bound
	node := filepath.Join(dir, "tun")
	return errors.Join(
		unix.Mknod(node, unix.S_IFCHR, int(unix.Mkdev(10, 200))),
		os.Chmod(node, 0o666), // whatever the umask
		unix.Mount(node, "/dev/net/tun", "", unix.MS_BIND, ""))
}

// appendLine adds a line to the end of a file.
func appendLine(path, format string, args ...any) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format, args...)
	return errors.Join(err, f.Close())
}
