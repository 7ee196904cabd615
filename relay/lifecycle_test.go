package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

// If a worker cannot enter, Serve fails and nothing is accepted or dialled: a
// service that listens where the relay started is never reached (R24).
func TestEnterFails(t *testing.T) {
	decoy := listenTCP(t, "127.0.0.1:0")
	var reached atomic.Bool
	serveTCP(decoy, func(*net.TCPConn) { reached.Store(true) })
	broken := errors.New("no such place")
	var calls atomic.Int32
	r := &relay.Relay{Workers: 3, Enter: func() error {
		if calls.Add(1) == 2 {
			return broken
		}
		return nil
	}}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(decoy.Addr()))
	c := dial(t, f.Addr()) // waits in the backlog
	c.Write([]byte("hello"))
	if err := r.Serve(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Serve: %v; want %v", err, broken)
	}
	expectReset(t, c)
	select {
	case <-r.Ready():
		t.Error("ready although a worker did not enter")
	default:
	}
	if s := f.Stats().Load(); s.Total != 0 || reached.Load() {
		t.Errorf("accepted %d, decoy reached: %v", s.Total, reached.Load())
	}
	listenTCP(t, f.Addr().String()) // the port is free
}

// When the context is done the port is free at once, what is in flight arrives,
// and Serve returns with the last connection (R14).
func TestDrain(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	r := &relay.Relay{Limits: relay.Limits{DrainTimeout: time.Hour}}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	<-r.Ready()
	c := dial(t, f.Addr())
	s := accept(t, l)
	cancel()
	wait(t, "the port to be free", func() bool {
		again, err := net.Listen("tcp", f.Addr().String())
		if err == nil {
			again.Close()
		}
		return err == nil
	})
	want := random(20 << 20)
	go func() { s.Write(want); s.Close() }()
	if got := expectEOF(t, c); len(got) != len(want) {
		t.Errorf("%d of %d bytes arrived during the drain", len(got), len(want))
	}
	select {
	case err := <-done:
		t.Errorf("Serve returned %v before the last connection ended", err)
	default:
	}
	c.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// What is left when the drain is over, or at Close, is reset (R14).
func TestEndsAtOnce(t *testing.T) {
	for name, end := range map[string]func(r *relay.Relay, cancel func()){
		"drain timeout": func(r *relay.Relay, cancel func()) { cancel() },
		"close":         func(r *relay.Relay, cancel func()) { r.Close() },
		"drain, close":  func(r *relay.Relay, cancel func()) { cancel(); r.Close(); r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			l := listenTCP(t, "127.0.0.1:0")
			r := &relay.Relay{Limits: relay.Limits{DrainTimeout: -1}, Workers: 2}
			f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- r.Serve(ctx) }()
			<-r.Ready()
			c := dial(t, f.Addr())
			s := accept(t, l)
			end(r, cancel)
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
			expectReset(t, c)
			expectReset(t, s)
			c.Close()
			s.Close()
			l.Close()
			wait(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
			if _, err := r.Listen(relay.Forward{Network: "tcp", Listen: addrPort("127.0.0.1:0"), Targets: []netip.AddrPort{f.Addr()}}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Listen after the end: %v", err)
			}
			if err := r.Serve(t.Context()); err == nil {
				t.Error("Serve works a second time")
			}
		})
	}
}

// Close before Serve frees the ports.
func TestCloseBeforeServe(t *testing.T) {
	r := &relay.Relay{}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrPort("127.0.0.1:1"))
	r.Close()
	listenTCP(t, f.Addr().String())
}

// Listeners come and go while the relay runs; Listen and Close return when the
// port is bound and free (R15).
func TestListenAndCloseWhileServing(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	r := &relay.Relay{Workers: 2}
	keep := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	kept := dial(t, keep.Addr())
	kept.Write([]byte("x"))
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	addr := closedPort(t, "127.0.0.1").String()
	before := descriptors(t)
	for i := range 1000 {
		f := forward(t, r, "tcp", addr, addrOf(l.Addr()))
		if i%100 == 0 {
			c := dial(t, f.Addr())
			c.Write([]byte("hello"))
			c.CloseWrite()
			if got := expectEOF(t, c); string(got) != "hello" {
				t.Errorf("got %q", got)
			}
			c.Close()
			wait(t, "it to end", func() bool { return f.Stats().Load().Active == 0 })
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if c, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dial after Close: %v", err)
				c.Close()
			}
		}
	}
	wait(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
	// What was connected does not depend on the listener.
	keep.Close()
	kept.Write([]byte("x"))
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Errorf("after its listener was closed: %v", err)
	}
}

// The error says what is wrong with an address, and nothing is bound (R15).
func TestListenErrors(t *testing.T) {
	taken := listenTCP(t, "127.0.0.1:0")
	target := []netip.AddrPort{addrPort("127.0.0.1:1")}
	r := &relay.Relay{}
	before := descriptors(t)
	for _, test := range []struct {
		listen string
		want   error
	}{
		{addrOf(taken.Addr()).String(), syscall.EADDRINUSE},
		{"192.0.2.1:8080", syscall.EADDRNOTAVAIL},
	} {
		_, err := r.Listen(relay.Forward{Network: "tcp", Listen: addrPort(test.listen), Targets: target})
		var op *net.OpError
		if !errors.Is(err, test.want) || !errors.As(err, &op) || op.Addr.String() != test.listen {
			t.Errorf("listen on %s: %v; want %v", test.listen, err, test.want)
		}
	}
	if os.Geteuid() != 0 {
		if _, err := r.Listen(relay.Forward{Network: "tcp", Listen: addrPort("127.0.0.1:1"), Targets: target}); !errors.Is(err, os.ErrPermission) {
			t.Errorf("listen on port 1: %v; want a permission error", err)
		}
	}
	ok := relay.Forward{Network: "tcp", Listen: addrPort("127.0.0.1:0"), Targets: target}
	for name, spoil := range map[string]func(f *relay.Forward){
		"network":      func(f *relay.Forward) { f.Network = "sctp" },
		"no address":   func(f *relay.Forward) { f.Listen = netip.AddrPort{} },
		"no target":    func(f *relay.Forward) { f.Targets = nil },
		"target port":  func(f *relay.Forward) { f.Targets = []netip.AddrPort{addrPort("127.0.0.1:0")} },
		"target":       func(f *relay.Forward) { f.Targets = []netip.AddrPort{addrPort("0.0.0.0:1")} },
		"many targets": func(f *relay.Forward) { f.Targets = make([]netip.AddrPort, 256) },
		"source":       func(f *relay.Forward) { f.Source = []netip.Addr{{}} },
		"two sources":  func(f *relay.Forward) { f.Source = []netip.Addr{netip.IPv6Loopback(), netip.IPv6Loopback()} },
		"allow":        func(f *relay.Forward) { f.Allow = []netip.Prefix{{}} },
	} {
		f := ok
		spoil(&f)
		if _, err := r.Listen(f); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors are left open", n-before)
	}
}

// The socket that dials has the source that was asked for, and never another.
func TestSource(t *testing.T) {
	l4, l6 := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "[::1]:0")
	r := &relay.Relay{}
	listen := func(source string, targets ...netip.AddrPort) *relay.Listener {
		f, err := r.Listen(relay.Forward{Network: "tcp", Listen: addrPort("127.0.0.1:0"), Targets: targets, Source: []netip.Addr{netip.MustParseAddr(source)}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	good := listen("127.0.0.77", addrOf(l6.Addr()), addrOf(l4.Addr())) // the first has no source of its family
	bad := listen("192.0.2.1", addrOf(l4.Addr()))                      // not an address of this host
	serve(t, r)
	dial(t, good.Addr())
	c := accept(t, l4)
	if got := addrOf(c.RemoteAddr()).Addr(); got != netip.MustParseAddr("127.0.0.77") {
		t.Errorf("dialled from %v", got)
	}
	expectRefused(t, "127.0.0.1", bad.Addr())
	if s := good.Stats().Load(); s.DialErrors != 1 {
		t.Errorf("%d dial errors; want the one for the target without a source", s.DialErrors)
	}
}

// Idle means that nothing moves in either direction (R13).
func TestIdleTimeout(t *testing.T) {
	const limit = time.Minute
	l := listenTCP(t, "127.0.0.1:0")
	clock := relay.NewClock()
	r := &relay.Relay{Workers: 1, Limits: relay.Limits{IdleTimeout: limit}}
	clock.Use(r)
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	talker, listener := dial(t, f.Addr()), accept(t, l)
	silent, silentServer := dial(t, f.Addr()), accept(t, l)
	for i := range 6 { // one way only
		from, to := talker, listener
		if i > 2 {
			from, to = listener, talker
		}
		clock.Advance(limit * 2 / 3)
		from.Write([]byte("x"))
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			t.Fatalf("a connection with traffic one way: %v", err)
		}
	}
	expectEOF(t, silent)
	expectEOF(t, silentServer)
	clock.Advance(limit)
	expectEOF(t, talker)
	expectEOF(t, listener)
}
