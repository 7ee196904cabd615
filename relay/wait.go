package relay

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// A waiter waits for events. A thread that blocks in the kernel must tell the Go
// scheduler, which then gives its processor to other goroutines and takes it
// back afterwards: several microseconds, and often a switch to another thread,
// for each wait. Under load the next event is only microseconds away. So the
// waiter first waits shortly without telling, and goes to sleep properly only
// when that ends with nothing. An idle relay sleeps and uses no CPU.
type waiter struct {
	short bool // the runtime can spare a processor for that long
}

// shortWait is how long, in milliseconds, the scheduler is left in the dark.
// When the garbage collector needs the thread it interrupts it with a signal.
const shortWait = 1

func (wt *waiter) init(r *Relay) {
	n := runtime.GOMAXPROCS(0)
	wt.short = r.workerCount() <= max(1, n-1)
}

// wait returns the number of events, which is zero after ms milliseconds or an
// interruption. Negative ms is for ever.
func (wt *waiter) wait(ep int32, evs []unix.EpollEvent, ms int) int {
	first := 0
	if wt.short {
		first = shortWait
	}
	if ms >= 0 {
		first = min(first, ms)
	}
	n, e := sysPoll(ep, evs, first)
	if e == 0 && n == 0 && (ms < 0 || ms > first) {
		n, e = sysWait(ep, evs, ms)
	}
	if e != 0 {
		return 0
	}
	return n
}
