package jail

import (
	"path/filepath"
	"testing"

	"github.com/wgjail/wgjail/internal/filelock"
)

func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	want := func(what string, is bool) {
		t.Helper()
		if alive, err := held(path); err != nil || alive != is {
			t.Errorf("%s: held = %v, %v", what, alive, err)
		}
	}
	want("no file", false)
	l, err := filelock.TryFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want("locked", true)
	l.Release()
	want("released", false)
}
