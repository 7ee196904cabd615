package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/wgjail/wgjail/relay"
)

// BenchmarkBulk is one long stream from a target, by way of a forward and of
// each kind of proxy: they are to be equally fast.
func BenchmarkBulk(b *testing.B) {
	chunk := make([]byte, 128<<10)
	port := target(b, func(c *net.TCPConn) {
		bufio.NewReader(c).ReadString('\n') // a request, of whatever kind
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	request := fmt.Sprintf("GET http://x.test:%s/ HTTP/1.1\r\nHost: x.test\r\n\r\n", port)
	for _, how := range []struct {
		name  string
		open  func() string // returns where to connect
		hello string
		reply int // bytes before those of the target
	}{
		{"forward", func() string { return forward(b, port) }, "", 0},
		{"socks5", func() string { _, a := serve(b, SOCKS5, nil); return a }, "\x05\x01\x00" + connectTo(b, port), 12},
		{"connect", func() string { _, a := serve(b, HTTP, nil); return a }, "CONNECT x.test:" + port + " HTTP/1.1\r\n\r\n", len("HTTP/1.1 200 Connection established\r\n\r\n")},
		{"plain", func() string { _, a := serve(b, HTTP, nil); return a }, "", 0},
	} {
		b.Run(how.name, func(b *testing.B) {
			c := dial(b, how.open())
			io.WriteString(c, how.hello)
			if _, err := io.ReadFull(c, make([]byte, how.reply)); err != nil {
				b.Fatal(err)
			}
			io.WriteString(c, request)
			buf := make([]byte, len(chunk))
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
			c.SetLinger(0)
			c.Close()
		})
	}
}

// forward starts a relay to a port of this host, and returns its address.
func forward(b *testing.B, port string) string {
	b.Helper()
	r := &relay.Relay{Workers: 1}
	l, err := r.Listen(relay.Forward{
		Network: "tcp", Listen: netip.MustParseAddrPort("127.0.0.1:0"),
		Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:" + port)},
	})
	if err != nil {
		b.Fatal(err)
	}
	go r.Serve(context.Background())
	b.Cleanup(func() { r.Close() })
	return l.Addr().String()
}
