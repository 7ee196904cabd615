package relay_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/relay"
)

// patience is how long a test waits for what should happen at once.
const patience = 30 * time.Second

// serve runs r until the test ends or stop is called. Stop is what the end of
// Serve's context does, and waits for Serve.
func serve(t testing.TB, r *relay.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	}
	t.Cleanup(func() { r.Close(); stop() })
	select {
	case <-r.Ready():
	case err := <-done:
		t.Fatalf("Serve: %v", err)
	}
	return stop
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// addrOf returns the address of a socket of package net.
func addrOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	panic("neither TCP nor UDP")
}

// listenTCP listens on addr with package net: the target of a forward.
func listenTCP(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// forward has r listen on addr and relay to the targets.
func forward(t testing.TB, r *relay.Relay, network, addr string, targets ...netip.AddrPort) *relay.Listener {
	t.Helper()
	l, err := r.Listen(relay.Forward{Network: network, Listen: addrPort(addr), Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

func accept(t testing.TB, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// serveTCP calls handle for each connection to l, which it closes afterwards.
func serveTCP(l *net.TCPListener, handle func(*net.TCPConn)) {
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

// echo sends back what it reads. It does not splice, which io.Copy would do, at
// the cost of two more descriptors.
func echo(c *net.TCPConn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// paths are the families that client and target can be in.
var paths = []struct{ name, listen, target string }{
	{"IPv4", "127.0.0.1:0", "127.0.0.1:0"},
	{"IPv6", "[::1]:0", "[::1]:0"},
	{"IPv4 to IPv6", "127.0.0.1:0", "[::1]:0"},
	{"IPv6 to IPv4", "[::1]:0", "127.0.0.1:0"},
}

// everyPath runs test with client and target in every family.
func everyPath(t *testing.T, test func(t *testing.T, listen, target string)) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { test(t, p.listen, p.target) })
	}
}

// A link makes connections: the client's end and the server's.
type link func(t *testing.T) (client, server *net.TCPConn)

// both runs test without a relay between the two ends, with one, and with one
// that has adopted the connection: what it checks must hold every way.
func both(t *testing.T, test func(t *testing.T, link link)) {
	t.Run("direct", func(t *testing.T) {
		l := listenTCP(t, "127.0.0.1:0")
		test(t, func(t *testing.T) (client, server *net.TCPConn) {
			return dial(t, addrOf(l.Addr())), accept(t, l)
		})
	})
	everyPath(t, func(t *testing.T, listen, target string) {
		l := listenTCP(t, target)
		r := &relay.Relay{Workers: 2}
		f := forward(t, r, "tcp", listen, addrOf(l.Addr()))
		serve(t, r)
		test(t, func(t *testing.T) (client, server *net.TCPConn) {
			return dial(t, f.Addr()), accept(t, l)
		})
		wait(t, "connections to end", func() bool { return f.Stats().Load().Active == 0 })
	})
	t.Run("adopted", func(t *testing.T) {
		front, back := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "127.0.0.1:0")
		r := &relay.Relay{Workers: 2}
		serve(t, r)
		a := r.Adopter(nil)
		test(t, func(t *testing.T) (client, server *net.TCPConn) {
			client = dial(t, addrOf(front.Addr()))
			adopt(t, a, accept(t, front), dial(t, addrOf(back.Addr())), nil)
			return client, accept(t, back)
		})
		wait(t, "connections to end", func() bool { return a.Stats().Load().Active == 0 })
	})
}

// adopt hands two connections to the relay.
func adopt(t testing.TB, a *relay.Adopter, client, target *net.TCPConn, head []byte) {
	t.Helper()
	if err := a.Adopt(take(t, client), take(t, target), head); err != nil {
		t.Fatal(err)
	}
}

// take takes the descriptor away from c.
func take(t testing.TB, c *net.TCPConn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr, c.Close()); err != nil {
		t.Fatal(err)
	}
	return fd
}

// swap returns a link that has the ends the other way round.
func (l link) swap() link {
	return func(t *testing.T) (client, server *net.TCPConn) {
		c, s := l(t)
		return s, c
	}
}

// eachWay runs test with the client's end first and with the server's end first.
func eachWay(t *testing.T, link link, test func(t *testing.T, a, b *net.TCPConn)) {
	t.Run("client", func(t *testing.T) { a, b := link(t); test(t, a, b); a.Close(); b.Close() })
	t.Run("server", func(t *testing.T) { a, b := link.swap()(t); test(t, a, b); a.Close(); b.Close() })
}

// wait polls until cond holds.
func wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// reset closes c with a RST, when everything that was written has arrived.
func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	wait(t, "an empty send queue", func() bool { return unsent(t, c) == 0 })
	c.SetLinger(0)
	c.Close()
}

// unsent returns how many bytes of c's have not arrived, or 0 if none ever will.
func unsent(t testing.TB, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		const tcpClose = 7
		if info, e := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); e == nil && info.State == tcpClose {
			return
		}
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// expectReset reads until the end, which must be a reset, and returns the bytes
// before it.
func expectReset(t testing.TB, c *net.TCPConn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %d bytes and then %v; want a reset", len(b), err)
	}
	return b
}

// expectEOF reads until the end, which must be a clean one.
func expectEOF(t testing.TB, c *net.TCPConn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("read: %d bytes and then %v; want EOF", len(b), err)
	}
	return b
}

// random returns n bytes that are the same in every run.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

// descriptors counts the open files of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}
