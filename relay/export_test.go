package relay

import (
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	DefaultDialTimeout = 5 * time.Second
	DefaultFlowTimeout = 120 * time.Second
)

// A Clock is a relay's time, which stands still but for Advance.
type Clock struct {
	now   atomic.Int64
	relay *Relay
}

func NewClock() *Clock { return new(Clock) }

// UseAhead has r go by the real time, which Advance adds to. It must be called
// before Serve.
func (c *Clock) UseAhead(r *Relay) {
	c.Use(r)
	begin := time.Now()
	r.now = func() time.Duration { return time.Since(begin) + time.Duration(c.now.Load()) }
}

// Use has r go by c. It must be called before Serve.
func (c *Clock) Use(r *Relay) {
	c.relay = r
	r.now = func() time.Duration { return time.Duration(c.now.Load()) }
}

// Advance moves the clock and has the workers look at it.
func (c *Clock) Advance(d time.Duration) {
	c.now.Add(int64(d))
	for _, w := range c.relay.workers {
		w.post(func(*worker) {})
	}
}

// Hold stops the workers until release is called.
func (r *Relay) Hold() (release func()) {
	on := make(chan struct{})
	for _, w := range r.workers {
		held := make(chan struct{})
		w.post(func(*worker) { close(held); <-on })
		<-held
	}
	return func() { close(on) }
}

// SetDeadAfter has r give up a silent peer sooner.
func (r *Relay) SetDeadAfter(d time.Duration) { r.deadAfter = d }

// SweepPeriod is how long it takes until every connection was looked at.
const SweepPeriod = sweepPeriod

// ConnSize is the memory of one connection.
const ConnSize = unsafe.Sizeof(conn{})

// A Pace is how a worker judges what comes, told of it event by event.
type Pace struct {
	pace  pace
	conns [64]conn
}

// Event notes an event of one end of connection i.
func (p *Pace) Event(i int, side uint8) { p.pace.note(&p.conns[i], side) }

// Begin puts a new connection in i's place.
func (p *Pace) Begin(i int) {
	p.conns[i] = conn{}
	p.pace.begin(&p.conns[i])
}

// Hurries reports whether it is worthwhile to poll.
func (p *Pace) Hurries() bool { return p.pace.manner == forAnswers }

// The size of a window, and how many of them messages in a row are remembered.
const (
	PaceWindow  = paceWindow
	RowsWindows = rowsWindows
	FewConns    = fewConns
	MaxRest     = maxRest
)

// RestAfter returns for how many waits a worker does without giving way when it
// has had its CPU back after each of these times.
func RestAfter(times ...time.Duration) int {
	var wt waiter
	for _, d := range times {
		wt.rest = 0
		wt.cameBack(d)
	}
	return wt.rest
}
