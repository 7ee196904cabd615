package dialx_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/dialx"
	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// in makes sockets in a node.
func in(n *world.Node, source ...string) *dialx.Dialer {
	d := &dialx.Dialer{Socket: func(family, kind, protocol int) (fd int, err error) {
		err = n.Do(func() error {
			fd, err = unix.Socket(family, kind, protocol)
			return err
		})
		return fd, err
	}}
	for _, s := range source {
		d.Source = append(d.Source, netip.MustParseAddr(s))
	}
	return d
}

// greeter accepts in a node and says whom it sees.
func greeter(t *testing.T, n *world.Node, addr string) netip.AddrPort {
	t.Helper()
	l, err := n.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, n.Name+" "+c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(addr)
}

// A connection begins where its socket was made, and with an address that is
// not loopback; one that hangs holds up none of the others.
func TestDial(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		inside := w.Namespace(t, "inside")
		inside.Addr(t, "lo", "192.0.2.7/32")
		inside.Run(t, "ip", "route", "add", "198.51.100.0/24", "dev", "lo", "src", "192.0.2.7")
		to := greeter(t, inside, "127.0.0.1:7000")
		greeter(t, w.Host, "127.0.0.1:7000") // the decoy
		d := in(inside, "192.0.2.7")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()

		// SYNs to it are dropped.
		inside.Run(t, "nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o ip daddr 198.51.100.1 drop")
		hanging, stop := context.WithCancel(ctx)
		hung := make(chan error, 100)
		for range cap(hung) {
			go func() {
				c, err := d.Dial(hanging, "tcp", netip.MustParseAddrPort("198.51.100.1:80"))
				if err == nil {
					c.Close()
				}
				hung <- err
			}()
		}
		for range 20 {
			c, err := d.Dial(ctx, "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(c)
			c.Close()
			if string(text) != "inside 192.0.2.7" || err != nil {
				t.Errorf("%q answered, %v", text, err)
			}
		}
		stop()
		for range cap(hung) {
			if err := <-hung; !errors.Is(err, context.Canceled) && !errors.Is(err, unix.EPERM) {
				t.Errorf("hanging: %v", err)
			}
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil || len(open) > 50 {
			t.Errorf("%d descriptors are open, %v", len(open), err)
		}

		for _, tt := range []struct {
			d    *dialx.Dialer
			to   string
			want error
		}{
			{d, "127.0.0.1:1", unix.ECONNREFUSED},
			{d, "[::ffff:127.0.0.1]:1", unix.ECONNREFUSED},
			{d, "[::1]:7000", unix.EADDRNOTAVAIL}, // it would come from loopback
			{in(inside), "127.0.0.1:7000", unix.EADDRNOTAVAIL},
			{in(inside, "192.0.2.8"), "127.0.0.1:7000", unix.EADDRNOTAVAIL}, // not an address of the node
			{d, "0.0.0.0:7000", unix.EADDRNOTAVAIL},
			{d, "[::]:7000", unix.EADDRNOTAVAIL},
			{d, "224.0.0.1:7000", unix.EADDRNOTAVAIL},
			{d, "127.0.0.1:0", unix.EADDRNOTAVAIL},
			{d, "203.0.113.1:80", unix.ENETUNREACH},
		} {
			c, err := tt.d.Dial(ctx, "tcp", netip.MustParseAddrPort(tt.to))
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.to, err, tt.want)
			}
			if err == nil {
				c.Close()
			}
		}
	})
}

// Datagrams are sent from where the socket was made, and from its source.
func TestDatagrams(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		inside := w.Namespace(t, "inside")
		inside.Addr(t, "lo", "192.0.2.7/32")
		l, err := inside.ListenPacket("udp4", "127.0.0.1:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d := in(inside, "192.0.2.7")
		to := netip.MustParseAddrPort("127.0.0.1:7000")
		connected, err := d.Dial(t.Context(), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer connected.Close()
		free, err := d.ListenPacket(to.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer free.Close()
		for _, send := range []func() error{
			func() error { _, err := connected.Write([]byte("hello")); return err },
			func() error { _, err := free.WriteToUDPAddrPort([]byte("hello"), to); return err },
		} {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			l.SetDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 10)
			n, from, err := l.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "hello" || from.(*net.UDPAddr).IP.String() != "192.0.2.7" {
				t.Errorf("%q from %v, %v", buf[:n], from, err)
			}
		}
	})
}

// What is taken is the only descriptor that is left of the connection.
func TestTake(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fd, err := dialx.Take(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	unix.Write(fd, []byte("hello"))
	unix.Close(fd)
	s.SetDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(s); string(b) != "hello" || err != nil { // the end comes: nobody else holds it open
		t.Errorf("%q, %v", b, err)
	}
	if _, err := dialx.Take(c.(*net.TCPConn)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second time: %v", err)
	}
}
