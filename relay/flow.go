package relay

import (
	"encoding/binary"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A flow is the datagrams between one client and one address that it asked, and
// the socket that was made for them.
type flow struct {
	key        flowKey
	port       *port
	fd         int32
	slot       uint32
	generation uint32
	at         time.Duration // of the last datagram either way
	prev, next *flow         // in the list it is in
	route      uint8
	answered   bool // the target has sent something
	assured    bool // the client has sent something after that: it is where it says
	plain      bool // the path to the target takes no segments (udp(7), UDP_SEGMENT)

	client     sockaddr // where answers go
	control    [40]byte // the message that says which address they come from
	controlLen int

	head, tail int32 // bursts at hand for it, or -1
}

// A flowKey tells flows apart. IPv4 addresses are mapped.
type flowKey struct {
	client, local [16]byte
	scope         uint32
	clientPort    uint16
	index         uint16 // of the relay's port
}

// flows holds a worker's flows. Of two lists, one is for flows whose client has
// shown that it receives answers: clients with invented addresses crowd out
// each other, and not those.
type flows struct {
	byKey          map[flowKey]*flow
	slots          []*flow
	free           []uint32
	fresh, assured flowList
	generation     uint32
}

type flowList struct {
	first, last *flow
	n           int
}

func (fs *flows) init() { fs.byKey = make(map[flowKey]*flow) }

func (fs *flows) get(slot uint32) *flow {
	if int(slot) < len(fs.slots) {
		return fs.slots[slot]
	}
	return nil
}

func (fs *flows) list(f *flow) *flowList {
	if f.assured {
		return &fs.assured
	}
	return &fs.fresh
}

// touch notes that f is in use.
func (fs *flows) touch(f *flow, now time.Duration, assured bool) {
	if f.at == now && f.assured == assured {
		return
	}
	fs.list(f).remove(f)
	f.at, f.assured = now, f.assured || assured
	fs.list(f).push(f)
}

func (l *flowList) push(f *flow) {
	f.prev, f.next = l.last, nil
	if l.last != nil {
		l.last.next = f
	} else {
		l.first = f
	}
	l.last = f
	l.n++
}

func (l *flowList) remove(f *flow) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.last = f.prev
	}
	f.prev, f.next = nil, nil
	l.n--
}

func newFlowKey(p *port, b *burst) flowKey {
	k := flowKey{local: b.local, index: uint16(p.index)}
	if b.from.Family == unix.AF_INET {
		sa := b.from4()
		k.client = mapped(sa.Addr)
		k.clientPort = sa.Port
	} else {
		k.client, k.clientPort, k.scope = b.from.Addr, b.from.Port, b.from.Scope_id
	}
	return k
}

func mapped(v4 [4]byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], v4[:])
	return a
}

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
	u.w.relay.flows.Add(-1)
	return nil
}

func (fs *flows) takeSlot(f *flow) {
	fs.generation++
	f.generation = fs.generation
	if n := len(fs.free); n > 0 {
		f.slot, fs.free = fs.free[n-1], fs.free[:n-1]
	} else {
		f.slot = uint32(len(fs.slots))
		fs.slots = append(fs.slots, nil)
	}
	fs.slots[f.slot] = f
}

func (fs *flows) freeSlot(f *flow) {
	fs.slots[f.slot] = nil
	fs.free = append(fs.free, f.slot)
}

// makeRoom counts one more flow, at the cost of the idlest if need be. A quarter
// of all flows is left to those that are not assured.
func (u *udpLoop) makeRoom() bool {
	r := u.w.relay
	limit := int64(r.Limits.maxFlows())
	if r.flows.Add(1) <= limit {
		return true
	}
	if u.evict(limit / 4) {
		return true
	}
	r.flows.Add(-1)
	return false
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
	f.answered = false
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
	u.w.relay.flows.Add(-1)
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
