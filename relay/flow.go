package relay

import (
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
	sent       bool // something was sent to the target, and it did not refuse that
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
