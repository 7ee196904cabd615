package relay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

// serve runs r until the test ends, or the returned function is called.
func serve(t testing.TB, r *relay.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
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

func listenTCP(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func addrOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func TestEcho(t *testing.T) {
	backend := listenTCP(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := backend.AcceptTCP()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	r := &relay.Relay{}
	l, err := r.Listen(relay.Forward{Network: "tcp", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Targets: []netip.AddrPort{addrOf(backend.Addr())}})
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(t, r)
	for _, size := range []int{1, 1000, 70000, 64 << 20} {
		want := make([]byte, size)
		rand.Read(want)
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { c.Write(want); c.(*net.TCPConn).CloseWrite() }()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d back, err %v", size, len(got), err)
		}
		c.Close()
	}
	stop()
	if s := l.Stats().Load(); s.Active != 0 || s.Total != 4 || s.BytesIn != s.BytesOut {
		t.Errorf("stats: %+v", s)
	}
}
