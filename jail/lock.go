package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
)

// ErrBusy is the error of a command that finds another one changing the jail.
var ErrBusy = errors.New("another wgjail command is working on it")

// A fileLock is a flock(2) on a file that exists only while it is held, or on
// runDir.
type fileLock struct{ f *os.File }

// lockJail takes the right to change the jail called name. With wait it waits
// for another holder until ctx is done, else the error is ErrBusy.
//
// Lock order: a jail's lock before the lock on runDir's shared parts.
func lockJail(ctx context.Context, name string, wait bool) (*fileLock, error) {
	l, err := lockPath(ctx, filepath.Join(runDir, "."+name+".lock"), wait)
	if errors.Is(err, ErrBusy) {
		return nil, hint.Wrap(fmt.Errorf("jail %s: %w", name, err), "wait until it is done, then see: wgjail status %s", name)
	}
	return l, err
}

// lockShared takes the right to change what all jails share. It is held only
// for moments. The lock is on runDir itself: a file for it could not be made
// where there is no room, and then nothing could be cleared up either.
func lockShared() (*fileLock, error) {
	return lockPath(context.Background(), runDir, true)
}

func lockPath(ctx context.Context, path string, wait bool) (*fileLock, error) {
	for {
		l, err := tryLock(path)
		if err == nil || !errors.Is(err, ErrBusy) || !wait {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond): // flock(2) has no time-out
		}
	}
}

// tryLock makes the file and locks it. The holder removes the file before it
// lets go, so a lock counts only if the path still names the locked file.
func tryLock(path string) (*fileLock, error) {
	for {
		f, err := openLock(path)
		if errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
			continue // a holder that let go has removed the folder
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrBusy
			}
			// The file stays: somebody may hold it.
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if sameFile(f, path) {
			return &fileLock{f}, nil
		}
		f.Close()
	}
}

func openLock(path string) (*os.File, error) {
	if path == runDir {
		if err := os.MkdirAll(runDir, 0o700); err != nil {
			return nil, err
		}
		return os.Open(runDir)
	}
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

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// release removes the file, lets go, and removes runDir if that was the last
// file in it.
func (l *fileLock) release() {
	path := l.f.Name()
	os.Remove(path) // of runDir only if it is empty
	l.f.Close()
	if path != runDir {
		os.Remove(filepath.Dir(path))
	}
}

// held reports whether some process holds a lock on the file at path. A file
// that does not exist is held by nobody.
func held(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// free reports whether nobody holds a lock on f.
func free(f *os.File) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		return false
	}
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return true
}

// waitFree waits until nobody holds a lock on f any more, or ctx is done.
func waitFree(ctx context.Context, f *os.File) error {
	for !free(f) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond): // flock(2) has no time-out
		}
	}
	return nil
}
