package relay

import "time"

// Everything that a worker waits for has a duration that is the same for all, so
// a timer is a place in a list that is in order by itself.
type timers struct {
	dial    timerList
	idle    timerList
	closing timerList
	starved timerList     // without a time of their own: they end with the pause
	checked time.Duration // when closing connections were looked at

	swept     time.Duration // when a chunk of connections was
	sweepNext int
}

// Which list a connection is in.
const (
	timerNone uint8 = iota
	timerDial
	timerIdle
	timerClosing
	timerStarved
)

type timerList struct{ first, last *conn }

func (t *timers) list(which uint8) *timerList {
	switch which {
	case timerDial:
		return &t.dial
	case timerIdle:
		return &t.idle
	case timerClosing:
		return &t.closing
	default:
		return &t.starved
	}
}

func (w *worker) startTimer(c *conn, which uint8) {
	l := w.timers.list(which)
	c.timer, c.at = which, w.time()
	c.prev, c.next = l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
}

func (w *worker) stopTimer(c *conn) {
	if c.timer == timerNone {
		return
	}
	l := w.timers.list(c.timer)
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.timer, c.prev, c.next = timerNone, nil, nil
}

// nextTimer returns when expire has something to do, or a negative time.
func (w *worker) nextTimer() time.Duration {
	due := time.Duration(-1)
	at := func(t time.Duration) {
		if due < 0 || t < due {
			due = t
		}
	}
	if c := w.timers.dial.first; c != nil {
		at(c.at + w.relay.Limits.dialTimeout())
	}
	if c := w.timers.idle.first; c != nil {
		at(c.at + w.relay.Limits.IdleTimeout)
	}
	if w.timers.closing.first != nil {
		at(w.timers.checked + closingCheck)
	}
	if w.conns.open > 0 {
		at(w.timers.swept + w.sweepInterval())
	}
	if w.pause.on {
		at(w.pause.until)
	}
	if t := w.udp.nextTimer(); t >= 0 {
		at(t)
	}
	return due
}

// expire does what is due.
func (w *worker) expire() {
	due := w.nextTimer()
	if due < 0 {
		return
	}
	now := w.time()
	if now < due {
		return
	}
	for c := w.timers.dial.first; c != nil && now >= c.at+w.relay.Limits.dialTimeout(); c = w.timers.dial.first {
		w.stopTimer(c)
		w.redial(c, errDialTimeout)
	}
	for c := w.timers.idle.first; c != nil && now >= c.at+w.relay.Limits.IdleTimeout; c = w.timers.idle.first {
		w.finish(c)
	}
	if now >= w.timers.checked+closingCheck {
		w.checkClosing(now)
	}
	if w.pause.on && now >= w.pause.until {
		w.resumeAccept()
	}
	if now >= w.timers.swept+w.sweepInterval() {
		w.sweep(now)
	}
	w.udp.expire(now)
}
