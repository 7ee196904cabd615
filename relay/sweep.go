package relay

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deadAfter is how long a peer may acknowledge nothing before it is given up:
// as long as keepalive takes, and longer than the kernel's longest interval of
// two minutes between probes of a window that is closed.
const deadAfter = keepIdle + keepCount*keepInterval

// sweepPeriod is how often every connection is looked at.
const sweepPeriod = 15 * time.Second

// sweep finds peers that went away while bytes were on their way to them. Then
// the kernel does not send keepalive probes, but repeats the bytes, for a
// quarter of an hour. TCP_USER_TIMEOUT would end that, and also every
// connection to a peer that is alive and well but does not read for a while, so
// the question is asked here: was there any acknowledgement lately?
//
// Each call looks at one chunk, so that many connections do not delay anyone.
func (w *worker) sweep(now time.Duration) {
	w.timers.swept = now
	if len(w.conns.chunks) == 0 {
		return
	}
	w.timers.sweepNext++
	chunk := w.conns.chunks[w.timers.sweepNext%len(w.conns.chunks)]
	for i := range chunk {
		c := &chunk[i]
		for side := range c.end {
			if c.phase == phaseOpen && w.dead(c, side) {
				w.breakEnd(c, &c.end[side])
				c.end[side].clear(readable)
				w.settle(c, uint8(side))
			}
		}
	}
}

// sweepInterval is the time between two calls of sweep.
func (w *worker) sweepInterval() time.Duration {
	return sweepPeriod / time.Duration(max(1, len(w.conns.chunks)))
}

// dead reports whether one end has bytes on their way and nobody there to take
// them. A target on this host is there, or has said that it is gone.
func (w *worker) dead(c *conn, side int) bool {
	e := &c.end[side]
	if e.is(broken) || side == target && c.port.routes[c.route].local || sysUnsent(e.fd) == 0 {
		return false
	}
	info := &w.tcpInfo
	size := uint32(unsafe.Sizeof(*info))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(e.fd), unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	silent := time.Duration(info.Last_ack_recv) * time.Millisecond
	return errno == 0 && silent >= w.relay.deadAfter
}
