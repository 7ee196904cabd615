package veth

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockPath is held by whoever changes pairs or rules. It exists only meanwhile.
const lockPath = "/run/wgjail/.veth.lock"

// lock keeps other processes from choosing the same addresses, and from seeing
// a jail's rules half changed. The holder lets go with the returned function. It
// is held for milliseconds, and never while another lock is waited for.
func lock() (unlock func(), err error) {
	for {
		if err := os.MkdirAll(filepath.Dir(lockPath), 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(lockPath, os.O_CREATE|os.O_RDWR, 0o600)
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
				os.Remove(lockPath)
				f.Close()
				os.Remove(filepath.Dir(lockPath)) // if it was the last file
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
