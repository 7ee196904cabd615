package relay_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/relay"
)

const (
	hostIP  = "192.168.77.1"
	lanIP   = "192.168.77.2"
	hostIP6 = "fd77::1"
	lanIP6  = "fd77::2"
	jailIP4 = "10.77.0.2"
	jailIP6 = "fd77:1::2"
)

// A site is a host with a LAN and a jail that no link leads to.
type site struct{ host, lan, jail *world.Node }

func newSite(t *testing.T, w *world.World) site {
	s := site{w.Host, w.Namespace(t, "lan"), w.Namespace(t, "jail")}
	w.Link(t, s.host.End("lan0", hostIP+"/24", hostIP6+"/64"), s.lan.End("eth0", lanIP+"/24", lanIP6+"/64"))
	s.jail.Addr(t, "lo", jailIP4+"/32", jailIP6+"/128")
	// The kernel makes the address's route later (a work queue of addrconf's): until
	// then nobody answers it.
	world.Eventually(t, "the route to the jail's IPv6 address", func() error {
		out, err := s.jail.Try(t, "ip", "-6", "route", "get", jailIP6)
		if err == nil && !strings.Contains(out, "dev lo") {
			err = errors.New(out)
		}
		return err
	})
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

// What holds for streams on one host holds from the LAN into the jail, from
// either family into either (R1 to R5, R7).
func TestIntegrationStreams(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		for _, path := range []struct{ name, listen, target string }{
			{"IPv4", hostIP + ":8081", "127.0.0.1:8080"},
			{"IPv6", "[" + hostIP6 + "]:8081", "[::1]:8080"},
			{"IPv4 to IPv6", hostIP + ":8082", "[::1]:8082"},
			{"IPv6 to IPv4", "[" + hostIP6 + "]:8082", "127.0.0.1:8082"},
			{"to the jail's address", hostIP + ":8083", jailIP4 + ":8083"},
		} {
			back := s.listen(t, s.jail, path.target).(*net.TCPListener)
			defer back.Close()
			r := &relay.Relay{Enter: s.jail.Enter, Workers: 2}
			forward(t, r, "tcp", path.listen, addrPort(path.target))
			serve(t, r)
			connect := link(func(t *testing.T) (client, server *net.TCPConn) {
				c, err := s.lan.Dial("tcp", path.listen)
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(patience))
				t.Cleanup(func() { c.Close() })
				return c.(*net.TCPConn), accept(t, back)
			})
			for name, test := range map[string]func(*testing.T, link){
				"integrity": integrity, "single bytes": singleBytes, "who speaks first": whoSpeaksFirst,
				"half-close": halfCloses, "reset": resets, "early answer": earlyAnswer,
			} {
				t.Run(path.name+"/"+name, func(t *testing.T) { test(t, connect) })
			}
		}
	})
}

// UDP crosses too: the target sees the jail's address, and the client an answer
// from the address it asked, of a host that has several, in either family
// (R19).
func TestIntegrationUDP(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		s.host.Addr(t, "lan0", "192.168.77.3/24", "fd77::3/64")
		for _, target := range []string{"127.0.0.1:53", "[::1]:53"} {
			back, err := s.jail.ListenPacket("udp", target)
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			go answerWithSource(back)
		}
		r := &relay.Relay{Enter: s.jail.Enter}
		for listen, target := range map[string]string{
			"0.0.0.0:5353": "127.0.0.1:53", "[::]:5353": "[::1]:53", "0.0.0.0:5354": "[::1]:53", "[::]:5354": "127.0.0.1:53",
		} {
			if _, err := r.Listen(relay.Forward{
				Network: "udp", Listen: addrPort(listen), Targets: []netip.AddrPort{addrPort(target)},
				Source: []netip.Addr{netip.MustParseAddr(jailIP4), netip.MustParseAddr(jailIP6)},
			}); err != nil {
				t.Fatal(err)
			}
		}
		serve(t, r)
		for asked, want := range map[string]string{
			hostIP + ":5353": jailIP4, "192.168.77.3:5353": jailIP4, "[" + hostIP6 + "]:5353": jailIP6, "[fd77::3]:5353": jailIP6,
			hostIP + ":5354": jailIP6, "192.168.77.3:5354": jailIP6, "[" + hostIP6 + "]:5354": jailIP4, "[fd77::3]:5354": jailIP4,
		} {
			c, err := s.lan.Dial("udp", asked) // connected: takes answers from there only
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(patience))
			c.Write([]byte("hello"))
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if want := "hello " + want; err != nil || string(buf[:n]) != want {
				t.Errorf("asked %s: got %q, %v; want %q", asked, buf[:n], err, want)
			}
			c.Close()
		}
	})
}

// answerWithSource answers each datagram with itself and whom it came from.
func answerWithSource(back net.PacketConn) {
	buf := make([]byte, 100)
	for {
		n, from, err := back.ReadFrom(buf)
		if err != nil {
			return
		}
		back.WriteTo(append(buf[:n:n], " "+addrOf(from).Addr().String()...), from)
	}
}

// Peers far away are looked after by keepalive, no byte waits for the next one,
// and it is plain TCP on both sides (R12, R18).
func TestIntegrationOptions(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := newSite(t, w)
		back := s.listen(t, s.jail, jailIP4+":8080").(*net.TCPListener)
		defer back.Close()
		r := &relay.Relay{Enter: s.jail.Enter}
		forward(t, r, "tcp", hostIP+":8081", addrPort(jailIP4+":8080"))
		serve(t, r)
		c, err := s.lan.Dial("tcp", hostIP+":8081")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server := accept(t, back)
		for side, ends := range map[string][2]netip.AddrPort{
			"client": {addrOf(c.RemoteAddr()), addrOf(c.LocalAddr())},
			"target": {addrOf(server.RemoteAddr()), addrOf(server.LocalAddr())},
		} {
			fd := socketBetween(t, ends[0], ends[1])
			for name, o := range map[string]struct{ level, name, want int }{
				"SO_PROTOCOL":   {unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
				"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
				"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
				"TCP_KEEPCNT":   {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
				"TCP_NODELAY":   {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			} {
				if got, err := unix.GetsockoptInt(fd, o.level, o.name); got != o.want || err != nil {
					t.Errorf("%s: %s is %d (%v); want %d", side, name, got, err, o.want)
				}
			}
		}
	})
}

// socketBetween returns this process's socket with these two addresses.
func socketBetween(t *testing.T, local, peer netip.AddrPort) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	is := func(sa unix.Sockaddr, err error, want netip.AddrPort) bool {
		in, ok := sa.(*unix.SockaddrInet4)
		return err == nil && ok && netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)) == want
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		name, nameErr := unix.Getsockname(fd)
		other, otherErr := unix.Getpeername(fd)
		if is(name, nameErr, local) && is(other, otherErr, peer) {
			return fd
		}
	}
	t.Fatalf("no socket from %v to %v", local, peer)
	return -1
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
