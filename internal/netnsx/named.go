package netnsx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dir is where ip-netns(8) keeps its names, and so do podman and systemd.
const Dir = "/run/netns"

// Path returns the file of the namespace called name.
func Path(name string) string { return filepath.Join(Dir, name) }

// OpenNamed opens the namespace called name, as ip-netns(8) knows it.
func OpenNamed(name string) (*Namespace, error) { return Open(Path(name)) }

// New makes a network namespace without a name. It exists until it is closed
// and nothing runs in it.
func New() (*Namespace, error) {
	var n *Namespace
	err := inFresh(func() (err error) {
		n, err = Current()
		return err
	})
	return n, err
}

// Create makes a network namespace called name and returns it open. The error
// is os.ErrExist if the name is taken; nothing is changed then. PrepareDir must
// have been called.
func Create(name string) (*Namespace, error) {
	return named(name, func() (n *Namespace, err error) {
		err = inFresh(func() error {
			n, err = mountName(name, "/proc/thread-self/ns/net")
			return err
		})
		return n, err
	})
}

// Attach gives the name to the namespace that the file at path stands for, such
// as one that has lost its name, and returns it open. Otherwise it is Create.
func Attach(name, path string) (*Namespace, error) {
	return named(name, func() (*Namespace, error) { return mountName(name, path) })
}

// named makes the file of a name and has mount fill it, or removes it again.
func named(name string, mount func() (*Namespace, error)) (*Namespace, error) {
	path := Path(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, err
	}
	f.Close()
	n, err := mount()
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	return n, nil
}

// mountName opens the namespace that the file at from stands for, and mounts it
// on the name's file.
func mountName(name, from string) (*Namespace, error) {
	n, err := Open(from)
	if err != nil {
		return nil, err
	}
	path := Path(name)
	if err := unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", n.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		n.Close()
		return nil, &os.PathError{Op: "mount namespace", Path: path, Err: err}
	}
	return n, nil
}

// inFresh calls fn on a thread that is in a new network namespace and that dies
// afterwards: leaving the lock in place is cheaper than going back.
func inFresh(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", os.NewSyscallError("unshare", err))
			return
		}
		done <- fn()
	}()
	return <-done
}

// Remove takes the name away. The namespace itself ends with its last process,
// socket or handle. It is not an error if there is no such name.
func Remove(name string) error {
	path := Path(name)
	for { // a name can be mounted over more than once
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return &os.PathError{Op: "unmount namespace", Path: path, Err: err}
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// DirMounted reports whether Dir is a mount of its own, as ip-netns(8) makes it.
func DirMounted() bool {
	var dir, parent unix.Statx_t
	const flags, mask = unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID
	if unix.Statx(unix.AT_FDCWD, Dir, flags, mask, &dir) != nil {
		return false
	}
	if unix.Statx(unix.AT_FDCWD, filepath.Dir(Dir), flags, mask, &parent) != nil {
		return false
	}
	return dir.Mnt_id != parent.Mnt_id
}
