package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
)

// ErrBusy is the error of a command that finds another one changing the jail.
var ErrBusy = errors.New("another wgjail command is working on it")

// lockJail takes the right to change the jail called name. With wait it waits
// for another holder until ctx is done, else the error is ErrBusy.
//
// Lock order: a jail's lock before the lock on runDir's shared parts.
func lockJail(ctx context.Context, name string, wait bool) (*filelock.Lock, error) {
	path := filepath.Join(runDir, "."+name+".lock")
	l, err := filelock.TryFile(path)
	if wait && errors.Is(err, filelock.ErrHeld) {
		l, err = filelock.File(ctx, path)
	}
	if errors.Is(err, filelock.ErrHeld) {
		return nil, hint.Wrap(fmt.Errorf("jail %s: %w", name, ErrBusy), "wait until it is done, then see: wgjail status %s", name)
	}
	return l, err
}

// lockShared takes the right to change what all jails share; package veth takes
// it, too. It is held only for moments.
func lockShared() (*filelock.Lock, error) { return filelock.Folder(runDir) }

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
