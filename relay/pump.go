package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// turnBytes is what one direction may move before others get their turn.
	turnBytes = 1 << 20
	// bulkAfter is how many reads in a row must fill the buffer before the
	// direction is spliced.
	bulkAfter = 3
	// bulkMost is how far above that the score of a direction may rise.
	bulkMost = 8
)

// connEvent handles what epoll says about one end of c.
func (w *worker) connEvent(c *conn, side uint8, ev uint32) {
	w.pace.note(c, side)
	e := &c.end[side]
	wasBlocked := e.is(blocked)
	if ev&^unix.EPOLLOUT != 0 {
		e.set(readable)
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLPRI|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		// Reading stops early at urgent data, and what ends a stream comes
		// after its last bytes: an incomplete read does not mean empty.
		e.set(toEnd)
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLPRI|unix.EPOLLERR) == unix.EPOLLRDHUP {
		e.set(gotFIN)
	}
	if ev&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		e.clear(blocked)
	}
	if c.phase == phaseDialing {
		if side == target {
			w.dialed(c)
		} else if ev&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			w.reset(c)
		}
		return
	}
	if ev&unix.EPOLLERR != 0 {
		w.breakEnd(c, e)
	}
	if c.timer == timerIdle {
		w.stopTimer(c)
		w.startTimer(c, timerIdle)
	}
	if e.is(readable) {
		w.pump(c, side)
	}
	if wasBlocked && c.phase == phaseOpen && !e.is(blocked) {
		w.pump(c, 1-side)
	}
}

// pump moves bytes from one end to the other until the first has no more, the
// second takes no more, or the turn is over. Then it passes on how it ended.
func (w *worker) pump(c *conn, side uint8) {
	from, to := &c.end[side], &c.end[1-side]
	if to.out != nil && !w.flush(c, 1-side) && !to.is(broken) {
		return
	}
	for left := turnBytes; from.is(readable) && !to.is(blocked|broken); {
		if left <= 0 {
			w.yield(c, side)
			return
		}
		if from.full < bulkAfter {
			left -= w.copyOnce(c, side)
		} else {
			left -= w.spliceOnce(c, side)
		}
		if c.phase != phaseOpen {
			return
		}
	}
	w.settle(c, side)
}

// copyOnce passes on what one read returns, and how many bytes that was.
func (w *worker) copyOnce(c *conn, side uint8) int {
	from := &c.end[side]
	n, e := sysRecv(from.fd, w.buf)
	switch {
	case e != 0:
		w.readFailed(c, from, e)
		return 0
	case n == 0:
		from.set(gotEOF)
		from.clear(readable)
		return 0
	case n == len(w.buf):
		from.full++
	default:
		from.full = 0
		if from.is(gotFIN) && !from.is(broken) {
			from.set(gotEOF)
		}
		if !from.is(toEnd) || from.is(gotEOF) {
			// The socket was emptied: whatever comes next is a new event.
			from.clear(readable)
		}
	}
	w.moved(c, side, n)
	w.write(c, 1-side, w.buf[:n])
	return n
}

// moved counts n bytes read from one end.
func (w *worker) moved(c *conn, side uint8, n int) {
	if side == client {
		w.count(c.port, n, 0)
	} else {
		w.count(c.port, 0, n)
	}
}

func (w *worker) readFailed(c *conn, from *end, e syscall.Errno) {
	if e == unix.EAGAIN || e == unix.EINTR {
		from.clear(readable | toEnd)
		return
	}
	from.clear(readable)
	w.breakEnd(c, from)
}

// write gives p to one end, and keeps what it does not take.
func (w *worker) write(c *conn, side uint8, p []byte) {
	to := &c.end[side]
	flags := unix.MSG_NOSIGNAL
	if c.end[1-side].is(gotEOF) {
		flags |= unix.MSG_MORE // the FIN that settle sends goes in the same packet
	}
	n, e := sysSend(to.fd, p, flags)
	if e != 0 && e != unix.EAGAIN {
		w.writeFailed(c, to)
		return
	}
	if e == unix.EAGAIN {
		n = 0
	}
	if n < len(p) {
		to.out = w.pool.keep(p[n:])
		w.block(c, side)
	}
}

// writeFailed: the peer reset the connection. The kernel tells that only once,
// so it is kept; what the peer had sent before may still be read.
func (w *worker) writeFailed(c *conn, to *end) {
	to.set(readable | toEnd)
	w.breakEnd(c, to)
}

// block waits until one end takes bytes again.
func (w *worker) block(c *conn, side uint8) {
	to := &c.end[side]
	to.set(blocked)
	if !to.is(watchOut) {
		w.watch(c, side, unix.EPOLLOUT)
	}
}

// flush writes what one end has not taken yet. It reports whether all of it is
// gone and the end can take more.
func (w *worker) flush(c *conn, side uint8) bool {
	to := &c.end[side]
	if to.is(blocked | broken) {
		return false
	}
	s := to.out
	for s.left() > 0 {
		n, e := s.writeTo(to.fd)
		if e == unix.EAGAIN {
			w.block(c, side)
			return false
		}
		if e != 0 {
			w.writeFailed(c, to)
			return false
		}
		s.advance(n)
	}
	w.pool.drop(s)
	to.out = nil
	return true
}

// yield has the direction go on when others had their turn.
func (w *worker) yield(c *conn, side uint8) {
	e := &c.end[side]
	if !e.is(queued) {
		e.set(queued)
		w.again = append(w.again, token{slot: c.slot, side: side, generation: c.generation})
	}
}

// takeTurns continues the directions that yielded.
func (w *worker) takeTurns() {
	turns := len(w.again)
	for i := 0; i < turns; i++ {
		t := w.again[i]
		if c := w.conns.get(t.slot); c.generation == t.generation && c.phase == phaseOpen {
			c.end[t.side].clear(queued)
			w.pump(c, t.side)
		}
	}
	if turns > 0 {
		w.again = append(w.again[:0], w.again[turns:]...)
	}
}
