package jail

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// unshareMounts gives the calling thread a mount namespace of its own. The
// thread must be locked and never unlocked.
func unshareMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", os.NewSyscallError("unshare", err))
	}
	return nil
}

// keepMounts lets nothing that is done in the calling thread's mount namespace
// leave it. Mounts that the host makes and removes later arrive in it
// (mount_namespaces(7)).
func keepMounts() error {
	err := slaveMounts()
	if errors.Is(err, unix.EINVAL) { // "/" is no mount
		err = keepMountsInChroot()
	}
	if err != nil {
		return fmt.Errorf("keep mounts from reaching the host: %w", err)
	}
	return nil
}

func slaveMounts() error {
	return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""))
}

// ignoreFileCaps makes set-user-ID bits and file capabilities of no effect on all
// mounts of the calling thread's mount namespace. no_new_privs sees to it that
// they give nothing, but the kernel refuses to execute a program that has file
// capabilities, as ping(8) does, where it cannot give them; without them ping
// works. Before Linux 5.12 it does not (mount_setattr(2)).
func ignoreFileCaps(log *slog.Logger) {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
		log.Debug("programs with file capabilities cannot be executed", "error", err)
	}
}

// mount covers the directory with its mirror. The error means that something
// which had to be hidden or replaced is not; an entry of the host's that cannot
// be taken over is left out, with a warning.
func (m mirror) mount(log *slog.Logger) error {
	old, err := unix.Open(m.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: m.dir, Err: err}
	}
	defer unix.Close(old)
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	source := m.source
	if source == "" {
		source = "tmpfs"
	}
	if err := unix.Mount(source, m.dir, "tmpfs", flags, m.options); err != nil {
		return &os.PathError{Op: "mount a tmpfs on", Path: m.dir, Err: err}
	}
	host := fmt.Sprintf("/proc/self/fd/%d", old) // below the tmpfs
	for _, s := range m.steps {
		err := s.make(host, m.dir)
		if err != nil && s.kind == stepFile {
			return err
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // it may be gone meanwhile
			log.Warn("left out of the jail", "path", filepath.Join(m.dir, s.path), "error", err)
		}
	}
	if !m.readonly {
		return nil
	}
	if err := unix.Mount("", m.dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return &os.PathError{Op: "make read-only", Path: m.dir, Err: err}
	}
	return nil
}

// make makes the entry in dir; host leads to what dir covers.
func (s mountStep) make(host, dir string) error {
	path := filepath.Join(dir, s.path)
	switch s.kind {
	case stepLink:
		return os.Symlink(s.source, path)
	case stepFile:
		if err := os.WriteFile(path, s.data, 0o644); err != nil {
			return err
		}
		return os.Chmod(path, 0o644) // whatever the umask
	case stepDir:
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if err := s.owner.own(path); err != nil {
			return err
		}
		if err := unix.Chmod(path, s.owner.mode); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
		return nil
	case stepBind:
		return s.bind(filepath.Join(host, s.source), path)
	}
	return fmt.Errorf("%s: unknown step %q", path, s.kind)
}

// own gives what is at path to its owner. Without root a user namespace has one
// user, whose everything in it is.
func (o fileOwner) own(path string) error {
	if rootless() {
		return nil
	}
	return os.Chown(path, o.uid, o.gid)
}

// bind mounts source on a new file or directory at path, with all that is
// mounted below it.
func (s mountStep) bind(source, path string) error {
	var err error
	if s.dir {
		err = unix.Mkdir(path, 0o700)
	} else {
		err = unix.Mknod(path, unix.S_IFREG, 0)
	}
	if err != nil {
		return &os.PathError{Op: "make", Path: path, Err: err}
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		if s.dir {
			unix.Rmdir(path)
		} else {
			unix.Unlink(path)
		}
		return &os.PathError{Op: "mount", Path: path, Err: err}
	}
	return nil
}
