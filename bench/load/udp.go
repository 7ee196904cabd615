package load

import (
	"context"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// How Datagrams drives its flows.
const (
	udpFlows  = 16 // sockets, each a client of its own
	udpWindow = 8  // datagrams of a flow under way at a time
	// A flow that hears nothing for this long has lost what is under way.
	udpLost = 100 * time.Millisecond
)

// Datagrams has datagrams returned by the server on several flows, each of which
// keeps a number of them under way. Sent less Ops is what was lost; a flow that
// goes on with less under way may hide a window's worth.
func Datagrams(ctx context.Context, t Target, w Window) (Result, error) {
	r := newRun(t, udpFlows)
	result, err := r.do(ctx, w, (*worker).openFlows, (*worker).returnDatagrams, nil)
	if err == nil && result.Ops == 0 {
		err = result.none("datagram was returned", t.UDP)
	}
	return result, err
}

// A flow is a socket's state. Datagrams carry its round, so that those that were
// given up are not taken for others, and the time they were sent at.
type flow struct {
	round uint64
	heard int64
	buf   [datagramSize]byte
}

func (w *worker) openFlows() error {
	w.flows = make([]flow, len(w.conns))
	for i := range w.conns {
		fd, err := dial(unix.SOCK_DGRAM, w.UDP)
		if err != nil {
			return err
		}
		if err := w.adopt(i, fd, unix.EPOLLIN); err != nil {
			return err
		}
		w.fill(i, &w.flows[i])
	}
	return nil
}

// fill sends until the window is full.
func (w *worker) fill(i int, f *flow) {
	f.heard = w.now()
	for range udpWindow {
		w.sendOne(i, f)
	}
}

// sendOne sends a datagram. One that the kernel refuses is lost like others.
func (w *worker) sendOne(i int, f *flow) {
	binary.NativeEndian.PutUint64(f.buf[0:], f.round)
	binary.NativeEndian.PutUint64(f.buf[8:], uint64(w.now()))
	rawWrite(w.conns[i].fd, f.buf[:])
	w.sent.Add(1)
}

func (w *worker) returnDatagrams() error {
	events, err := w.poll.wait()
	if err != nil {
		return err
	}
	for k := range events {
		i := int(events[k].Fd)
		w.takeDatagrams(i, &w.flows[i])
	}
	if now := w.now(); len(events) < len(w.flows) {
		for i := range w.flows {
			if f := &w.flows[i]; now-f.heard > udpLost.Nanoseconds() {
				f.round++
				w.fill(i, f)
			}
		}
	}
	return nil
}

// takeDatagrams reads up to a window, and sends another for each.
func (w *worker) takeDatagrams(i int, f *flow) {
	c := &w.conns[i]
	for range udpWindow {
		n, errno := rawRead(c.fd, c.buf[:])
		if errno != 0 {
			return // nothing is left, or an ICMP error has been taken
		}
		if n != datagramSize || binary.NativeEndian.Uint64(c.buf[0:]) != f.round {
			continue
		}
		f.heard = w.now()
		w.record(int64(binary.NativeEndian.Uint64(c.buf[8:])))
		w.sendOne(i, f)
	}
}

// Flood sends datagrams to the server's UDP sink, one flow as fast as it can,
// for what arrives then. Sent less Ops is what was lost.
func Flood(ctx context.Context, t Target, s *Server, w Window) (Result, error) {
	r := newRun(t, 1)
	result, err := r.do(ctx, w, (*worker).openFlood, (*worker).flood, func(c *counts) { c.ops = s.Counted() })
	if err == nil && result.Ops == 0 {
		err = result.none("datagram arrived", t.UDPSink)
	}
	return result, err
}

func (w *worker) flood() error {
	n, errno := w.burst.send(w.conns[0].fd, 0, batch)
	if errno == 0 {
		w.sent.Add(uint64(n))
		return nil
	}
	// The link's queue is full, or an ICMP error for one of those before, which
	// then count as lost.
	_, err := w.poll.wait()
	return err
}

func (w *worker) openFlood() error {
	fd, err := dial(unix.SOCK_DGRAM, w.UDPSink)
	if err != nil {
		return err
	}
	w.burst = newDatagrams(false)
	return w.adopt(0, fd, unix.EPOLLOUT)
}
