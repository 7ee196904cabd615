package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestFileExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", ".vpn.lock")
	first, err := TryFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryFile(path); !errors.Is(err, ErrHeld) {
		t.Fatalf("second lock: %v, want ErrHeld", err)
	}
	first.Release()
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder is still there: %v", err)
	}
	again, err := TryFile(path)
	if err != nil {
		t.Fatalf("after Release: %v", err)
	}
	again.Release()
}

func TestWaitEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := TryFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := File(ctx, path); !errors.Is(err, ErrHeld) {
		t.Errorf("lock: %v, want ErrHeld", err)
	}
}

// A folder in which something is stays, and can be locked again.
func TestFolderStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	l, err := Folder(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if l, err = Folder(path); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if _, err := os.Stat(filepath.Join(path, "state")); err != nil {
		t.Error(err)
	}
}

// The file and its folder come and go with every holder; still there is never
// more than one.
func TestContention(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	for name, take := range map[string]func() (*Lock, error){
		"file":   func() (*Lock, error) { return File(t.Context(), filepath.Join(run, "lock")) },
		"folder": func() (*Lock, error) { return Folder(run) },
	} {
		t.Run(name, func(t *testing.T) {
			var inside, total atomic.Int32
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 25 {
						l, err := take()
						if err != nil {
							t.Error(err)
							return
						}
						if n := inside.Add(1); n != 1 {
							t.Errorf("%d holders", n)
						}
						total.Add(1)
						inside.Add(-1)
						l.Release()
					}
				})
			}
			wg.Wait()
			if total.Load() != 200 {
				t.Errorf("%d turns, want 200", total.Load())
			}
		})
	}
}
