package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// writeWhole puts data at path in one step: whoever reads path sees the old
// content or the new one, never a part (rename(2)).
func writeWhole(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// readOwned reads a file of ours. It refuses one that another user could have
// written: state decides what is killed and removed.
func readOwned(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s: not a file that only this user can write", path)
	}
	const limit = 64 << 20
	if st.Size > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	data := make([]byte, st.Size)
	n, err := f.ReadAt(data, 0)
	if int64(n) < st.Size {
		return nil, errors.Join(fmt.Errorf("%s: changed while it was read", path), err)
	}
	return data, nil
}

// makeDir makes the folder at path, if it is missing, for everybody to read
// whatever the umask is.
func makeDir(path string) error {
	if !missing(path) {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// removeFile removes path, which may be gone already.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
