package netnsx

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A DirState tells what PrepareDir changed, and so what RemoveDir may undo. The
// zero value means that nothing was changed.
type DirState struct {
	Made    bool `json:"made,omitempty"`    // Dir did not exist
	Mounted bool `json:"mounted,omitempty"` // Dir was not a mount point
}

// PrepareDir makes Dir a shared mount, as ip-netns(8) does, so that names made
// here are seen in other mount namespaces and names removed here go away there.
// A Dir that is a mount point already is left as it is. After an error nothing
// is changed.
func PrepareDir() (DirState, error) {
	made, unlock, err := makeDir()
	if err != nil {
		return DirState{}, err
	}
	defer unlock()
	did := DirState{Made: made}
	mounted, err := isMountPoint(Dir)
	if err != nil || mounted {
		return did.undo(err)
	}
	if err := unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return did.undo(&os.PathError{Op: "mount", Path: Dir, Err: err})
	}
	did.Mounted = true
	if err := unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return did.undo(&os.PathError{Op: "share", Path: Dir, Err: err})
	}
	return did, nil
}

// makeDir makes sure that Dir exists and locks it.
func makeDir() (made bool, unlock func(), err error) {
	for {
		err := os.Mkdir(Dir, 0o755)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return false, nil, err
		}
		made = err == nil
		unlock, err = lockDir()
		if !errors.Is(err, os.ErrNotExist) { // removed since
			return made, unlock, err
		}
	}
}

// undo takes back what was done before err, if there is an error.
func (did DirState) undo(err error) (DirState, error) {
	if err == nil {
		return did, nil
	}
	if did.Mounted {
		unix.Unmount(Dir, unix.MNT_DETACH)
	}
	if did.Made {
		os.Remove(Dir)
	}
	return DirState{}, err
}

// RemoveDir undoes what PrepareDir did. It leaves Dir as it is while there is a
// name in it, and it is not an error if everything is undone already.
func RemoveDir(did DirState) error {
	unlock, err := lockDir()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	names, err := os.ReadDir(Dir)
	if err != nil || len(names) > 0 {
		return err
	}
	if did.Mounted { // detached, because the lock is an open file in it
		err := unix.Unmount(Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: Dir, Err: err}
		}
	}
	if !did.Made {
		return nil
	}
	err = os.Remove(Dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EBUSY) { // EBUSY: mounted by somebody else
		return nil
	}
	return err
}

// lockDir keeps other processes from preparing or removing Dir; ip-netns(8)
// takes the same lock. It is not held between PrepareDir and Create.
func lockDir() (unlock func(), err error) {
	for {
		f, err := os.Open(Dir)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: Dir, Err: err}
		}
		mine, err := f.Stat()
		if now, nowErr := os.Stat(Dir); err == nil && nowErr == nil && os.SameFile(mine, now) {
			return func() { f.Close() }, nil
		}
		f.Close() // Dir was removed while this waited for the lock
	}
}

// isMountPoint asks the kernel: proc_pid_mountinfo(5) would also list a mount
// that another one hides.
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	// Linux before 5.8: only a mount point can be shared.
	return unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "") == nil, nil
}
