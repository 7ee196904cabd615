// Package portmap asks a gateway to lead one of its ports to us: by NAT-PMP
// (RFC 6886), which VPN providers have for this, or by its successor PCP
// (RFC 6887).
//
//	Client.Map ── UDP, port 5351 ──► gateway
//	           ◄── external port, lifetime ──
//
// Only the messages are known here. When to ask again, and what to do with a
// port, is the caller's business, and so is where the socket is made. The
// libraries there are make their own, and know one of the two protocols.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// A Protocol is a way of asking.
type Protocol string

// The protocols.
const (
	NATPMP Protocol = "natpmp"
	PCP    Protocol = "pcp"
)

// port is where gateways listen.
const port = 5351

// A Client asks one gateway. It is used by one goroutine at a time.
type Client struct {
	Protocol Protocol
	Gateway  netip.Addr
	// Dial makes a connected UDP socket.
	Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	// Nonce tells a gateway of PCP that it is us who renews (RFC 6887, 11.2): it
	// refuses others.
	Nonce [12]byte
}

// A Mapping is what a gateway has granted.
type Mapping struct {
	Internal uint16        // port here
	External uint16        // port there
	Lifetime time.Duration // for how long
}

// A Refusal is a gateway's answer that grants nothing.
type Refusal struct {
	Protocol Protocol
	Code     int // RFC 6886, 3.5; RFC 6887, 7.4
}

func (r *Refusal) Error() string {
	names := refusals[r.Protocol]
	if r.Code < len(names) && names[r.Code] != "" {
		return fmt.Sprintf("the gateway says: %s (%s result %d)", names[r.Code], r.Protocol, r.Code)
	}
	return fmt.Sprintf("the gateway has refused (%s result %d)", r.Protocol, r.Code)
}

// ErrVersion is the error of a gateway that does not speak the protocol.
var ErrVersion = errors.New("the gateway does not speak this protocol")

// Map asks for a port there that leads to the port internal here, for network
// "udp" or "tcp", and for external if that is free. To ask again for a mapping
// that is there renews it; a lifetime of 0 gives it back. The error is a
// *Refusal, ErrVersion, or the reason why there was no answer until ctx was
// done.
func (c *Client) Map(ctx context.Context, network string, internal, external uint16, lifetime time.Duration) (Mapping, error) {
	conn, err := c.Dial(ctx, "udp", netip.AddrPortFrom(c.Gateway, port))
	if err != nil {
		return Mapping{}, err
	}
	defer conn.Close()
	var query []byte
	var read func([]byte) (Mapping, bool, error)
	switch c.Protocol {
	case NATPMP:
		query = natpmpQuery(network, internal, external, lifetime)
		read = func(b []byte) (Mapping, bool, error) { return readNATPMP(b, network, internal) }
	case PCP:
		query = pcpQuery(localAddr(conn), c.Nonce, network, internal, external, lifetime)
		read = func(b []byte) (Mapping, bool, error) { return readPCP(b, c.Nonce, network, internal) }
	default:
		return Mapping{}, fmt.Errorf("unknown protocol %q", c.Protocol)
	}
	return exchange(ctx, conn, query, read)
}

func localAddr(c net.Conn) netip.Addr {
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// firstWait is how long the first answer may take; each further try waits twice
// as long as the one before it (RFC 6886, 3.1).
const firstWait = 250 * time.Millisecond

// exchange sends query until read takes something for the answer.
func exchange(ctx context.Context, c net.Conn, query []byte, read func([]byte) (Mapping, bool, error)) (Mapping, error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1100) // PCP's largest message
	for wait := firstWait; ; wait *= 2 {
		c.SetDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // its end may have come between
			return Mapping{}, fmt.Errorf("the gateway does not answer: %w", ctx.Err())
		}
		if _, err := c.Write(query); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return Mapping{}, err
		}
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return Mapping{}, err // ICMP: nobody listens
			}
			if m, ours, err := read(buf[:n]); ours {
				return m, err
			}
		}
	}
}
