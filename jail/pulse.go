package jail

import (
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A pulse is what the keeper has seen of a peer. Times are those of moment.boot:
// a handshake that was before the machine slept is as old as it is.
type pulse struct {
	tempo
	last      time.Duration // when it looked last
	tx, rx    int64
	sent      time.Duration // when more than keepalives was sent; 0: never
	heard     time.Duration // when something came; 0: never
	handshake time.Time     // the latest, by the wall clock
	shaken    time.Duration // when the keeper saw that one, or began to look
	never     bool          // it has seen none
}

func newPulse(t tempo, now time.Duration) *pulse {
	return &pulse{tempo: t, last: now, shaken: now, never: true}
}

// read takes a new reading.
func (p *pulse) read(now time.Duration, dev wgtypes.Peer) {
	if sent := dev.TransmitBytes - p.tx; sent != 0 && !onlyKeepalives(sent, now-p.last, dev.PersistentKeepaliveInterval) {
		p.sent = now
	}
	if dev.ReceiveBytes != p.rx {
		p.heard = now
	}
	if !dev.LastHandshakeTime.Equal(p.handshake) && !dev.LastHandshakeTime.IsZero() {
		p.handshake, p.shaken, p.never = dev.LastHandshakeTime, now, false
	}
	p.tx, p.rx, p.last = dev.TransmitBytes, dev.ReceiveBytes, now
}

// onlyKeepalives reports whether so many bytes, sent in so much time, are empty
// packets, which nobody answers: at most one in return for what was received,
// and one in each interval. A packet that is not empty takes 64 bytes or more.
func onlyKeepalives(sent int64, in, interval time.Duration) bool {
	const empty = 32
	most := int64(1)
	if interval > 0 {
		most += 1 + int64(in/interval)
	}
	return sent%empty == 0 && 0 < sent && sent <= empty*most
}

// waiting reports whether the peer was sent something lately and has answered
// nothing.
func (p *pulse) waiting(now time.Duration) bool {
	return p.sent != 0 && now-p.sent < p.tempo.pending && p.heard < p.sent
}

// overdue reports whether the peer is waited for and the last handshake is older
// than a living session's can be.
func (p *pulse) isOverdue(now time.Duration) bool {
	limit := p.tempo.overdue
	if p.never {
		limit = p.tempo.begin
	}
	return p.waiting(now) && now-p.shaken > limit
}

// isStale reports whether the peer is waited for and its session has ended.
func (p *pulse) isStale(now time.Duration) bool {
	return p.waiting(now) && now-p.shaken > p.tempo.stale
}
