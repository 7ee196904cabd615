package world

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// send sends a datagram to an address that need not answer.
func send(from *Node, addr string, data []byte) error {
	c, err := from.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(data)
	return err
}

func TestCaptureSeesWhatCrosses(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		host, inet := l.Host.CaptureAll(t, "lo"), l.Inet.Capture(t, "eth0")
		for _, addr := range []string{InternetV4 + ":4000", "[" + InternetV6 + "]:4000"} {
			canary := Canary()
			if err := send(l.Host, addr, canary); err != nil {
				t.Fatal(err)
			}
			host.MustSee(t, canary)
			inet.MustSee(t, canary)
			out, in := host.Find(canary)[0], inet.Find(canary)[0]
			if out.Link != "wan0" || !out.Out || in.Link != "eth0" || in.Out {
				t.Errorf("it left by %v and arrived by %v", out, in)
			}
			if h, ok := in.Header(); !ok || h.Protocol != unix.IPPROTO_UDP || h.Dst.String() != addr {
				t.Errorf("its header is %v", h)
			}
			host.MustNotSee(t, Canary())
		}
	})
}

// After Sync the capture is complete, without any waiting: what was sent before
// has crossed, because sending over veth delivers it.
func TestSyncIsEnough(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		if err := send(l.Host, InternetV4+":4000", nil); err != nil { // finds the neighbour
			t.Fatal(err)
		}
		c := l.Host.Capture(t, "wan0")
		c.Control(t, "a datagram to the internet", func(canary []byte) error { return send(l.Host, InternetV4+":4000", canary) })
		for i := range 500 {
			canary := Canary()
			if err := send(l.Host, InternetV4+":4000", canary); err != nil {
				t.Fatal(err)
			}
			c.Sync(t)
			if found := c.Find(canary); len(found) == 0 || !found[0].Out { // an ICMP error may bring it back
				t.Fatalf("datagram %d was seen as %s", i, Lines(found))
			}
		}
	})
}

func TestCaptureFollowsLinks(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		other := w.Namespace(t, "other")
		all, some := w.Host.CaptureAll(t, "lo", "secret0"), w.Host.Capture(t, "late0")
		for i, name := range []string{"early0", "late0", "secret0"} {
			w.Link(t, w.Host.End(name, fmt.Sprintf("192.0.2.%d/30", 4*i+1)), other.End(name, fmt.Sprintf("192.0.2.%d/30", 4*i+2)))
			canary := Canary()
			if err := send(w.Host, fmt.Sprintf("192.0.2.%d:4000", 4*i+2), canary); err != nil {
				t.Fatal(err)
			}
			check(t, all, canary, name != "secret0", name)
			check(t, some, canary, name == "late0", name)
		}
		// A link that goes down or away does not end the capture.
		w.Host.Run(t, "ip", "link", "set", "early0", "down")
		w.Host.Run(t, "ip", "link", "del", "late0")
		all.Control(t, "a datagram to the node itself, on a new link", func(canary []byte) error {
			w.Link(t, w.Host.End("new0", "192.0.2.21/30"), other.End("new0", "192.0.2.22/30"))
			return send(w.Host, "192.0.2.22:4000", canary)
		})
	})
}

func check(t *testing.T, c *Capture, canary []byte, want bool, name string) {
	t.Helper()
	if want {
		c.MustSee(t, canary)
		return
	}
	c.MustNotSee(t, canary)
	if t.Failed() {
		t.Logf("on %s", name)
	}
}

func TestCaptureSeesTheOtherDirectionAndLo(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		c := w.Host.Capture(t, "lo")
		l, err := w.Host.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		canary := Canary()
		if err := send(w.Host, l.LocalAddr().String(), canary); err != nil {
			t.Fatal(err)
		}
		c.MustSee(t, canary)
		Eventually(t, "both directions", func() error {
			if n := len(c.Find(canary)); n != 2 {
				return fmt.Errorf("seen %d times", n)
			}
			return nil
		})
	})
}

func TestCaptureTellsWhatItLost(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		c := w.Host.Capture(t, "lo")
		c.Sync(t)
		// With no room at all, nothing can be kept.
		conn, err := c.file.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1) })
		if err != nil {
			t.Fatal(err)
		}
		l, err := w.Host.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c.mu.Lock() // the reader cannot make room
		for range 100 {
			if err := send(w.Host, l.LocalAddr().String(), make([]byte, 30000)); err != nil {
				c.mu.Unlock()
				t.Fatal(err)
			}
		}
		c.mu.Unlock()
		for range 2 {
			if err := c.lost(); err == nil || !strings.Contains(err.Error(), "frames were lost") {
				t.Errorf("lost returned %v", err)
			}
		}
	})
}

func TestCapturesAtOnce(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		var wg sync.WaitGroup
		for range 8 {
			c := l.Host.CaptureAll(t)
			for range 4 {
				wg.Go(func() {
					if err := c.sync(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	})
}

// The frames of a tunnel have no link header.
func TestCaptureOnATunnel(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		c := l.Exit.Capture(t, "provider0")
		link, err := l.Exit.Netlink.LinkByName("provider0")
		if err != nil {
			t.Fatal(err)
		}
		_, client, _ := net.ParseCIDR("192.0.2.0/24")
		if err := l.Exit.Netlink.RouteAdd(&netlink.Route{Dst: client, LinkIndex: link.Attrs().Index}); err != nil {
			t.Fatal(err)
		}
		canary := Canary()
		if err := send(l.Exit, "192.0.2.2:4000", canary); err != nil {
			t.Fatal(err)
		}
		c.MustSee(t, canary)
		if h, ok := c.Find(canary)[0].Header(); !ok || h.Dst.String() != "192.0.2.2:4000" {
			t.Errorf("its header is %v", h)
		}
	})
}

func TestNeighbourAndTunnelKnowTheirFrames(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		c := l.Host.CaptureAll(t, "lo")
		// A new link speaks IPv6 of its own accord; ping asks for neighbours.
		l.Host.Run(t, "ip", "link", "add", "x0", "up", "type", "veth", "peer", "x1")
		l.Host.Run(t, "ip", "link", "set", "x1", "up")
		c.Control(t, "a datagram to the endpoint", func(canary []byte) error { return send(l.Host, l.Client.Endpoint, canary) })
		c.Control(t, "a datagram to the LAN", func(canary []byte) error { return send(l.Host, "["+LANV6+"]:4000", canary) })
		c.Sync(t)
		foreign := c.Except(func(f Frame) bool { return Neighbour(f) || l.Tunnel(f) })
		for _, f := range foreign {
			h, ok := f.Header()
			lan := ok && (h.Dst.Addr().String() == LANV6 || h.Src.Addr().String() == LANV6)
			if !lan {
				t.Errorf("%v is taken for a leak", f)
			}
		}
		if len(foreign) == 0 {
			t.Error("the datagram to the LAN is taken for something expected")
		}
	})
}
