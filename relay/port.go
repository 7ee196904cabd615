package relay

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A port is a listener as one worker sees it.
type port struct {
	*Listener
	index   uint32
	in, out uint64 // bytes moved since the counts were flushed
	dirty   bool
	route   uint8 // UDP: the target that new flows begin with
	plain   bool  // UDP: the path to clients takes no segments
}

func (p *port) event(w *worker) {
	if p.forward.Network == "udp" {
		w.udp.receive(p)
	} else {
		w.accept(p)
	}
}

func (w *worker) attach(l *Listener) {
	p := &port{Listener: l, index: uint32(len(w.ports))}
	for i, old := range w.ports {
		if old == nil {
			p.index = uint32(i)
			break
		}
	}
	if int(p.index) == len(w.ports) {
		w.ports = append(w.ports, nil)
	}
	w.ports[p.index] = p
	if !w.pause.on || l.forward.Network == "udp" {
		w.arm(p)
	}
}

// arm makes the worker one of those that a new client wakes. The kernel wakes
// just one of them for each (epoll_ctl(2), EPOLLEXCLUSIVE).
func (w *worker) arm(p *port) {
	if e := w.register(p.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, token{kind: kindPort, slot: p.index}); e != 0 && e != unix.EEXIST {
		w.relay.reports.send(report{kind: reportDescriptors, err: fmt.Errorf("listen on %v: %w", p.addr, e)})
	}
}

func (w *worker) disarm(p *port) {
	w.epollCtl(unix.EPOLL_CTL_DEL, p.fd, 0, token{})
}

func (w *worker) detach(l *Listener) {
	for i, p := range w.ports {
		if p != nil && p.Listener == l {
			w.disarm(p)
			w.udp.detach(p)
			w.ports[i] = nil
		}
	}
}

// count adds bytes moved for p: in from the client, out to it.
func (w *worker) count(p *port, in, out int) {
	p.in += uint64(in)
	p.out += uint64(out)
	if !p.dirty {
		p.dirty = true
		w.dirty = append(w.dirty, p)
	}
}

func (w *worker) flushCounts() {
	for _, p := range w.dirty {
		if p.in > 0 {
			add(&p.stats.BytesIn, p.in)
		}
		if p.out > 0 {
			add(&p.stats.BytesOut, p.out)
		}
		p.in, p.out, p.dirty = 0, 0, false
	}
	w.dirty = w.dirty[:0]
}
