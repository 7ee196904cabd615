package relay

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter waits for events. Blocking is expensive twice: the kernel has to put
// the thread to sleep and whoever causes the next event has to wake it, and the
// Go scheduler has to be told, gives the thread's processor to other goroutines
// and takes it back afterwards. Under load the next event is microseconds away.
// So there are three steps, from the nearest to the most patient:
//
//   - poll again and again, as long as that has proved useful lately, and let
//     others have the CPU in between;
//   - block for a moment, without telling the scheduler;
//   - block for as long as it takes. An idle relay is here, and uses no CPU.
type waiter struct {
	spin  time.Duration // how long polling is worth it at present
	short bool          // the runtime can spare a processor for a moment
}

const (
	// An event that comes within maxSpin would have been worth polling for: it
	// is about what it costs to sleep and be woken, in a virtual machine. KVM's
	// halt_poll_ns does for a processor what is done here for a thread.
	maxSpin = 100 * time.Microsecond
	minSpin = 10 * time.Microsecond

	// shortWait is how long, in milliseconds, the scheduler is left in the dark.
	// If the garbage collector needs the thread it interrupts it with a signal.
	shortWait = 1
)

func (wt *waiter) init(r *Relay) {
	wt.short = r.workerCount() <= runtime.GOMAXPROCS(0)
}

// wait returns the number of events, which is zero after ms milliseconds or an
// interruption. Negative ms is for ever. Without hurry it does not poll: a stream
// in bulk costs less the more of it has come together.
func (wt *waiter) wait(ep int32, evs []unix.EpollEvent, ms int, hurry bool) int {
	if ms == 0 || wt.spin > 0 || !wt.short {
		n, e := sysPoll(ep, evs, 0)
		if n > 0 || e != 0 || ms == 0 {
			return max(0, n)
		}
	}
	if !hurry {
		return wt.block(ep, evs, ms)
	}
	begin := time.Now()
	for wt.spin > 0 && time.Since(begin) < wt.spin {
		sysYield()
		if n, e := sysPoll(ep, evs, 0); n > 0 || e != 0 {
			return max(0, n)
		}
	}
	n := wt.block(ep, evs, ms)
	wt.learn(time.Since(begin))
	return n
}

// learn adjusts spin to a wait that took that long, most of it blocked.
func (wt *waiter) learn(took time.Duration) {
	switch {
	case took < maxSpin:
		wt.spin = min(max(minSpin, 2*wt.spin), maxSpin)
	case wt.spin > minSpin:
		wt.spin /= 2
	default:
		wt.spin = 0
	}
}

func (wt *waiter) block(ep int32, evs []unix.EpollEvent, ms int) int {
	if wt.short {
		if n, e := sysPoll(ep, evs, shortWait); n > 0 || e != 0 || ms == shortWait {
			return max(0, n)
		}
	}
	n, _ := sysWait(ep, evs, ms)
	return max(0, n)
}
