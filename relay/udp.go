package relay

import (
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// udpLoop is the part of a worker that relays datagrams. A UDP socket is read by
// one worker only, so that a client's datagrams stay in order and have one flow.
//
// Reading and sending go in batches: all that waits in a socket is read with one
// call, and all that goes to the same flow is sent with one call.
type udpLoop struct {
	w     *worker
	io    *datagrams // made with the first UDP port
	flows flows
	batch []*flow // those that the datagrams at hand belong to

	total atomic.Int64 // of this worker's flows; others read it
}

func (u *udpLoop) init(w *worker) {
	u.w = w
	u.flows.init()
}

// receive passes on what clients have sent to p.
func (u *udpLoop) receive(p *port) {
	if u.io == nil {
		u.io = newDatagrams()
	}
	in := u.io.read(p.fd)
	u.batch = u.batch[:0]
	var key flowKey
	var f *flow
	for i := range in {
		b := &in[i]
		k := newFlowKey(p, b)
		if f == nil || k != key {
			key, f = k, u.flowFor(p, k, b)
		}
		if f == nil {
			add(&p.stats.Dropped, uint64(b.count()))
			continue
		}
		u.queue(f, b, int32(i))
	}
	for _, f := range u.batch {
		if u.flows.get(f.slot) == f { // not evicted meanwhile
			u.forward(f, in)
		}
		f.head, f.tail = -1, -1
	}
}

// queue adds the burst with index i to those that f is to send.
func (u *udpLoop) queue(f *flow, b *burst, i int32) {
	b.next = -1
	if f.head < 0 {
		f.head = i
		u.batch = append(u.batch, f)
	} else {
		u.io.in[f.tail].next = i
	}
	f.tail = i
}

// flowFor returns the flow that key names, made now if there is none, or nil if
// the client is not to be served.
func (u *udpLoop) flowFor(p *port, key flowKey, b *burst) *flow {
	if f := u.flows.byKey[key]; f != nil {
		return f
	}
	if client := b.client(); !p.forward.allows(client.Addr()) {
		add(&p.stats.Refused, 1)
		u.w.relay.reports.send(report{reportRefused, client, p.addr, errNotAllowed})
		return nil
	}
	return u.newFlow(p, key, b)
}

// forward sends the bursts that are queued for f to its target.
func (u *udpLoop) forward(f *flow, in []burst) {
	u.flows.touch(f, u.w.time(), f.answered)
	for try := 0; ; try++ {
		out := u.io.sender(f.fd, nil, nil, !f.plain)
		for i := f.head; i >= 0; i = in[i].next {
			out.add(in[i].data, in[i].size)
		}
		out.flush()
		f.plain = f.plain || out.noSegments
		// A target on this host that is not there says so at once. Before it
		// has ever answered, the same datagrams go to the next one.
		refused := out.refused
		if routes := len(f.port.routes); routes > 1 && !f.answered {
			refused = refused || !f.sent && sysRefused(f.fd)
			if refused && try+1 < routes && u.nextTarget(f) {
				continue
			}
		} else if refused && routes > 1 {
			u.nextTarget(f)
		}
		f.sent = f.sent || !refused
		u.w.count(f.port, out.bytes, 0)
		add(&f.port.stats.DatagramsIn, uint64(out.datagrams))
		if out.dropped > 0 {
			add(&f.port.stats.Dropped, uint64(out.dropped))
		}
		return
	}
}

// sysRefused reports whether nobody listens where a datagram was just sent.
func sysRefused(fd int32) bool {
	e, _ := sysGetInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return syscall.Errno(e) == unix.ECONNREFUSED
}

// event passes on what the target of a flow has sent.
func (u *udpLoop) event(slot, generation, _ uint32) {
	f := u.flows.get(slot)
	if f == nil || f.generation&generationMask != generation {
		return
	}
	in := u.io.read(f.fd)
	if len(in) == 0 {
		// Nobody listens there: that is no end of the flow, for the target may
		// appear later. The next datagram goes to the next target, if any.
		if u.io.err == unix.ECONNREFUSED {
			add(&f.port.stats.DialErrors, 1)
			if len(f.port.routes) > 1 {
				u.nextTarget(f)
			}
		}
		return
	}
	f.answered = true
	u.flows.touch(f, u.w.time(), f.assured)
	out := u.io.sender(f.port.fd, &f.client, f.control[:f.controlLen], !f.port.plain)
	for i := range in {
		out.add(in[i].data, in[i].size)
	}
	out.flush()
	f.port.plain = f.port.plain || out.noSegments
	u.w.count(f.port, 0, out.bytes)
	add(&f.port.stats.DatagramsOut, uint64(out.datagrams))
	if out.dropped > 0 {
		add(&f.port.stats.Dropped, uint64(out.dropped))
	}
}

// detach ends the flows of p, which cannot answer without its socket.
func (u *udpLoop) detach(p *port) {
	for _, f := range u.flows.slots {
		if f != nil && f.port == p {
			u.end(f)
		}
	}
}

func (u *udpLoop) close() {
	for _, f := range u.flows.slots {
		if f != nil {
			u.end(f)
		}
	}
}

// nextTimer returns when the idlest flow ends, or a negative time.
func (u *udpLoop) nextTimer() time.Duration {
	due := time.Duration(-1)
	for _, l := range []*flowList{&u.flows.fresh, &u.flows.assured} {
		if f := l.first; f != nil {
			if t := f.at + u.w.relay.Limits.flowTimeout(); due < 0 || t < due {
				due = t
			}
		}
	}
	return due
}

func (u *udpLoop) expire(now time.Duration) {
	timeout := u.w.relay.Limits.flowTimeout()
	for _, l := range []*flowList{&u.flows.fresh, &u.flows.assured} {
		for l.first != nil && now >= l.first.at+timeout {
			u.end(l.first)
		}
	}
}
