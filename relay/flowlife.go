package relay

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// How a flow begins, goes on with another target, makes room and ends.

// newFlow makes a flow to the first target that can be dialled, or returns nil.
func (u *udpLoop) newFlow(p *port, key flowKey, b *burst) *flow {
	if !u.makeRoom() {
		return nil
	}
	fs := &u.flows
	f := &flow{key: key, port: p, at: u.w.time(), route: p.route, head: -1, tail: -1}
	f.client.raw, f.client.size = *b.from, unix.SizeofSockaddrInet6
	if f.client.raw.Family == unix.AF_INET {
		f.client.size = unix.SizeofSockaddrInet4
	}
	f.controlLen = replyControl(f.control[:], b)
	fs.takeSlot(f)
	for range p.routes {
		e := u.dial(f)
		if outOfResources(e) && u.evict(0) {
			e = u.dial(f)
		}
		if e == 0 {
			fs.byKey[key] = f
			fs.fresh.push(f)
			add(&p.stats.Total, 1)
			add(&p.stats.Active, 1)
			return f
		}
		u.dialFailed(f, e)
		f.route = uint8((int(f.route) + 1) % len(p.routes))
	}
	fs.freeSlot(f)
	u.count(-1)
	return nil
}

// count adds n to the number of flows and returns that of all workers.
func (u *udpLoop) count(n int64) int64 {
	u.total.Add(n)
	return u.w.relay.flows.Add(n)
}

// makeRoom counts one more flow, at the cost of the idlest if need be: of the
// worker that has most flows, so that a flood on one port does not crowd out the
// few clients of another. A quarter of all flows is left to those that are not
// assured.
func (u *udpLoop) makeRoom() bool {
	limit := int64(u.w.relay.Limits.maxFlows())
	if u.count(1) <= limit {
		return true
	}
	if b := u.busiest(); b != u && b.w.post(func(w *worker) { w.udp.shrink(limit) }) {
		return true
	}
	if u.evict(limit / 4) {
		return true
	}
	u.count(-1)
	return false
}

// busiest returns the loop that has more flows than this one and all others, or
// this one.
func (u *udpLoop) busiest() *udpLoop {
	most := u
	for _, w := range u.w.relay.workers { // does not change while workers serve
		if w.udp.total.Load() > most.total.Load() {
			most = &w.udp
		}
	}
	return most
}

// shrink ends a flow if there are too many.
func (u *udpLoop) shrink(limit int64) {
	if u.w.relay.flows.Load() > limit {
		u.evict(limit / 4)
	}
}

// evict ends the idlest flow.
func (u *udpLoop) evict(reserved int64) bool {
	f := u.flows.fresh.first
	if a := u.flows.assured.first; a != nil && int64(u.flows.fresh.n) < reserved || f == nil {
		f = a
	}
	if f == nil {
		return false
	}
	add(&f.port.stats.Evicted, 1)
	u.end(f)
	return true
}

// dial makes f's socket, connected to its current target. As with TCP it is
// made on the worker's thread.
func (u *udpLoop) dial(f *flow) syscall.Errno {
	fd, e := u.dialRoute(&f.port.routes[f.route])
	if e != 0 {
		return e
	}
	if e = u.w.register(fd, unix.EPOLLIN, token{kind: kindFlow, slot: f.slot, generation: f.generation}); e != 0 {
		sysClose(fd)
		return e
	}
	f.fd, f.plain = fd, false
	return 0
}

func (u *udpLoop) dialFailed(f *flow, e syscall.Errno) {
	add(&f.port.stats.DialErrors, 1)
	kind := reportDial
	if outOfResources(e) {
		kind = reportDescriptors
	}
	u.w.relay.reports.send(report{kind, f.port.routes[f.route].target, f.port.addr, e})
}

func (u *udpLoop) dialRoute(r *route) (int32, syscall.Errno) {
	if r.barred {
		return -1, unix.EADDRNOTAVAIL
	}
	fd, e := sysSocket(r.addr.family, unix.SOCK_DGRAM)
	if e != 0 {
		return -1, e
	}
	if r.source != nil {
		e = sysBind(fd, r.source)
	}
	if e == 0 {
		e = sysConnect(fd, &r.addr)
	}
	if e != 0 {
		sysClose(fd)
		return -1, e
	}
	sysSetInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // an older kernel does without
	return fd, 0
}

// nextTarget has f go on with another target, and new flows begin there.
func (u *udpLoop) nextTarget(f *flow) bool {
	add(&f.port.stats.DialErrors, 1)
	sysClose(f.fd)
	f.fd = -1
	f.route = uint8((int(f.route) + 1) % len(f.port.routes))
	f.answered, f.sent = false, false
	f.port.route = f.route
	if e := u.dial(f); e != 0 {
		u.dialFailed(f, e)
		u.end(f)
		return false
	}
	return true
}

// end closes f and forgets it.
func (u *udpLoop) end(f *flow) {
	if f.fd >= 0 {
		sysClose(f.fd)
		f.fd = -1
	}
	fs := &u.flows
	fs.list(f).remove(f)
	delete(fs.byKey, f.key)
	fs.freeSlot(f)
	sub(&f.port.stats.Active)
	u.count(-1)
}

// replyControl writes the control message that makes answers come from the
// address that b was sent to (ip(7), IP_PKTINFO), and returns its length.
func replyControl(buf []byte, b *burst) int {
	if b.local == ([16]byte{}) {
		return 0
	}
	if b.from.Family == unix.AF_INET {
		body := putCmsg(buf, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		copy(body[4:8], b.local[12:]) // ipi_spec_dst
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	body := putCmsg(buf, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	copy(body[:16], b.local[:])
	binary.NativeEndian.PutUint32(body[16:], b.from.Scope_id) // zero unless link-local
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}
