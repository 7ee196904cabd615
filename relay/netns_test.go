package relay_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/relay"
)

const (
	hostIP  = "192.168.77.1"
	lanIP   = "192.168.77.2"
	jailIP4 = "10.77.0.2"
	jailIP6 = "fd77:1::2"
)

// A site is a host with a LAN and a jail that no link leads to.
type site struct{ host, lan, jail *world.Node }

func newSite(t *testing.T, w *world.World) site {
	s := site{w.Host, w.Namespace(t, "lan"), w.Namespace(t, "jail")}
	w.Link(t, s.host.End("lan0", hostIP+"/24"), s.lan.End("eth0", lanIP+"/24"))
	s.jail.Addr(t, "lo", jailIP4+"/32", jailIP6+"/128")
	return s
}

// banner has a service say a word, and where it was called from, to everyone who
// connects.
func banner(t *testing.T, l net.Listener, word string, calls *atomic.Int32) {
	t.Cleanup(func() { l.Close() })
	serveTCP(l.(*net.TCPListener), func(c *net.TCPConn) {
		calls.Add(1)
		io.WriteString(c, word+" "+addrOf(c.RemoteAddr()).Addr().String())
	})
}

func (s site) listen(t *testing.T, n *world.Node, addr string) net.Listener {
	t.Helper()
	l, err := n.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read returns what the service at addr says to the LAN.
func (s site) read(t *testing.T, addr string) (string, error) {
	t.Helper()
	c, err := s.lan.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	return string(b), err
}

// A client in the LAN reaches the jail's loopback services, which see the
// jail's own address; a service of the host with the same address and port is
// never reached, not even when the jail's has gone (R16, R24).
func TestIntegrationJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		for _, target := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			var inJail, decoys atomic.Int32
			service := s.listen(t, s.jail, target)
			banner(t, service, "jail", &inJail)
			decoy := s.listen(t, s.host, target)
			banner(t, decoy, "decoy", &decoys)
			r := &relay.Relay{Enter: s.jail.Enter, Workers: 2}
			f, err := r.Listen(relay.Forward{
				Network: "tcp", Listen: addrPort(hostIP + ":8081"), Targets: []netip.AddrPort{addrPort(target)},
				Source: []netip.Addr{netip.MustParseAddr(jailIP4), netip.MustParseAddr(jailIP6)},
			})
			if err != nil {
				t.Fatal(err)
			}
			stop := serve(t, r)
			want := "jail " + jailIP4
			if f.Addr().Addr() != addrPort(target).Addr() && addrPort(target).Addr().Is6() {
				want = "jail " + jailIP6
			}
			for range 20 {
				if got, err := s.read(t, hostIP+":8081"); got != want || err != nil {
					t.Fatalf("got %q, %v; want %q", got, err, want)
				}
			}
			service.Close()
			for range 20 {
				if got, err := s.read(t, hostIP+":8081"); err == nil {
					t.Fatalf("without a service: got %q; want a reset", got)
				}
			}
			stop()
			decoy.Close()
			if n := decoys.Load(); n > 0 || inJail.Load() != 20 {
				t.Errorf("%d calls of the decoy, %d of the service", n, inJail.Load())
			}
			if out := outside(t, s.host.ID()); len(out) > 0 {
				t.Errorf("threads that stayed in the jail: %v", out)
			}
		}
	})
}

// outside waits until no thread is in another namespace than home, and returns
// those that are.
func outside(t *testing.T, home netnsx.ID) (left []string) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		left = left[:0]
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != home.String() {
				left = append(left, task+" "+ns)
			}
		}
		if len(left) == 0 {
			return nil
		}
	}
	return left
}

// UDP crosses too: the target sees the jail's address, and the client an answer
// from the address it asked, of a host that has several (R19).
func TestIntegrationUDP(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		s.host.Addr(t, "lan0", "192.168.77.3/24")
		back, err := s.jail.ListenPacket("udp", "127.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := back.ReadFrom(buf)
				if err != nil {
					return
				}
				back.WriteTo(append(buf[:n], " "+addrOf(from).Addr().String()...), from)
			}
		}()
		r := &relay.Relay{Enter: s.jail.Enter}
		if _, err := r.Listen(relay.Forward{
			Network: "udp", Listen: addrPort("0.0.0.0:5353"), Targets: []netip.AddrPort{addrPort("127.0.0.1:53")},
			Source: []netip.Addr{netip.MustParseAddr(jailIP4)},
		}); err != nil {
			t.Fatal(err)
		}
		serve(t, r)
		for _, asked := range []string{hostIP, "192.168.77.3"} {
			c, err := s.lan.Dial("udp", asked+":5353") // connected: takes answers from there only
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(patience))
			c.Write([]byte("hello"))
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if want := "hello " + jailIP4; err != nil || string(buf[:n]) != want {
				t.Errorf("asked %s: got %q, %v; want %q", asked, buf[:n], err, want)
			}
			c.Close()
		}
	})
}

// A client that vanishes without a word while bytes are on their way to it is
// given up; one that just does not read is not (R12).
func TestIntegrationDeadPeer(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		back := s.listen(t, s.jail, "127.0.0.1:8080").(*net.TCPListener)
		defer back.Close()
		r := &relay.Relay{Enter: s.jail.Enter, Workers: 1}
		clock := relay.NewClock()
		clock.Use(r)
		r.SetDeadAfter(2 * time.Second) // of the kernel's clock
		f := forward(t, r, "tcp", hostIP+":8081", addrPort("127.0.0.1:8080"))
		serve(t, r)
		connect := func() (client net.Conn, server *net.TCPConn) {
			client, err := s.lan.Dial("tcp", hostIP+":8081")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			return client, accept(t, back)
		}
		slow, slowServer := connect()
		content := random(8 << 20)
		go slowServer.Write(content)
		wait(t, "its queues to be full", func() bool {
			was := f.Stats().Load().BytesOut
			time.Sleep(50 * time.Millisecond)
			return was > 64<<10 && f.Stats().Load().BytesOut == was
		})
		time.Sleep(2500 * time.Millisecond) // the kernel's clock has to pass; window probes are answered
		for range 4 {
			clock.Advance(relay.SweepPeriod)
		}
		slow.SetDeadline(time.Now().Add(patience))
		got := make([]byte, len(content))
		if _, err := io.ReadFull(slow, got); err != nil {
			t.Errorf("a client that does not read for a while: %v", err)
		}
		_, server := connect()
		s.lan.Run(t, "ip", "link", "set", "eth0", "down")
		server.Write([]byte("hello?"))
		wait(t, "the connection to be given up", func() bool {
			clock.Advance(relay.SweepPeriod)
			time.Sleep(10 * time.Millisecond)
			return f.Stats().Load().Active < 2
		})
		expectReset(t, server)
	})
}
