package relay

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// dial connects c to the first of its targets, from c.route on, that accepts or
// may yet do so. The socket is made here, on the worker's thread, and belongs to
// where that thread is for as long as it lives.
func (w *worker) dial(c *conn) {
	from, ok := c.takeover()
	if !ok {
		w.reset(c)
		return
	}
	for ; int(c.route) < len(c.port.routes); c.route++ {
		r := &c.port.routes[c.route]
		e := w.dialRoute(c, r, from)
		switch {
		case e == 0:
			w.open(c)
			return
		case e == unix.EINPROGRESS:
			c.phase = phaseDialing
			w.startTimer(c, timerDial)
			if w.watch(c, target, unix.EPOLLOUT) && !c.end[client].is(registered) {
				w.watch(c, client, 0) // it may give up meanwhile
			}
			return
		case outOfResources(e):
			c.phase = phaseStarved
			w.startTimer(c, timerStarved)
			w.pauseAccept(e)
			return
		}
		w.dialFailed(c, e)
	}
	// As if nobody listened on the port that the client asked for.
	w.reset(c)
}

// dialRoute returns 0 if c.end[target] is connected, and EINPROGRESS if it may
// be later. On any other error it has no socket. A valid from is the client's
// address, to dial from.
func (w *worker) dialRoute(c *conn, r *route, from netip.AddrPort) syscall.Errno {
	if from.IsValid() {
		return w.dialAs(c, r, from)
	}
	if r.barred {
		return unix.EADDRNOTAVAIL
	}
	return w.dialFrom(c, r, r.source, nil)
}

// dialFrom dials from source, or from what the kernel chooses if that is nil, with
// a socket that has these options besides the usual ones.
func (w *worker) dialFrom(c *conn, r *route, source *sockaddr, options []option) syscall.Errno {
	fd, e := sysSocket(r.addr.family, unix.SOCK_STREAM)
	if e != 0 {
		return e
	}
	e = prepareDial(fd, r, source, options)
	if e == 0 {
		e = sysConnect(fd, &r.addr)
		if e == unix.EINPROGRESS && sysHasPeer(fd) {
			e = 0 // on this host the handshake is over when connect returns
		}
	}
	if e != 0 && e != unix.EINPROGRESS {
		sysClose(fd)
		return e
	}
	c.end[target] = end{fd: fd}
	return e
}

func prepareDial(fd int32, r *route, source *sockaddr, options []option) syscall.Errno {
	for _, o := range options {
		if e := sysSetInt(fd, o.level, o.name, o.value); e != 0 {
			return e
		}
	}
	if source != nil {
		// The port is chosen by connect, which knows the target: the same
		// local port can then serve many targets (ip(7)).
		if e := sysSetInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); e != 0 {
			return e
		}
		if e := sysBind(fd, source); e != 0 {
			return e
		}
	}
	if e := sysSetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); e != 0 {
		return e
	}
	if r.local {
		// Nothing is lost on the way and no queue builds up, but the default may
		// be an algorithm that paces all the same, with a timer for every packet.
		// Where that may not be changed, things are slower.
		sysSetString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
		return 0
	}
	for _, o := range keepalive {
		if e := sysSetInt(fd, o.level, o.name, o.value); e != 0 {
			return e
		}
	}
	return 0
}

// dialed handles an event of the target's socket while it is being connected.
func (w *worker) dialed(c *conn) {
	e, _ := sysGetInt(c.end[target].fd, unix.SOL_SOCKET, unix.SO_ERROR)
	w.stopTimer(c)
	switch syscall.Errno(e) {
	case 0:
		w.open(c)
	case unix.ECONNRESET, unix.EPIPE:
		// It was connected, and reset since: before that it would be refused.
		c.end[target].set(readable | toEnd)
		w.breakEnd(c, &c.end[target])
		w.open(c)
	default:
		w.redial(c, syscall.Errno(e))
	}
}

// redial gives up the target that c waits for and tries the next.
func (w *worker) redial(c *conn, why syscall.Errno) {
	w.closeEnd(&c.end[target])
	w.dialFailed(c, why)
	c.route++
	w.dial(c)
}

func (w *worker) dialFailed(c *conn, why syscall.Errno) {
	add(&c.port.stats.DialErrors, 1)
	w.relay.reports.send(report{reportDial, c.port.routes[c.route].target, c.port.addr, why})
}

// open begins to move bytes: c has both its sockets.
func (w *worker) open(c *conn) {
	c.phase = phaseOpen
	if w.relay.Limits.IdleTimeout > 0 && c.timer == timerNone {
		w.startTimer(c, timerIdle)
	}
	if !w.announce(c) {
		return
	}
	for side := range c.end {
		if c.phase == phaseOpen && c.end[side].is(readable) {
			w.pump(c, uint8(side))
		}
	}
	// Whether there is anything else, and most often there is nothing yet, epoll
	// tells without a read that would be in vain.
	for side := range c.end {
		if c.phase == phaseOpen && !c.end[side].is(registered) {
			w.watch(c, uint8(side), 0)
		}
	}
}

// watch registers one end of c with epoll, edge-triggered and once. Writing is
// watched only after it was found blocked, so that ends that never block, nearly
// all, cause no event for it. If the kernel cannot watch any more, c is reset
// and the result is false.
func (w *worker) watch(c *conn, side uint8, more uint32) bool {
	e := &c.end[side]
	op := unix.EPOLL_CTL_ADD
	if e.is(registered) {
		op = unix.EPOLL_CTL_MOD
	}
	const always = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET&0xffffffff
	if errno := w.epollCtl(op, e.fd, always|more, token{slot: c.slot, side: side, kind: kindConn, generation: c.generation}); errno != 0 {
		// ENOMEM, or fs.epoll.max_user_watches: without events c would hang.
		w.relay.reports.send(report{kind: reportDescriptors, err: errno})
		w.reset(c)
		return false
	}
	e.set(registered)
	if more&unix.EPOLLOUT != 0 {
		e.set(watchOut)
	}
	return true
}
