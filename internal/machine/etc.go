package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateEtc puts a copy-on-write /etc over the real one: an overlay or, where
// there is none, a copy. Its resolv.conf has that text.
func privateEtc(resolv string) error {
	bound, err := boundFiles("/etc")
	if err != nil {
		return err
	}
	if err := uncover("/etc"); err != nil {
		return err
	}
	if overlay("/etc") != nil {
		if err := CoverWithCopy("/etc"); err != nil {
			return err
		}
	}
	for path, text := range bound {
		if err := replace(path, text); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/etc/netns", "/etc/wireguard"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	// Often a link into /run, or bound by a container's runtime.
	return replace("/etc/resolv.conf", []byte(resolv))
}

// overlay mounts an overlay(5) on dir that keeps changes in memory.
func overlay(dir string) error {
	const scratch = "/run" // gets its own mount next; this one lives on below the overlay
	if err := unix.Mount("etc", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	return unix.Mount("etc", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work)
}

// CoverWithCopy mounts a tmpfs on dir with copies of the regular files, directories and
// links that were there.
func CoverWithCopy(dir string) error {
	const scratch = "/run"
	if err := unix.Mount("etc", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return copyOne(path, filepath.Join(scratch, rel))
	})
	if err != nil {
		return err
	}
	return unix.Mount(scratch, dir, "", unix.MS_BIND, "")
}

// copyOne copies a file, link or directory (without what is in it) with its
// owner and mode.
func copyOne(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
		var text []byte
		if text, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(to, text, 0o600)
		}
	case fs.ModeDir:
		if err = os.Mkdir(to, 0o700); errors.Is(err, os.ErrExist) {
			err = nil // the top
		}
	case fs.ModeSymlink:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil || info.Mode().Type() == fs.ModeSymlink {
		return err
	}
	return os.Chmod(to, info.Mode())
}

// boundFiles reads the regular files that are mounted below dir one by one, as
// container runtimes do: an overlay shows what is below those mounts.
func boundFiles(dir string) (map[string][]byte, error) {
	paths, err := MountsBelow(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if files[path], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// replace makes path a regular file with that text, whatever it was.
func replace(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
