package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgjail/wgjail/relay"
)

// An association is what UDP ASSOCIATE makes: a socket for the client's
// datagrams, each with a header that says where to, and one of each family for
// those to and from targets.
//
//	client ◄─ header, data ─► inner │ outer (made by Dialer) ◄─ data ─► targets
//
// It lasts as long as the TCP connection that asked for it (RFC 1928, 7).
type association struct {
	*session
	stats *relay.Stats
	inner *net.UDPConn
	from  netip.Addr // whose datagrams are taken

	mu     sync.Mutex
	client netip.AddrPort // where answers go; invalid until the client has sent something
	outer  [2]*net.UDPConn
	over   bool
	wg     sync.WaitGroup

	lookups chan struct{} // one for each that is going on
}

const (
	maxDatagram = 64 << 10
	// maxLookups is how many names of one association are looked up at a time.
	// Datagrams to more of them are lost, as datagrams are.
	maxLookups = 16
)

// associate is UDP ASSOCIATE. The client may say where its datagrams will come
// from; its address is known better from the connection.
func (x *session) associate(announced endpoint) {
	local, remote := addrOf(x.client.LocalAddr()), addrOf(x.client.RemoteAddr())
	inner, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		x.log("associate", "error", err)
		x.sendAway(socksReply(replyFailed, netip.AddrPort{}))
		return
	}
	a := &association{session: x, stats: x.Adopter.Stats(), inner: inner, from: remote.Addr(), lookups: make(chan struct{}, maxLookups)}
	if announced.port != 0 {
		a.client = netip.AddrPortFrom(a.from, announced.port)
	}
	bound := netip.AddrPortFrom(local.Addr(), uint16(inner.LocalAddr().(*net.UDPAddr).Port))
	if _, err := x.client.Write(socksReply(replyDone, bound)); err != nil {
		inner.Close()
		return
	}
	atomic.AddUint64(&a.stats.Total, 1)
	atomic.AddUint64(&a.stats.Active, 1)
	a.wg.Go(a.receive)
	x.client.SetDeadline(time.Time{})
	io.Copy(io.Discard, x.client)
	a.close()
	atomic.AddUint64(&a.stats.Active, ^uint64(0))
}

func (a *association) close() {
	a.mu.Lock()
	a.over = true
	for _, c := range append(a.outer[:], a.inner) {
		if c != nil {
			c.Close()
		}
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// receive passes on what the client sends, until inner is closed.
func (a *association) receive() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.inner.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !a.isClient(from) {
			a.dropped()
			continue
		}
		to, data, ok := parseDatagram(buf[:n])
		if !ok {
			a.dropped()
			continue
		}
		if ip, err := netip.ParseAddr(to.host); err == nil {
			a.send([]netip.Addr{ip}, to.port, data)
		} else {
			a.sendToName(to, bytes.Clone(data))
		}
	}
}

// isClient reports whether from is the client, which is the first to send
// something from its address if it has not said its port.
func (a *association) isClient(from netip.AddrPort) bool {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.client.IsValid() && from.Addr() == a.from {
		a.client = from
	}
	return from == a.client
}

func (a *association) dropped() { atomic.AddUint64(&a.stats.Dropped, 1) }

// parseDatagram takes the header off (RFC 1928, 7). Fragments are dropped, as
// the RFC allows.
func parseDatagram(b []byte) (to endpoint, data []byte, ok bool) {
	if len(b) < 4 || b[2] != 0 {
		return to, nil, false
	}
	r := bytes.NewReader(b[3:])
	to, err := readEndpoint(r)
	return to, b[len(b)-r.Len():], err == nil
}

// sendToName looks a name up, others go on meanwhile, and sends data there.
func (a *association) sendToName(to endpoint, data []byte) {
	select {
	case a.lookups <- struct{}{}:
	default:
		a.dropped()
		return
	}
	a.wg.Go(func() {
		defer func() { <-a.lookups }()
		ctx, cancel := context.WithTimeout(a.ctx, a.timeout())
		defer cancel()
		addrs, err := a.Lookup(ctx, to.host)
		if err != nil {
			a.log("target", "host", to.host, "error", err)
		}
		a.send(addrs, to.port, data)
	})
}

// send sends a datagram to the first address that can be sent to.
func (a *association) send(addrs []netip.Addr, port uint16, data []byte) {
	for _, ip := range addrs {
		ip = ip.Unmap()
		if ip.IsUnspecified() || ip.IsMulticast() || port == 0 {
			continue
		}
		c, err := a.outerFor(ip)
		if err == nil {
			_, err = c.WriteToUDPAddrPort(data, netip.AddrPortFrom(ip, port))
		}
		if err == nil {
			atomic.AddUint64(&a.stats.DatagramsIn, 1)
			atomic.AddUint64(&a.stats.BytesIn, uint64(len(data)))
			return
		}
		a.log("send", "to", ip, "error", err)
	}
	a.dropped()
}

// outerFor returns the socket for targets of ip's family.
func (a *association) outerFor(ip netip.Addr) (*net.UDPConn, error) {
	i := 0
	if ip.Is6() {
		i = 1
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil, net.ErrClosed
	}
	if a.outer[i] == nil {
		c, err := a.Dialer.ListenPacket(ip)
		if err != nil {
			return nil, err
		}
		a.outer[i] = c
		a.wg.Go(func() { a.answer(c) })
	}
	return a.outer[i], nil
}

// answer passes on what targets send, until c is closed.
func (a *association) answer(c *net.UDPConn) {
	const room = 3 + 1 + 16 + 2 // of the longest header
	buf := make([]byte, room+maxDatagram)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf[room:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an ICMP error told of one datagram
		}
		header := appendAddr([]byte{0, 0, 0}, from)
		out := buf[room-len(header) : room+n]
		copy(out, header)
		a.mu.Lock()
		to := a.client
		a.mu.Unlock()
		if _, err := a.inner.WriteToUDPAddrPort(out, to); err != nil {
			a.dropped()
			continue
		}
		atomic.AddUint64(&a.stats.DatagramsOut, 1)
		atomic.AddUint64(&a.stats.BytesOut, uint64(n))
	}
}
