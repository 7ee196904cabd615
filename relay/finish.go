package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// How connections end. A clean end of one direction becomes a FIN for the other
// side, after the last byte; the opposite direction goes on. A reset becomes a
// reset, also after the last byte. Nothing is ever turned into the other.

// settle passes on how the direction from one end to the other has ended, if it
// has, and all its bytes are on their way.
func (w *worker) settle(c *conn, side uint8) {
	from, to := &c.end[side], &c.end[1-side]
	switch {
	case to.is(broken):
		if from.is(broken) {
			w.reset(c)
		} else if to.is(readable) {
			w.pump(c, 1-side) // its last bytes, and then the end
		}
	case from.is(broken):
		if !from.is(readable) && to.out == nil && sysUnsent(to.fd) == 0 {
			w.reset(c)
		}
	case from.is(gotEOF) && to.out == nil && !to.is(sentFIN):
		if to.is(gotEOF) && from.is(sentFIN) {
			w.finish(c)
			return
		}
		sysShutdown(to.fd, unix.SHUT_WR)
		to.set(sentFIN)
	}
}

// breakEnd notes that an end was reset or has otherwise died. The other end is
// reset when it has got every byte. A reset would overtake what is still in the
// kernel's queue, so it waits for that too, for as long as that gets shorter.
func (w *worker) breakEnd(c *conn, e *end) {
	if e.is(broken) {
		return
	}
	e.set(broken)
	w.stopTimer(c)
	w.startTimer(c, timerClosing)
}

const (
	closingTimeout = 10 * time.Second // without any progress
	closingCheck   = 5 * time.Millisecond
)

// checkClosing looks again at connections of which one end is broken.
func (w *worker) checkClosing(now time.Duration) {
	var next *conn
	for c := w.timers.closing.first; c != nil; c = next {
		next = c.next
		dead := uint8(client)
		if !c.end[client].is(broken) {
			dead = target
		}
		to := &c.end[1-dead]
		left := uint32(sysUnsent(to.fd))
		if to.out != nil {
			left += uint32(to.out.left())
		}
		if left != c.left {
			c.left, c.at = left, now
		}
		if now-c.at >= closingTimeout {
			w.reset(c)
			continue
		}
		w.settle(c, dead)
	}
	w.timers.checked = now
}

// finish ends a connection of which both directions have ended: closing the
// sockets sends what is left and the last FIN.
func (w *worker) finish(c *conn) {
	for i := range c.end {
		w.closeEnd(&c.end[i])
	}
	w.forget(c)
}

// reset ends a connection at once, with a RST to whoever is connected.
func (w *worker) reset(c *conn) {
	for i := range c.end {
		if e := &c.end[i]; e.fd >= 0 {
			sysReset(e.fd)
			e.fd = -1
		}
		w.closeEnd(&c.end[i])
	}
	w.forget(c)
}

func (w *worker) closeEnd(e *end) {
	if e.fd >= 0 {
		sysClose(e.fd)
	}
	if e.out != nil {
		w.pool.drop(e.out)
	}
	*e = end{fd: -1}
}

func (w *worker) forget(c *conn) {
	w.stopTimer(c)
	sub(&c.port.stats.Active)
	w.relay.leave(c.client)
	w.conns.release(c)
	if w.pause.on {
		w.pause.until = 0 // a descriptor is free
	}
}
