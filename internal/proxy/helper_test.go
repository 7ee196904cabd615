package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/dialx"
	"github.com/wgjail/wgjail/internal/resolver"
	"github.com/wgjail/wgjail/relay"
)

const patience = 20 * time.Second

// serve starts a proxy whose targets are on this host, and returns its address.
// x.test is 127.0.0.1; change changes the server first.
func serve(t testing.TB, protocol Protocol, change func(*Server)) (*Server, string) {
	t.Helper()
	r := &relay.Relay{Workers: 1}
	ctx, cancel := context.WithCancel(context.Background())
	relayed := make(chan error, 1)
	go func() { relayed <- r.Serve(ctx) }()
	s := &Server{
		Protocol: protocol, Adopter: r.Adopter(nil),
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			if a, err := netip.ParseAddr(name); err == nil {
				return []netip.Addr{a}, nil
			}
			if name == "x.test" {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
			return nil, resolver.ErrNotFound
		},
		Dialer: &dialx.Dialer{Socket: unix.Socket, Source: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}},
	}
	if change != nil {
		change(s)
	}
	l := listen(t, "127.0.0.1:0")
	served := make(chan error, 1)
	<-r.Ready()
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		r.Close()
		for _, c := range []chan error{served, relayed} {
			select {
			case err := <-c:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("Serve does not return")
			}
		}
		if n := s.Adopter.Stats().Load().Active; n != 0 {
			t.Errorf("%d connections are active after the end", n)
		}
	})
	return s, l.Addr().String()
}

func listen(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// target starts a server that has handle answer each connection, and returns
// its port.
func target(t testing.TB, handle func(*net.TCPConn)) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				handle(c)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// dial connects to addr.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// say sends text and returns everything that comes.
func say(t testing.TB, addr, text string) string {
	t.Helper()
	c := dial(t, addr)
	io.WriteString(c, text)
	c.CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %q: %v", text, err)
	}
	return string(b)
}

// head reads a head of HTTP.
func head(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}
