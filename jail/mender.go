package jail

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// A mender finds another address for a peer that does not answer. It tries what
// the endpoint's name stands for, one address after the other and one family
// after the other, and looks the name up again when all have had their chance,
// ever less often.
//
//	overdue ─► look up ─► next address ─ answer? ─ yes ─► mended
//	              ▲            ▲            │ no, after tempo.attempt
//	              │            └── more? ◄──┤
//	              └─ after a pause, doubled ┘
type mender struct {
	tempo
	at      Endpoint
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	routed  func(netip.Addr) bool // whether the host has a route to it
	next    []netip.AddrPort      // to be tried
	until   time.Duration         // the present address has its chance
	again   time.Duration         // when the name may be looked up again
	pause   time.Duration         // after the next look-up
	mending time.Duration         // when the endpoint was moved last, not yet known to help; 0: it was not
}

func newMender(t tempo, at Endpoint) *mender {
	return &mender{
		tempo: t, at: at, lookup: lookup, pause: t.pause,
		routed: func(a netip.Addr) bool { _, err := routeTo(a); return err == nil },
	}
}

// hurry lets the next attempt be made at once: something has changed.
func (m *mender) hurry() { m.next, m.until, m.again, m.pause = nil, 0, 0, m.tempo.pause }

// step returns the address to move the peer to, which is at from, or an invalid
// one if it is to be left alone now. looked tells whether the name was looked
// up; the error is that of the look-up.
func (m *mender) step(ctx context.Context, now time.Duration, from netip.AddrPort) (to netip.AddrPort, looked bool, err error) {
	if m.at.Host == "" || now < m.until {
		return to, false, nil
	}
	if len(m.next) == 0 {
		if now < m.again {
			return to, false, nil
		}
		m.again, m.pause = now+m.pause, min(2*m.pause, m.longest)
		looked = true
		if m.next, err = m.candidates(ctx, from); err != nil || len(m.next) == 0 {
			return to, looked, err
		}
	}
	to, m.next = m.next[0], m.next[1:]
	m.until, m.mending = now+m.attempt, now
	return to, looked, nil
}

// candidates looks the endpoint up and returns where the peer may be besides
// from: first in the other family, then in turns.
func (m *mender) candidates(ctx context.Context, from netip.AddrPort) ([]netip.AddrPort, error) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := m.lookup(ctx, m.at.Host)
	if err != nil {
		return nil, err
	}
	var same, other []netip.AddrPort
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, m.at.Port)
		switch {
		case to == from || !m.routed(a):
		case a.Is4() == from.Addr().Is4():
			same = append(same, to)
		default:
			other = append(other, to)
		}
	}
	// After the address that failed come those behind it, as the name has them.
	if i := slices.Index(addrs, from.Addr()); i > 0 && len(same) > 0 {
		behind := slices.IndexFunc(same, func(a netip.AddrPort) bool { return slices.Index(addrs, a.Addr()) > i })
		if behind > 0 {
			same = append(same[behind:len(same):len(same)], same[:behind]...)
		}
	}
	var list []netip.AddrPort
	for len(same)+len(other) > 0 {
		if len(other) > 0 {
			list, other = append(list, other[0]), other[1:]
		}
		if len(same) > 0 {
			list, same = append(list, same[0]), same[1:]
		}
	}
	return list, nil
}

// mended reports, once, whether a peer that was moved has answered since.
func (m *mender) mended(now, heard time.Duration) bool {
	if m.mending == 0 || heard <= m.mending {
		return false
	}
	m.next, m.until, m.mending = nil, 0, 0
	// A tunnel that comes and goes does not make us ask more often.
	m.again, m.pause = min(m.again, now+m.tempo.pause), m.tempo.pause
	return true
}
