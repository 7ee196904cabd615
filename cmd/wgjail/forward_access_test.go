package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// dialFrom connects from one of a node's addresses.
func dialFrom(n *world.Node, source, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
		c, err = d.Dial("tcp", addr)
		return err
	})
	return c, err
}

// A stranger is a client by where it comes from.
type stranger struct {
	from   *world.Node
	source string
	to     string // the host's address
}

// served reports whether the service at port greets s, or why it does not.
func (s stranger) served(port int) error {
	c, err := dialFrom(s.from, s.source, net.JoinHostPort(s.to, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	v, err := greeting(c)
	if err != nil {
		return err
	}
	return v.Close()
}

// Unless told otherwise a forward serves the LAN and the networks that the host
// is attached to. Who is not served is reset and counted.
func TestForwardAllow(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		const lan, attached, internet, local = "LAN", "attached network", "internet", "the host itself"
		who := map[string][]stranger{
			lan:      {{l.LAN, world.LANV4, world.HostLANV4}, {l.LAN, world.LANV6, world.HostLANV6}},
			attached: {{l.Inet, world.GatewayV4, world.HostV4}, {l.Inet, world.GatewayV6, world.HostV6}},
			internet: {{l.Inet, world.InternetV4, world.HostV4}, {l.Inet, world.InternetV6, world.HostV6}},
			local:    {{l.Host, "127.0.0.1", "127.0.0.1"}, {l.Host, "::1", "::1"}, {l.Host, world.HostV4, world.HostV4}},
		}
		for i, c := range []struct {
			allow   []string
			served  map[string]bool
			printed string
		}{
			{nil, map[string]bool{lan: true, attached: true, local: true}, "the local networks"},
			{[]string{"--allow", "any"}, map[string]bool{lan: true, attached: true, local: true, internet: true}, "any"},
			{[]string{"--allow", "203.0.113.7", "--allow", "2001:db8:7::/48"}, map[string]bool{internet: true}, "203.0.113.7, 2001:db8:7::/48"},
			{[]string{"--allow", "192.168.0.0/16,fd77::2/64"}, map[string]bool{lan: true}, "192.168.0.0/16, fd77::2/64"},
		} {
			port := 8000 + i
			p := m.forward(t, l, append(c.allow, fmt.Sprintf("%d:80", port))...)
			p.WaitOutput(t, ", for "+c.printed+"\n")
			var total, refused uint64
			for name, clients := range who {
				for _, s := range clients {
					err := s.served(port)
					if c.served[name] {
						total++
						if err != nil {
							t.Errorf("%q: %s (%s): %v, want it to be served", c.allow, name, s.source, err)
						}
						continue
					}
					refused++
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("%q: %s (%s): %v, want connection reset", c.allow, name, s.source, err)
					}
				}
			}
			f := l.status(t).Forwards[i]
			if f.Total != total || f.Refused != refused {
				t.Errorf("%q: %d connections and %d refused in status, want %d and %d", c.allow, f.Total, f.Refused, total, refused)
			}
		}
	})
}

// Limits on connections are kept, and what is in excess is reset and counted.
func TestForwardLimits(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		serve(t, l.up(t), "app", "tcp4", "127.0.0.1:80")
		l.forward(t, "--max-conns", "3", "--max-conns-per-client", "2", "8080:80")
		addr := world.HostLANV4 + ":8080"
		var open []*visit
		for range 2 {
			v, err := visitTo(l.LAN, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			open = append(open, v)
		}
		mustBeReset(t, l.LAN, addr)
		v, err := visitTo(l.Host, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		mustBeReset(t, l.Host, addr)
		open[0].Close()
		l.waitStatus(t, "the end of a connection", func(s jailStatus) bool { return s.Forwards[0].Active == 2 })
		mustGreet(t, l.LAN, addr, "app")
		if f := l.status(t).Forwards[0]; f.Refused != 2 || f.Total != 4 {
			t.Errorf("%d refused of %d, want 2 of 4", f.Refused, f.Total)
		}
	})
}

// Status counts connections and bytes of each forward while they happen.
func TestForwardCounters(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		serve(t, l.up(t), "app", "tcp4", "127.0.0.1:80")
		l.do(t, "forward", "-d", "8080:80", "8081:80")
		addr := world.HostLANV4 + ":8080"
		v, err := visitTo(l.LAN, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		data := make([]byte, 1<<20)
		rand.Read(data)
		go v.Write(data)
		got := make([]byte, len(data))
		if _, err := io.ReadFull(v.r, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the echo of 1 MiB is not what was sent (%v)", err)
		}
		greetingSize := uint64(len(fmt.Sprintf("app %s\n", v.seen)))
		l.waitStatus(t, "all bytes in status", func(s jailStatus) bool {
			f := s.Forwards[0]
			return f.Active == 1 && f.Total == 1 && f.BytesIn == 1<<20 && f.BytesOut == 1<<20+greetingSize
		})
		v.Close()
		mustGreet(t, l.LAN, addr, "app")
		l.waitStatus(t, "closed connections in status", func(s jailStatus) bool {
			return s.Forwards[0].Active == 0 && s.Forwards[0].Total == 2
		})
		if other := l.status(t).Forwards[1]; other.Total != 0 || other.BytesIn != 0 || other.BytesOut != 0 {
			t.Errorf("the other forward counts %+v", other)
		}

		// What goes wrong is counted too, and shown.
		l.do(t, "forward", "-d", "8082:82")
		l.do(t, "forward", "-d", "--allow", "203.0.113.7", "5353:53/udp")
		mustBeReset(t, l.LAN, world.HostLANV4+":8082")
		c, err := l.LAN.Dial("udp", world.HostLANV4+":5353")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("may I?"))
		l.waitStatus(t, "errors in status", func(s jailStatus) bool {
			return len(s.Forwards) == 4 && s.Forwards[2].DialErrors == 4 && s.Forwards[3].Refused == 1 && s.Forwards[3].Dropped == 1
		})
		table := l.do(t, "status")
		for _, text := range []string{"0 open of 1, 0 refused, 4 dial errors, 0 B in", "0 open of 0, 1 refused, 1 datagrams dropped, 0 B in"} {
			if !strings.Contains(table, text) {
				t.Errorf("no %q in the table:\n%s", text, table)
			}
		}
	})
}
