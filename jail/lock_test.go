package jail

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", ".vpn.lock")
	first, err := lockPath(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockPath(t.Context(), path, false); !errors.Is(err, ErrBusy) {
		t.Fatalf("second lock: %v, want ErrBusy", err)
	}
	if alive, err := held(path); err != nil || !alive {
		t.Errorf("held = %v, %v; want true", alive, err)
	}
	first.release()
	if alive, err := held(path); err != nil || alive {
		t.Errorf("held = %v, %v after release", alive, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder is still there: %v", err)
	}
}

func TestLockWaitEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := lockPath(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockPath(ctx, path, true); !errors.Is(err, ErrBusy) {
		t.Errorf("lock: %v, want ErrBusy", err)
	}
}

// The file and its folder come and go with every holder; still there is never
// more than one.
func TestLockUnderContention(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "lock")
	var inside, total atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				l, err := lockPath(t.Context(), path, true)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders", n)
				}
				total.Add(1)
				inside.Add(-1)
				l.release()
			}
		})
	}
	wg.Wait()
	if total.Load() != 200 {
		t.Errorf("%d turns, want 200", total.Load())
	}
}
