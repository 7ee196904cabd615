package relay

import (
	"runtime"

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
	polls int  // how many polls are worth it at present
	short bool // the runtime can spare a processor for a moment
}

const (
	maxPolls = 100 // some tens of microseconds

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
	if n, e := sysPoll(ep, evs, 0); n > 0 || e != 0 || ms == 0 {
		return max(0, n)
	}
	polls := wt.polls
	if !hurry {
		polls = 0
	}
	for range polls {
		sysYield()
		if n, e := sysPoll(ep, evs, 0); n > 0 || e != 0 {
			wt.polls = min(maxPolls, wt.polls+wt.polls/4+1)
			return max(0, n)
		}
	}
	wt.polls = max(1, polls/2)
	if wt.short {
		if n, e := sysPoll(ep, evs, shortWait); n > 0 || e != 0 || ms == shortWait {
			return max(0, n)
		}
	}
	n, _ := sysWait(ep, evs, ms)
	return max(0, n)
}
