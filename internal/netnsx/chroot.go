package netnsx

import (
	"os"

	"golang.org/x/sys/unix"
)

// LeaveChroot makes the root of its mount namespace the root and the working
// directory of the calling thread, which must share them with no other thread:
// that is what entering a mount namespace does, even one's own (setns(2)).
func LeaveChroot() error {
	const own = "/proc/thread-self/ns/mnt"
	ns, err := unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: own, Err: err}
	}
	defer unix.Close(ns)
	return os.NewSyscallError("setns", unix.Setns(ns, unix.CLONE_NEWNS))
}
