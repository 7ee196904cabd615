package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// In the foreground up stays as long as the jail, and the jail as long as up.
func TestUpInTheForeground(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			up := l.start(t, "up", "--foreground", l.conf, "-p", "8080")
			up.WaitOutput(t, "forwarding ")
			l.usable(t, "in the foreground")
			up.Signal(t, sig)
			if status := exitCode(up.Wait()); status != 0 {
				t.Errorf("after %v it ended with status %d", sig, status)
			}
			l.unchanged(t, before, sig.String())
		}
		// Its end is told when the keeper ends, and the jail stays, in the dark.
		up := l.start(t, "up", "--foreground", l.conf)
		up.WaitOutput(t, "is up")
		killKeeper(t)
		if status := exitCode(up.Wait()); status != 1 || !strings.Contains(up.Output(), "the keeper has ended") {
			t.Errorf("after the end of the keeper it ended with status %d", status)
		}
		// It is brought back by another one, as a service manager does it.
		up = l.start(t, "up", "--foreground", l.conf)
		up.WaitOutput(t, "has been repaired")
		l.usable(t, "brought back")
		l.refused(t, 1, []string{"jail vpn is already up"}, "up", "--foreground", l.conf)
		l.do(t, "down", "vpn")
		if status := exitCode(up.Wait()); status != 0 && status != 1 {
			t.Errorf("after down it ended with status %d", status)
		}
		l.unchanged(t, before, "down")
	})
}
