package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// udpSize is the size of answers over UDP that is asked for: what fits into the
// smallest IPv6 packet (DNS Flag Day 2020), and so into any tunnel.
const udpSize = 1232

// exchange sends a question and returns the answer, and whether it was cut off.
func (r *Resolver) exchange(ctx context.Context, network string, server netip.AddrPort, q dnsmessage.Question) (a answer, cut bool) {
	id, query, err := pack(q)
	if err != nil {
		return answer{err: err}, false
	}
	c, err := r.Dial(ctx, network, server)
	if err != nil {
		return answer{err: err}, false
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		c.SetDeadline(end)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return overTCP(c, id, query, q)
	}
	if _, err := c.Write(query); err != nil {
		return answer{err: err}, false
	}
	buf := make([]byte, udpSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return answer{err: err}, false
		}
		// Anything that is no answer to this very question may be forged, and
		// the true one be on its way (RFC 5452, 9.1).
		if a, cut, ours := read(buf[:n], id, q); ours {
			return a, cut
		}
	}
}

// overTCP does it with the message's length in front (RFC 1035, 4.2.2).
func overTCP(c net.Conn, id uint16, query []byte, q dnsmessage.Question) (a answer, cut bool) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return answer{err: err}, false
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return answer{err: err}, false
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return answer{err: err}, false
	}
	a, cut, ours := read(buf, id, q)
	if !ours {
		return answer{err: errors.New("it has sent something else than an answer")}, false
	}
	return a, cut
}

// pack makes the message that asks q.
func pack(q dnsmessage.Question) (id uint16, query []byte, err error) {
	var random [2]byte
	rand.Read(random[:])
	id = binary.BigEndian.Uint16(random[:])
	var opt dnsmessage.ResourceHeader
	if err := opt.SetEDNS0(udpSize, dnsmessage.RCodeSuccess, false); err != nil {
		return 0, nil, err
	}
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions:   []dnsmessage.Question{q},
		Additionals: []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}},
	}
	query, err = m.Pack()
	return id, query, err
}

// read reads a message, and reports whether it answers q.
func read(msg []byte, id uint16, q dnsmessage.Question) (a answer, cut, ours bool) {
	var p dnsmessage.Parser
	head, err := p.Start(msg)
	if err != nil || !head.Response || head.ID != id {
		return a, false, false
	}
	asked, err := p.Question()
	if err != nil || asked.Type != q.Type || asked.Class != q.Class || !sameName(asked.Name, q.Name) {
		return a, false, false
	}
	switch head.RCode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	default:
		return answer{err: fmt.Errorf("it says %s", rcode(head.RCode))}, false, true
	}
	if head.Truncated {
		return a, true, true
	}
	if err := p.SkipAllQuestions(); err != nil {
		return answer{err: err}, false, true
	}
	return addresses(&p, q.Type), false, true
}

func rcode(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeServerFailure:
		return "that it has failed (SERVFAIL)"
	case dnsmessage.RCodeRefused:
		return "that it does not answer us (REFUSED)"
	}
	return c.String()
}

// sameName compares names, whose letters may be in either case.
func sameName(a, b dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	for i := range a.Data[:a.Length] {
		if lower(a.Data[i]) != lower(b.Data[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// addresses collects the addresses of an answer. Aliases come before them, with
// times to live of their own; the server has followed them.
func addresses(p *dnsmessage.Parser, kind dnsmessage.Type) answer {
	a := answer{ttl: maxTTL}
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return answer{err: err}
		}
		a.ttl = min(a.ttl, time.Duration(h.TTL)*time.Second)
		addr, err := address(p, h, kind)
		if err != nil {
			return answer{err: err}
		}
		if addr.IsValid() {
			a.addrs = append(a.addrs, addr)
		}
	}
	if len(a.addrs) == 0 {
		return answer{err: ErrNotFound}
	}
	return a
}

// address reads one record; one of another type has no address.
func address(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, kind dnsmessage.Type) (netip.Addr, error) {
	switch {
	case h.Type != kind || h.Class != dnsmessage.ClassINET:
		return netip.Addr{}, p.SkipAnswer()
	case kind == dnsmessage.TypeA:
		r, err := p.AResource()
		return netip.AddrFrom4(r.A), err
	}
	r, err := p.AAAAResource()
	return netip.AddrFrom16(r.AAAA).Unmap(), err
}
