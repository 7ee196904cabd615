package veth

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockPath is held by whoever changes pairs or rules. It is the folder of all
// jails: a file for the lock could not be made where there is no room, and then
// nothing could be cleared up either. Package jail holds it too, for moments.
const lockPath = "/run/wgjail"

// lock keeps other processes from choosing the same addresses, and from seeing
// a jail's rules half changed. The holder lets go with the returned function. It
// is held for milliseconds, and never while another lock is waited for.
func lock() (unlock func(), err error) {
	for {
		if err := os.MkdirAll(lockPath, 0o700); err != nil {
			return nil, err
		}
		f, err := os.Open(lockPath)
		if errors.Is(err, os.ErrNotExist) {
			continue // the folder was removed by a holder that let go
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: lockPath, Err: err}
		}
		mine, err := f.Stat()
		if now, nowErr := os.Stat(lockPath); err == nil && nowErr == nil && os.SameFile(mine, now) {
			return func() {
				os.Remove(lockPath) // if it is empty
				f.Close()
			}, nil
		}
		f.Close() // removed while this waited
	}
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
