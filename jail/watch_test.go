package jail

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A machine that wakes up begins again: nothing waits for times that it has
// slept through, and the path is measured anew.
func TestWatcherNoticesSleep(t *testing.T) {
	key := wgtypes.Key{1}
	k := &keeper{
		state: &state{Name: "no-such-jail", MTU: 1420, Peers: []peerState{{PublicKey: key.String(), Host: "vpn.test", Port: 51820}}},
		log:   slog.New(slog.DiscardHandler), tempo: usualTempo,
	}
	now := moment{boot: 10 * time.Hour, awake: 10 * time.Hour}
	w := k.newWatcher(now)
	w.mtu.due = false
	peer := w.peers[key]
	peer.again, peer.pause = now.boot+usualTempo.longest, usualTempo.longest
	awake := moment{boot: now.boot + time.Minute, awake: now.awake + time.Minute}
	w.look(t.Context(), awake, &wgtypes.Device{})
	if w.mtu.due || peer.again == 0 || len(k.health.Repairs) != 0 {
		t.Errorf("a minute awake did %v", k.health.Repairs)
	}
	w.look(t.Context(), moment{boot: awake.boot + 8*time.Hour, awake: awake.awake + time.Second}, &wgtypes.Device{})
	if !w.mtu.due || peer.again != 0 || peer.pause != usualTempo.pause {
		t.Errorf("after a night it waits until %v, then for %v; the MTU is to be probed: %v", peer.again, peer.pause, w.mtu.due)
	}
	if list := k.health.Repairs; len(list) != 1 || !strings.Contains(list[0].What, "the machine slept for 7h59m59s") {
		t.Errorf("it noted %v", list)
	}
}

// What is tried again in vain is told once, and only the latest is kept.
func TestNotes(t *testing.T) {
	k := &keeper{state: &state{Name: "no-such-jail"}, log: slog.New(slog.DiscardHandler)}
	for range 3 {
		k.note("the same")
	}
	if len(k.health.Repairs) != 1 {
		t.Errorf("it keeps %v", k.health.Repairs)
	}
	for i := range 3 * keptRepairs {
		k.note("number %d", i)
	}
	if list := k.health.Repairs; len(list) != keptRepairs || list[keptRepairs-1].What != "number 23" {
		t.Errorf("it keeps %v", list)
	}
}

// Trying more than a lowered MTU in vain leaves everything as it was.
func TestWatcherTriesInVain(t *testing.T) {
	ns, err := netnsx.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for what, p := range map[string]probed{
		"nobody answers": {MTUReport: &MTUReport{MTU: 1420, Least: 1280}},
		"an error":       {err: errors.New("no network")},
		"no more passes": {MTUReport: &MTUReport{MTU: 1420, Least: 1280, Passes: 1344}},
	} {
		w := &watcher{keeper: &keeper{
			state: &state{Name: "no-such-jail", MTU: 1420}, ns: ns, log: slog.New(slog.DiscardHandler), tempo: usualTempo,
			health: health{Held: 1344},
		}}
		w.mtu = mtuWatch{running: true, before: 1344}
		w.takeProbe(p)
		if w.health.MTU != 1344 || w.health.Held != 0 || len(w.health.Repairs) != 0 || w.mtu.running || w.mtu.before != 0 {
			t.Errorf("%s: %+v, %+v", what, w.health, w.mtu)
		}
	}
}
