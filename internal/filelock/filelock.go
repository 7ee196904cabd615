// Package filelock has locks between processes (flock(2)): on a file that exists
// only while it is held, or on a folder. A process that is killed leaves a lock
// that is free.
package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// RunDir is the folder of all jails' state. Who changes what they share has locked
// it (Folder).
const RunDir = "/run/wgjail"

// ErrHeld is the error for a lock that somebody else holds.
var ErrHeld = errors.New("the lock is held")

// A Lock is held until Release.
type Lock struct {
	f      *os.File
	folder bool
}

// File makes the file at path, and its folder, and locks it. It waits for another
// holder until ctx is done; then the error is ErrHeld.
func File(ctx context.Context, path string) (*Lock, error) {
	for {
		l, err := TryFile(path)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond): // flock(2) has no time-out
		}
	}
}

// TryFile is File that does not wait: the error is ErrHeld at once.
func TryFile(path string) (*Lock, error) {
	f, err := take(path, openFile, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, err
	}
	return &Lock{f, false}, nil
}

// Folder makes the folder at path and locks it, however long another one holds
// it. The lock is on the folder itself: a file for it could not be made where
// there is no room, and then nothing could be cleared up either.
func Folder(path string) (*Lock, error) {
	f, err := take(path, openFolder, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return &Lock{f, true}, nil
}

// take opens path and locks it. A holder removes path before it lets go, so a lock
// counts only if path still names what is locked.
func take(path string, open func(string) (*os.File, error), how int) (*os.File, error) {
	for {
		f, err := open(path)
		if errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
			continue // a holder that let go has removed the folder
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f, how); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrHeld
			}
			// The file stays: somebody may hold it.
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if Names(path, f) {
			return f, nil
		}
		f.Close()
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func openFile(path string) (*os.File, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		os.Remove(dir) // if it is empty
	}
	return f, err
}

func openFolder(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Names reports whether f is the file at path.
func Names(path string, f *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// Release removes the file, lets go, and removes the folder if nothing is in it.
func (l *Lock) Release() {
	path := l.f.Name()
	os.Remove(path) // a folder only if it is empty
	l.f.Close()
	if !l.folder {
		os.Remove(filepath.Dir(path))
	}
}
