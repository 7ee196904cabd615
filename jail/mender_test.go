package jail

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A fakePeer is a peer in a test that has its own time.
type fakePeer struct {
	now   time.Duration
	dev   wgtypes.Peer
	pulse *pulse
}

func newFakePeer() *fakePeer {
	const began = time.Hour
	return &fakePeer{now: began, pulse: newPulse(usualTempo, began)}
}

// pass lets time go by, in looks, each after it has sent and received so much.
func (f *fakePeer) pass(d time.Duration, sent, received int64) {
	for end := f.now + d; f.now < end; {
		f.now += usualTempo.look
		f.dev.TransmitBytes += sent
		f.dev.ReceiveBytes += received
		f.pulse.read(f.now, f.dev)
	}
}

// shake is a handshake, at a time of the wall clock that says nothing.
func (f *fakePeer) shake() {
	f.dev.LastHandshakeTime = time.Unix(1_000_000_000-int64(f.now/time.Second), 0)
	f.dev.ReceiveBytes += 92
	f.dev.TransmitBytes += 148
	f.pulse.read(f.now, f.dev)
}

func TestPulse(t *testing.T) {
	for _, tt := range []struct {
		what           string
		live           func(f *fakePeer)
		overdue, stale bool
	}{
		{"nothing happens", func(f *fakePeer) { f.pass(time.Hour, 0, 0) }, false, false},
		{"idle after a handshake", func(f *fakePeer) { f.shake(); f.pass(time.Hour, 0, 0) }, false, false},
		{"traffic both ways", func(f *fakePeer) { f.shake(); f.pass(time.Hour, 1000, 1000) }, false, false},
		{"never an answer, not long", func(f *fakePeer) { f.pass(20*time.Second, 148, 0) }, false, false},
		{"never an answer", func(f *fakePeer) { f.pass(30*time.Second, 148, 0) }, true, false},
		{"never an answer, long", func(f *fakePeer) { f.pass(190*time.Second, 148, 0) }, true, true},
		{"no answer since 130 s", func(f *fakePeer) { f.shake(); f.pass(130*time.Second, 1000, 0) }, false, false},
		{"no answer since 140 s", func(f *fakePeer) { f.shake(); f.pass(140*time.Second, 1000, 0) }, true, false},
		{"no answer since 185 s", func(f *fakePeer) { f.shake(); f.pass(185*time.Second, 1000, 0) }, true, true},
		{"no answer and given up", func(f *fakePeer) { f.shake(); f.pass(140*time.Second, 1000, 0); f.pass(90*time.Second, 0, 0) }, false, false},
		{"an answer after long", func(f *fakePeer) { f.shake(); f.pass(140*time.Second, 1000, 0); f.pass(5*time.Second, 0, 32) }, false, false},
		{"only keepalives", func(f *fakePeer) {
			f.dev.PersistentKeepaliveInterval = 60 * time.Second
			f.shake()
			for range 3 {
				f.pass(55*time.Second, 0, 0)
				f.pass(5*time.Second, 32, 0)
			}
		}, false, false},
		{"keepalives every second", func(f *fakePeer) {
			f.dev.PersistentKeepaliveInterval = time.Second
			f.shake()
			f.pass(200*time.Second, 5*32, 0)
		}, false, false},
		{"keepalives and a packet", func(f *fakePeer) {
			f.dev.PersistentKeepaliveInterval = 60 * time.Second
			f.shake()
			f.pass(150*time.Second, 0, 0)
			f.pass(5*time.Second, 32+96, 0)
		}, true, false},
		{"sleep, then a packet", func(f *fakePeer) {
			f.shake()
			f.pass(5*time.Second, 1000, 1000)
			f.now += 8 * time.Hour
			f.pass(5*time.Second, 148, 0)
		}, true, true},
	} {
		f := newFakePeer()
		tt.live(f)
		if got := f.pulse.isOverdue(f.now); got != tt.overdue {
			t.Errorf("%s: overdue is %v", tt.what, got)
		}
		if got := f.pulse.isStale(f.now); got != tt.stale {
			t.Errorf("%s: stale is %v", tt.what, got)
		}
	}
}

func TestSlept(t *testing.T) {
	before := moment{boot: 100 * time.Second, awake: 40 * time.Second}
	after := moment{boot: 190 * time.Second, awake: 50 * time.Second}
	if got := after.sleptSince(before); got != 80*time.Second {
		t.Errorf("it slept for %v", got)
	}
	if now := readClocks(); now.boot < now.awake || now.awake <= 0 {
		t.Errorf("the clocks say %v", now)
	}
}

var (
	fourA = netip.MustParseAddr("192.0.2.1")
	fourB = netip.MustParseAddr("192.0.2.2")
	sixA  = netip.MustParseAddr("2001:db8::1")
	sixB  = netip.MustParseAddr("2001:db8::2")
)

// A fakeName is what a mender looks up.
type fakeName struct {
	addrs   []netip.Addr
	err     error
	lookups int
	lost    []netip.Addr // that the host has no route to
}

func (f *fakeName) mender() *mender {
	m := newMender(usualTempo, Endpoint{Host: "vpn.test", Port: 51820})
	m.lookup = func(context.Context, string) ([]netip.Addr, error) {
		f.lookups++
		return f.addrs, f.err
	}
	m.routed = func(a netip.Addr) bool { return !slices.Contains(f.lost, a) }
	return m
}

// tries returns what the mender tries in this time, while nothing answers.
func tries(t *testing.T, m *mender, now *time.Duration, d time.Duration, at netip.Addr) []netip.Addr {
	t.Helper()
	var list []netip.Addr
	for end := *now + d; *now < end; *now += usualTempo.look {
		to, _, _ := m.step(t.Context(), *now, netip.AddrPortFrom(at, 51820))
		if to.IsValid() {
			at = to.Addr()
			list = append(list, at)
			if to.Port() != 51820 {
				t.Errorf("it tries port %d", to.Port())
			}
		}
	}
	return list
}

// Each address has its turn, the other family first.
func TestMenderTries(t *testing.T) {
	const round = 50 * time.Second
	for _, tt := range []struct {
		what  string
		addrs []netip.Addr
		lost  []netip.Addr
		at    netip.Addr
		want  []netip.Addr
	}{
		{"moved", []netip.Addr{fourB}, nil, fourA, []netip.Addr{fourB}},
		{"not moved", []netip.Addr{fourA}, nil, fourA, nil},
		{"other family", []netip.Addr{sixA, fourA}, nil, sixA, []netip.Addr{fourA, sixA}},
		{"all", []netip.Addr{sixA, sixB, fourA, fourB}, nil, sixA, []netip.Addr{fourA, sixB, fourB}},
		{"next in the list", []netip.Addr{fourA, fourB, netip.MustParseAddr("192.0.2.3")}, nil, fourB,
			[]netip.Addr{netip.MustParseAddr("192.0.2.3"), fourA}},
		{"no route", []netip.Addr{sixA, fourB}, []netip.Addr{sixA, sixB}, fourA, []netip.Addr{fourB}},
	} {
		f := &fakeName{addrs: tt.addrs, lost: tt.lost}
		now := time.Hour
		got := tries(t, f.mender(), &now, round, tt.at)
		if len(got) > len(tt.want) { // the next round
			got = got[:len(tt.want)]
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: it tries %v, want %v", tt.what, got, tt.want)
		}
	}
}

// However long nothing helps, and whatever the reason, names are looked up ever
// less often.
func TestMenderBacksOff(t *testing.T) {
	for what, f := range map[string]*fakeName{
		"one address": {addrs: []netip.Addr{fourA}},
		"many":        {addrs: []netip.Addr{fourA, fourB, sixA}},
		"no answer":   {err: errors.New("no such host")},
		"no route":    {addrs: []netip.Addr{fourB}, lost: []netip.Addr{fourB}},
	} {
		m, now := f.mender(), time.Hour
		tries(t, m, &now, time.Hour, fourA)
		if least, most := 10, 16; f.lookups < least || f.lookups > most {
			t.Errorf("%s: %d look-ups in an hour, want %d to %d", what, f.lookups, least, most)
		}
		f.lookups = 0
		m.hurry() // something has changed
		tries(t, m, &now, usualTempo.look, fourA)
		if f.lookups != 1 {
			t.Errorf("%s: %d look-ups once something has changed", what, f.lookups)
		}
	}
	// A tunnel that answers for a moment each time, and then no more.
	f := &fakeName{addrs: []netip.Addr{fourA, fourB}}
	m, now := f.mender(), time.Hour
	for end := now + time.Hour; now < end; {
		tries(t, m, &now, usualTempo.look, fourA)
		m.mended(now, now)
	}
	if f.lookups > 120 {
		t.Errorf("a tunnel that comes and goes: %d look-ups in an hour", f.lookups)
	}
}

func TestMenderIsTold(t *testing.T) {
	f := &fakeName{addrs: []netip.Addr{fourB}}
	m := f.mender()
	if m.mended(time.Hour, time.Hour) {
		t.Error("what was not moved is mended")
	}
	m.step(t.Context(), time.Hour, netip.AddrPortFrom(fourA, 51820))
	if m.mended(time.Hour+1, time.Hour-1) {
		t.Error("what has not answered is mended")
	}
	if !m.mended(time.Hour+1, time.Hour+1) || m.mended(time.Hour+2, time.Hour+2) {
		t.Error("what has answered is mended once")
	}
	none := newMender(usualTempo, Endpoint{})
	if to, looked, err := none.step(t.Context(), time.Hour, netip.AddrPort{}); to.IsValid() || looked || err != nil {
		t.Errorf("without an endpoint it did %v, %v, %v", to, looked, err)
	}
}
