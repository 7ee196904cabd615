package netnsx

import (
	"errors"
	"os"
	"path/filepath"
	"time"

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
	var did DirState
	defer lock(filepath.Dir(Dir))()
	err := os.Mkdir(Dir, 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return did, err
	}
	did.Made = err == nil
	defer lock(Dir)()
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
	defer lock(filepath.Dir(Dir))()
	defer lock(Dir)()
	names, err := os.ReadDir(Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
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
	if errors.Is(err, unix.EBUSY) { // mounted by somebody else
		return nil
	}
	return err
}

// lock takes an flock(2) lock on a directory and returns what releases it. The
// one on Dir keeps ip-netns(8) out, which takes it too; the one on the directory
// above, taken first, keeps PrepareDir and RemoveDir apart. Neither is held between PrepareDir
// and Create. Any user can take these locks, so they are not waited for long:
// without one there is only the race that it would have prevented.
func lock(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	fd := int(f.Fd())
	held := make(chan struct{})
	go func() { // the kernel serves those who wait in turn
		for unix.Flock(fd, unix.LOCK_EX) == unix.EINTR {
		}
		close(held)
	}()
	select {
	case <-held:
		return func() { f.Close() }
	case <-time.After(lockPatience):
		go func() { // fd is in use until then
			<-held
			f.Close()
		}()
		return func() {}
	}
}

// lockPatience is far longer than anything that holds these locks takes.
const lockPatience = 5 * time.Second

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
