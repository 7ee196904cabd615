package jail

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadOwned(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := writeWhole(good, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := readOwned(good); err != nil || string(data) != "text" {
		t.Errorf("readOwned = %q, %v", data, err)
	}
	link := filepath.Join(dir, "link")
	os.Symlink(good, link)
	if _, err := readOwned(link); err == nil {
		t.Error("a symbolic link was followed")
	}
	open := filepath.Join(dir, "open")
	os.WriteFile(open, nil, 0o600)
	os.Chmod(open, 0o622)
	if _, err := readOwned(open); err == nil {
		t.Error("a file that others can write was read")
	}
	if os.Geteuid() == 0 {
		os.Chown(good, 65534, 65534)
		if _, err := readOwned(good); err == nil {
			t.Error("another user's file was read")
		}
	}
}

func TestWriteWholeLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, text := range []string{"one", "two, longer", ""} {
		if err := writeWhole(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := writeWhole(filepath.Join(dir, "no", "state"), nil, 0o600); err == nil {
		t.Error("wrote into a folder that does not exist")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
