package relay

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An Adopter hands the relay connections that it has neither accepted nor
// dialled: a proxy's, for example, which first asks the client where to.
//
//	accept ─► handshake ─► dial ─► Adopt ──► worker: pump, finish
//	(the caller, on any thread)              (as any other connection)
type Adopter struct {
	relay *Relay
	from  *Listener // without a socket: what its connections have in common
	turn  atomic.Uint32
}

// Adopter returns one that counts in stats. Nil means memory of its own.
func (r *Relay) Adopter(stats *Stats) *Adopter {
	if stats == nil {
		stats = new(Stats)
	}
	l := &Listener{forward: Forward{Network: "tcp"}, routes: make([]route, 1), stats: stats, relay: r, fd: -1}
	return &Adopter{relay: r, from: l}
}

// Stats returns the counters.
func (a *Adopter) Stats() *Stats { return a.from.stats }

// maxHead is what a connection can keep for a socket that takes nothing yet.
const maxHead = bufSize

// Adopt takes over two connected TCP sockets, whoever made them and wherever:
// the descriptors belong to the relay from the call on, and nobody else may
// have an open one for the same socket. Bytes move both ways until both have
// ended, and every end is passed on, as Serve does it for clients of its own;
// Limits count for them too, but for DialTimeout. head are the client's first
// bytes, which the caller has read already: at most 64 KiB.
//
// The error is net.ErrClosed if the relay does not serve (any more). Whenever
// there is an error, both sockets have been reset.
func (a *Adopter) Adopt(client, target int, head []byte) error {
	err := a.adopt(client, target, head)
	if err != nil {
		sysReset(int32(client))
		sysReset(int32(target))
	}
	return err
}

func (a *Adopter) adopt(client, target int, head []byte) error {
	if len(head) > maxHead {
		return fmt.Errorf("relay: %d bytes read ahead; at most %d can be passed on", len(head), maxHead)
	}
	for _, fd := range []int{client, target} {
		if err := prepareAdopted(fd); err != nil {
			return err
		}
	}
	a.relay.mu.Lock()
	workers := a.relay.workers
	a.relay.mu.Unlock()
	if len(workers) == 0 {
		return net.ErrClosed
	}
	w := workers[int(a.turn.Add(1))%len(workers)]
	if !w.post(func(w *worker) { w.adopt(a.from, int32(client), int32(target), head) }) {
		return net.ErrClosed
	}
	return nil
}

// prepareAdopted makes of a connected socket what accept and dial would have.
func prepareAdopted(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("relay: adopt a socket: %w", err)
	}
	for _, o := range append([]option{{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}}, keepalive...) {
		if e := sysSetInt(int32(fd), o.level, o.name, o.value); e != 0 {
			return fmt.Errorf("relay: adopt a socket: %w", e)
		}
	}
	return nil
}

// adopt begins to move the bytes of a connection that is made already.
func (w *worker) adopt(from *Listener, clientFD, targetFD int32, head []byte) {
	p := w.adoptedPort(from)
	cl, why := w.admitAdopted(p, clientFD)
	if why != nil {
		sysReset(clientFD)
		sysReset(targetFD)
		return
	}
	add(&p.stats.Total, 1)
	add(&p.stats.Active, 1)
	c := w.conns.alloc()
	w.pace.begin(c)
	c.port, c.client, c.phase = p, cl, phaseOpen
	c.end[client] = end{fd: clientFD, flags: readable}
	c.end[target] = end{fd: targetFD, flags: readable}
	if len(head) > 0 {
		w.moved(c, client, len(head))
		w.write(c, target, head)
	}
	if c.phase == phaseOpen {
		w.open(c)
	}
}

// adoptedPort is what this worker knows of an Adopter.
func (w *worker) adoptedPort(from *Listener) *port {
	p := w.adopted[from]
	if p == nil {
		if w.adopted == nil {
			w.adopted = make(map[*Listener]*port)
		}
		p = &port{Listener: from}
		w.adopted[from] = p
	}
	return p
}

var errEnded = errors.New("the relay has ended")

// admitAdopted is admit for a client that somebody else has accepted. One that
// was reset meanwhile has no address any more, but its bytes are still there.
func (w *worker) admitAdopted(p *port, fd int32) (*clientCount, error) {
	if w.inbox.over { // it came while the worker ended
		return nil, errEnded
	}
	if e := sysPeer(fd, &w.client); e != 0 {
		w.client = unix.RawSockaddrInet6{}
	}
	cl, why := w.relay.admit(p, &w.client)
	if why != nil {
		add(&p.stats.Refused, 1)
		w.relay.reports.send(report{reportRefused, addrPort(&w.client), p.addr, why})
	}
	return cl, why
}
