package relay_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/relay"
)

// The header comes before the first byte, whoever speaks first, and names the
// client and the address that it asked, in either version and family (R17).
func TestProxyProtocol(t *testing.T) {
	for _, p := range paths {
		for _, version := range []relay.ProxyProtocol{relay.ProxyV1, relay.ProxyV2} {
			t.Run(fmt.Sprintf("%s, version %d", p.name, version), func(t *testing.T) {
				back := listenTCP(t, p.target)
				r := &relay.Relay{}
				f, err := r.Listen(relay.Forward{
					Network: "tcp", Listen: addrPort(p.listen), Targets: []netip.AddrPort{closedPort(t, "127.0.0.1"), addrOf(back.Addr())},
					Proxy: version,
				})
				if err != nil {
					t.Fatal(err)
				}
				serve(t, r)
				for _, first := range []string{"client", "server"} {
					c := dial(t, f.Addr())
					if first == "client" {
						c.Write([]byte("hello"))
					}
					s := accept(t, back)
					if first == "server" {
						s.Write([]byte("220 ready"))
						if _, err := io.ReadFull(c, make([]byte, 9)); err != nil {
							t.Error(err)
						}
						c.Write([]byte("hello"))
					}
					in := bufio.NewReader(s)
					h, err := proxyproto.Read(in)
					if err != nil {
						t.Fatalf("%s first: %v", first, err)
					}
					if h.Version != byte(version) || h.Command != proxyproto.PROXY || h.SourceAddr.String() != c.LocalAddr().String() || h.DestinationAddr.String() != f.Addr().String() {
						t.Errorf("%s first: header %+v; want version %d, from %v to %v", first, h, version, c.LocalAddr(), f.Addr())
					}
					c.CloseWrite()
					if rest, err := io.ReadAll(in); string(rest) != "hello" || err != nil {
						t.Errorf("%s first: after the header: %q, %v", first, rest, err)
					}
					s.Close()
				}
				wait(t, "the counters", func() bool { return f.Stats().Load().BytesIn == 2*5 }) // the client's own
			})
		}
	}
}

// What cannot be done is refused when the port is opened.
func TestIdentityErrors(t *testing.T) {
	for want, f := range map[string]relay.Forward{
		"no version 3":            {Network: "tcp", Proxy: 3},
		"protocol is for tcp":     {Network: "udp", Proxy: relay.ProxyV2},
		"address is for tcp":      {Network: "udp", FromClient: true},
		"neither tcp nor udp":     {Network: "icmp", FromClient: true},
		"network \"\" is neither": {},
	} {
		f.Listen, f.Targets = addrPort("127.0.0.1:0"), []netip.AddrPort{addrPort("127.0.0.1:1")}
		if _, err := new(relay.Relay).Listen(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", f, err, want)
		}
	}
}

const clientMark = 0x1234

// A target that is dialled from the client's address sees that, its port too if
// that is free, in both families; clients of the other family, and those whose
// address means somebody else there, are not shown under it (R17).
func TestIntegrationFromClient(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		for _, family := range []string{"-4", "-6"} {
			s.jail.Run(t, "ip", family, "rule", "add", "fwmark", fmt.Sprint(clientMark), "lookup", "100")
			s.jail.Run(t, "ip", family, "route", "add", "local", "default", "dev", "lo", "table", "100")
		}
		if err := s.jail.Sysctl("net/ipv4/tcp_fwmark_accept", "1"); err != nil {
			t.Fatal(err)
		}
		r := &relay.Relay{Enter: s.jail.Enter, Workers: 1}
		forward := func(listen string, targets ...netip.AddrPort) {
			t.Helper()
			if _, err := r.Listen(relay.Forward{
				Network: "tcp", Listen: addrPort(listen), Targets: targets, FromClient: true, Mark: clientMark,
				Source: []netip.Addr{netip.MustParseAddr(jailIP4), netip.MustParseAddr(jailIP6)},
			}); err != nil {
				t.Fatal(err)
			}
		}
		both := []netip.AddrPort{addrPort("127.0.0.1:8080"), addrPort("[::1]:8080")}
		forward("0.0.0.0:8081", both...)
		forward("0.0.0.0:8082", both...)
		forward("[::]:8081", both...)
		forward("0.0.0.0:8083", addrPort("[::1]:8080"))
		serve(t, r)
		for _, addr := range both {
			serveTCP(s.listen(t, s.jail, addr.String()).(*net.TCPListener), func(c *net.TCPConn) { fmt.Fprint(c, addrOf(c.RemoteAddr())) })
		}
		seen := func(from *world.Node, source, to string) (netip.AddrPort, error) {
			t.Helper()
			var c net.Conn
			err := from.Do(func() (err error) {
				d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(addrPort(source)), Control: reuse}
				c, err = d.Dial("tcp", to)
				return err
			})
			if err != nil {
				return netip.AddrPort{}, err
			}
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(patience))
			b, err := io.ReadAll(c)
			if err != nil {
				return netip.AddrPort{}, err
			}
			return addrPort(string(b)), nil
		}
		for _, c := range []struct {
			from       *world.Node
			source, to string
			want       string
			samePort   bool
		}{
			{s.lan, lanIP + ":4001", hostIP + ":8081", lanIP, true},
			{s.lan, "[fd77::2]:4002", "[fd77::1]:8081", "fd77::2", true},
			{s.lan, lanIP + ":4001", hostIP + ":8082", lanIP, false}, // while the first connection has the port, or its remains do
			{s.lan, lanIP + ":8080", hostIP + ":8081", lanIP, false}, // a service there has the port
			{s.host, hostIP + ":0", hostIP + ":8081", hostIP, false},
			{s.host, "127.0.0.1:0", "127.0.0.1:8081", jailIP4, false},
			{s.host, "[::1]:0", "[::1]:8081", jailIP4, false},
		} {
			got, err := seen(c.from, c.source, c.to)
			if err != nil || got.Addr().String() != c.want || c.samePort && got.Port() != addrPort(c.source).Port() {
				t.Errorf("from %s to %s: the service saw %v (%v); want %s, and its port: %v", c.source, c.to, got, err, c.want, c.samePort)
			}
		}
		if got, err := seen(s.lan, lanIP+":0", hostIP+":8083"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an IPv4 client of a service that has IPv6 only: %v, %v; want a reset", got, err)
		}
	})
}

// reuse lets a client use a port of its own for more than one connection.
func reuse(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	return err
}
