package relay

import (
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptBatch is how many clients one event accepts, so that a flood of new
// ones does not starve those that are connected.
const acceptBatch = 16

// accept takes the clients that wait at p.
func (w *worker) accept(p *port) {
	for range acceptBatch {
		fd, e := sysAccept(p.fd, &w.client)
		switch {
		case e == 0:
			w.admit(p, fd)
		case e == unix.EAGAIN || e == unix.EBADF || e == unix.EINVAL: // none left, or closed
			return
		case outOfResources(e):
			w.pauseAccept(e)
			return
		}
		// Other errors belong to one client that is gone by now (accept(2)
		// says to treat them like EAGAIN); there may be more clients behind it.
		if w.pause.on {
			return
		}
	}
}

// outOfResources tells errors that go away when something else is closed. Unlike
// Errno.Temporary it knows ENOBUFS and ENOMEM.
func outOfResources(e syscall.Errno) bool {
	return e == unix.EMFILE || e == unix.ENFILE || e == unix.ENOBUFS || e == unix.ENOMEM
}

// admit makes a connection of the accepted fd, unless its client may not have one.
func (w *worker) admit(p *port, fd int32) {
	cl, why := w.relay.admit(p, &w.client)
	if why != nil {
		sysReset(fd)
		add(&p.stats.Refused, 1)
		w.relay.reports.send(report{reportRefused, addrPort(&w.client), p.addr, why})
		return
	}
	add(&p.stats.Total, 1)
	add(&p.stats.Active, 1)
	w.pause.delay = 0
	c := w.conns.alloc()
	w.pace.begin(c)
	c.port, c.client = p, cl
	c.end[client] = end{fd: fd}
	c.end[target].fd = -1
	w.dial(c)
}

// admit counts one more connection, or says why there must not be one.
func (r *Relay) admit(p *port, sa *unix.RawSockaddrInet6) (*clientCount, error) {
	perClient := r.Limits.MaxConnsPerClient
	if len(p.forward.Allow) == 0 && perClient == 0 && r.Limits.MaxConns == 0 {
		return nil, nil
	}
	addr := addrPort(sa).Addr()
	if !p.forward.allows(addr) {
		return nil, errNotAllowed
	}
	if limit := r.Limits.MaxConns; limit > 0 && r.conns.Add(1) > int64(limit) {
		r.conns.Add(-1)
		return nil, errTooMany
	}
	if perClient == 0 {
		return nil, nil
	}
	cl := r.clients.enter(addr, perClient)
	if cl == nil {
		r.leave(nil)
		return nil, errTooManyOfClient
	}
	return cl, nil
}

// leave undoes admit.
func (r *Relay) leave(cl *clientCount) {
	if r.Limits.MaxConns > 0 {
		r.conns.Add(-1)
	}
	if cl != nil {
		r.clients.leave(cl)
	}
}

// clientCounts counts connections by client address, for all workers.
type clientCounts struct {
	sync.Mutex
	m map[netip.Addr]*clientCount
}

type clientCount struct {
	addr netip.Addr
	n    int
}

// enter counts one more, or returns nil if the client has as many as it may.
func (cc *clientCounts) enter(a netip.Addr, limit int) *clientCount {
	cc.Lock()
	defer cc.Unlock()
	cl := cc.m[a]
	if cl == nil {
		if cc.m == nil {
			cc.m = make(map[netip.Addr]*clientCount)
		}
		cl = &clientCount{addr: a}
		cc.m[a] = cl
	}
	if cl.n >= limit {
		return nil
	}
	cl.n++
	return cl
}

func (cc *clientCounts) leave(cl *clientCount) {
	cc.Lock()
	defer cc.Unlock()
	if cl.n--; cl.n == 0 {
		delete(cc.m, cl.addr)
	}
}

// A pause of accepting. Clients wait in the backlog, which costs nothing; trying
// again and again would cost a whole CPU.
type pause struct {
	on    bool
	delay time.Duration // how long this one is; they get longer
	until time.Duration
}

const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// pauseAccept stops listening until a descriptor of this worker is closed, or
// for a while: others may have closed one.
func (w *worker) pauseAccept(e syscall.Errno) {
	w.relay.reports.send(report{kind: reportDescriptors, err: e})
	w.pause.delay = min(max(minPause, 2*w.pause.delay), maxPause)
	w.pause.until = w.time() + w.pause.delay
	if w.pause.on {
		return
	}
	w.pause.on = true
	w.pool.close() // its pipes are descriptors too
	for _, p := range w.ports {
		if p != nil && p.forward.Network == "tcp" {
			w.disarm(p)
		}
	}
}

// resumeAccept serves clients that were accepted but not dialled for, then
// listens again.
func (w *worker) resumeAccept() {
	w.pause.on = false
	for {
		c := w.timers.starved.first
		if c == nil {
			break
		}
		w.stopTimer(c)
		w.dial(c)
		if w.pause.on {
			return // the next pause has begun, with the listeners still disarmed
		}
	}
	for _, p := range w.ports {
		if p != nil && p.forward.Network == "tcp" {
			w.arm(p)
		}
	}
}
