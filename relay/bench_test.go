package relay_test

import (
	"io"
	"net"
	"testing"

	"github.com/wgjail/wgjail/relay"
)

// echoing returns the address of an echo service, behind a relay or not.
func echoing(b *testing.B, relayed bool) net.Addr {
	l := listenTCP(b, "127.0.0.1:0")
	serveTCP(l, echo)
	if !relayed {
		return l.Addr()
	}
	r := &relay.Relay{Workers: 1}
	f := forward(b, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(b, r)
	return net.TCPAddrFromAddrPort(f.Addr())
}

// each runs bench without and with a relay.
func each(b *testing.B, bench func(b *testing.B, addr net.Addr)) {
	b.Run("direct", func(b *testing.B) { bench(b, echoing(b, false)) })
	b.Run("relay", func(b *testing.B) { bench(b, echoing(b, true)) })
}

// A small message there and back.
func BenchmarkRoundTrip(b *testing.B) {
	each(b, func(b *testing.B, addr net.Addr) {
		c, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		msg := make([]byte, 100)
		for b.Loop() {
			c.Write(msg)
			if _, err := io.ReadFull(c, msg); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A connection from its beginning to its end, with a small message.
func BenchmarkConnection(b *testing.B) {
	each(b, func(b *testing.B, addr net.Addr) {
		msg := make([]byte, 100)
		for b.Loop() {
			c, err := net.Dial(addr.Network(), addr.String())
			if err != nil {
				b.Fatal(err)
			}
			c.Write(msg)
			if _, err := io.ReadFull(c, msg); err != nil {
				b.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0) // no TIME_WAIT: local ports would run out
			c.Close()
		}
	})
}

// One long stream, one way.
func BenchmarkBulk(b *testing.B) {
	for _, how := range []string{"direct", "relay", "adopted"} {
		b.Run(how, func(b *testing.B) {
			l := listenTCP(b, "127.0.0.1:0")
			to := addrOf(l.Addr())
			r := &relay.Relay{Workers: 1}
			var c *net.TCPConn
			switch how {
			case "direct":
				c = dial(b, to)
			case "relay":
				to = forward(b, r, "tcp", "127.0.0.1:0", to).Addr()
				serve(b, r)
				c = dial(b, to)
			case "adopted":
				front := listenTCP(b, "127.0.0.1:0")
				serve(b, r)
				c = dial(b, addrOf(front.Addr()))
				adopt(b, r.Adopter(nil), accept(b, front), dial(b, to), nil)
			}
			s := accept(b, l)
			go io.Copy(struct{ io.Writer }{io.Discard}, s)
			chunk := make([]byte, 128<<10)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A datagram there and back.
func BenchmarkDatagram(b *testing.B) {
	back := listenUDP(b, "127.0.0.1:0")
	echoUDP(back)
	r := &relay.Relay{Workers: 1}
	f := forward(b, r, "udp", "127.0.0.1:0", addrOf(back.LocalAddr()))
	serve(b, r)
	c := dialUDP(b, f.Addr())
	msg := make([]byte, 64)
	for b.Loop() {
		c.Write(msg)
		if _, err := c.Read(msg); err != nil {
			b.Fatal(err)
		}
	}
}
