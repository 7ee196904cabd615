package jail

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// keepLock starts a process that holds the keeper's file of the jail vpn, and
// does nothing.
func keepLock(t *testing.T) *exec.Cmd {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(keeperFile("vpn")), 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := heldFile(keeperFile("vpn"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{held}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(held, cmd.Process.Pid)
	return cmd
}

// A keeper that beats is left alone however long it takes; one that is silent
// is ended. Turns are counted, so nothing here depends on the clock.
func TestSuperviseEndsAStuckKeeper(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		keeper := keepLock(t)
		turns := 0
		s := &supervisor{name: "vpn", turn: time.Millisecond, opts: UpOptions{Log: slog.New(slog.DiscardHandler)}}
		s.w.Alive = func() {
			if turns++; turns <= 10*silentTurns {
				os.Chtimes(keeperFile("vpn"), time.Time{}, time.Unix(int64(turns), 0))
			}
		}
		go func() { keeper.Wait() }()
		s.watchKeeper(t.Context())
		if turns < 11*silentTurns {
			t.Errorf("it was ended after %d turns, of which it was alive for %d", turns, 10*silentTurns)
		}
		if alive, err := held(keeperFile("vpn")); alive || err != nil {
			t.Errorf("the stuck keeper lives: %v, %v", alive, err)
		}
	})
}

// The end of a keeper is noticed when it comes, not at the next turn.
func TestSuperviseNoticesTheEnd(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		keeper := keepLock(t)
		s := &supervisor{name: "vpn", turn: time.Hour}
		s.w.Alive = func() { unix.Kill(keeper.Process.Pid, unix.SIGKILL) }
		s.watchKeeper(t.Context())
		keeper.Wait()
	})
}
