package relay

import (
	"fmt"
	"golang.org/x/sys/unix"
	"sync/atomic"
	"time"
)

const DefaultDialTimeout = 5 * time.Second

// A Clock is a relay's time, which stands still but for Advance.
type Clock struct {
	now   atomic.Int64
	relay *Relay
}

func NewClock() *Clock { return new(Clock) }

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

// Dump describes every connection.
func (r *Relay) Dump() (s string) {
	for _, w := range r.workers {
		done := make(chan bool)
		w.post(func(w *worker) {
			for c := range w.conns.all() {
				s += fmt.Sprintf("slot %d phase %d timer %d", c.slot, c.phase, c.timer)
				for i := range c.end {
					e := &c.end[i]
					u, _ := unix.IoctlGetInt(int(e.fd), unix.TIOCINQ)
					s += fmt.Sprintf("; fd %d flags %b full %d unread %d unsent %d", e.fd, e.flags, e.full, u, sysUnsent(e.fd))
					if e.out != nil {
						s += fmt.Sprintf(" stash %d", e.out.left())
					}
				}
				s += "\n"
			}
			close(done)
		})
		<-done
	}
	return s
}
