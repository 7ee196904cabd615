package jail

import (
	"time"

	"golang.org/x/sys/unix"
)

// A tempo is how long the keeper waits for what.
type tempo struct {
	look    time.Duration // between two looks at the tunnel
	pending time.Duration // after the last packet: WireGuard tries a handshake for 90 s
	overdue time.Duration // without a handshake, before the endpoint is looked up again
	begin   time.Duration // the same for a tunnel that has never had one
	stale   time.Duration // without a handshake, before status says so
	attempt time.Duration // for an address to answer, before the next one is tried
	pause   time.Duration // between two look-ups; doubles from one to the next
	longest time.Duration // to which it doubles
	verify  time.Duration // between two looks whether the MTU still passes
	raise   time.Duration // between two looks whether more than a lowered MTU does (RFC 8899, section 5.1.1)
}

// usualTempo follows WireGuard's own times: a session is renewed every 120 s
// while there is traffic, so one that is older by a few retries (of 5 s) has lost
// its peer; after 180 s nothing is sent with it any more.
var usualTempo = tempo{
	look:    5 * time.Second,
	pending: 90 * time.Second,
	overdue: 135 * time.Second,
	begin:   20 * time.Second,
	stale:   staleAfter,
	attempt: 10 * time.Second,
	pause:   30 * time.Second,
	longest: 5 * time.Minute,
	verify:  2 * time.Minute,
	raise:   10 * time.Minute,
}

// hastened is t with everything so many times faster but for what waits for
// WireGuard, which begins a handshake every 5 s at most.
func (t tempo) hastened(times int) tempo {
	for _, d := range []*time.Duration{
		&t.look, &t.pending, &t.overdue, &t.begin, &t.stale, &t.pause, &t.longest, &t.verify, &t.raise,
	} {
		*d /= time.Duration(max(1, times))
	}
	return t
}

// A moment is a reading of two clocks, in time since the machine was started.
// Neither can be set. The first goes on while the machine sleeps
// (CLOCK_BOOTTIME), the second does not (CLOCK_MONOTONIC).
type moment struct{ boot, awake time.Duration }

func readClocks() moment {
	read := func(clock int32) time.Duration {
		var t unix.Timespec
		unix.ClockGettime(clock, &t) // cannot fail for these clocks
		return time.Duration(t.Nano())
	}
	awake := read(unix.CLOCK_MONOTONIC)
	return moment{boot: read(unix.CLOCK_BOOTTIME), awake: awake}
}

// sleptSince returns how long the machine has slept since an earlier moment.
func (m moment) sleptSince(earlier moment) time.Duration {
	return (m.boot - m.awake) - (earlier.boot - earlier.awake)
}
