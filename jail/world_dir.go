package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
)

// userDir returns the folder that holds the state of the jails of a user who is
// not root, and makes it if it is missing: wgjail in $XDG_RUNTIME_DIR, else in
// /run/user/UID, which is the same for whoever has logged in; else
// /tmp/wgjail-UID, for cron jobs and the like. It is used only if nobody else
// can have put anything into it.
func userDir() (string, error) { return privateDir(userPath()) }

func userPath() string {
	uid := os.Geteuid()
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", uid)} {
		if filepath.IsAbs(base) && checkPrivate(base) == nil {
			return filepath.Join(base, "wgjail")
		}
	}
	return fmt.Sprintf("/tmp/wgjail-%d", uid)
}

// ListOutside returns the names of the jails of a user who is not root, sorted,
// without entering the user's world. It makes nothing.
func ListOutside() ([]string, error) {
	dir := userPath()
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	return listIn(dir)
}

// privateDir makes the folder at path, unless it is there and nobody else's.
func privateDir(path string) (string, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", hint.Wrap(err, "set XDG_RUNTIME_DIR to a folder of yours that nobody else may enter (mode 0700)")
	}
	if err := checkPrivate(path); err != nil {
		return "", hint.Wrap(err, "remove it, or set XDG_RUNTIME_DIR to a folder of yours that nobody else may enter (mode 0700)")
	}
	return path, nil
}

// checkPrivate reports whether path is a folder, and no link to one, that belongs to this user
// and that nobody else may enter.
func checkPrivate(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s: not a folder that only this user may enter", path)
	}
	return nil
}
