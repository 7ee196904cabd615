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
//
// Polling takes a CPU from clients and services, and passes on each message by
// itself, so it is for answers that somebody waits for (pace.go). For many, the
// worker lets others have the CPU once and blocks then: what they do meanwhile it
// finds together.
//
// Who lets others have the CPU where those have much to do gets it back late, by
// whole time slices. Then that is not done for a while, nor polling, and the
// worker blocks: the kernel does not let those wait who have slept.
type waiter struct {
	spin  time.Duration // how long polling is worth it at present
	short bool          // the runtime can spare a processor for a moment
	rest  int           // waits in which others are not given way
	late  int           // how long the last rest was, less what has gone well since
}

const (
	// An event that comes within maxSpin would have been worth polling for: it
	// is about what it costs to sleep and be woken, in a virtual machine. KVM's
	// halt_poll_ns does for a processor what is done here for a thread.
	maxSpin = 100 * time.Microsecond
	minSpin = 10 * time.Microsecond

	// lateAfter is more than clients and services take for a batch of messages,
	// and less than a time slice.
	lateAfter = time.Millisecond
	minRest   = 32
	maxRest   = 2048

	// shortWait is how long, in milliseconds, the scheduler is left in the dark.
	// If the garbage collector needs the thread it interrupts it with a signal.
	shortWait = 1
)

func (wt *waiter) init(r *Relay) {
	wt.short = r.workerCount() <= runtime.GOMAXPROCS(0)
}

// wait returns the number of events, which is zero after ms milliseconds or an
// interruption. Negative ms is for ever.
func (wt *waiter) wait(ep int32, evs []unix.EpollEvent, ms int, how manner) int {
	begin := time.Now()
	now, spin := begin, wt.spin
	switch {
	case wt.rest > 0:
		wt.rest--
		spin = 0
	case how == forMany:
		wt.giveWay(&now)
		spin = 0
	case how == forBulk: // it costs less the more of it has come together
		spin = 0
	}
	if ms == 0 || spin > 0 || !wt.short {
		n, e := sysPoll(ep, evs, 0)
		if n > 0 || e != 0 || ms == 0 {
			return max(0, n)
		}
	}
	for now.Sub(begin) < spin && wt.giveWay(&now) {
		if n, e := sysPoll(ep, evs, 0); n > 0 || e != 0 {
			return max(0, n)
		}
	}
	n := wt.block(ep, evs, ms)
	if how == forAnswers {
		wt.learn(time.Since(begin))
	}
	return n
}

// giveWay lets others have the CPU if they want it, and reports whether it came
// back soon. It brings now up to date.
func (wt *waiter) giveWay(now *time.Time) bool {
	begin := *now
	sysYield()
	*now = time.Now()
	return wt.cameBack(now.Sub(begin))
}

// cameBack is told how long the CPU was away, and reports whether that is soon.
// The more often it is not, the longer is the rest.
func (wt *waiter) cameBack(after time.Duration) bool {
	if after < lateAfter {
		wt.late -= wt.late / 4
		return true
	}
	wt.late = min(max(minRest, 2*wt.late), maxRest)
	wt.rest = wt.late
	return false
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
