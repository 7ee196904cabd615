package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/relay"
)

// What the caller has read ahead comes first, however much it is and whether
// the target reads it at once or later, and is counted.
func TestAdoptPassesOnWhatWasReadAhead(t *testing.T) {
	front, back := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "127.0.0.1:0")
	r := &relay.Relay{Workers: 1}
	serve(t, r)
	for _, size := range []int{0, 1, 4096, 64 << 10} {
		a := r.Adopter(nil)
		client, toBack := dial(t, addrOf(front.Addr())), dial(t, addrOf(back.Addr()))
		toBack.SetWriteBuffer(4096) // it takes only a part of it
		server := accept(t, back)
		want := random(size + 1<<20)
		adopt(t, a, accept(t, front), toBack, want[:size])
		go func() {
			client.Write(want[size:])
			client.CloseWrite()
		}()
		if got := expectEOF(t, server); !bytes.Equal(got, want) {
			t.Errorf("%d bytes ahead: %d bytes arrived, not those %d that were sent", size, len(got), len(want))
		}
		server.Close()
		expectEOF(t, client)
		wait(t, "the counters", func() bool {
			s := a.Stats().Load()
			return s.Active == 0 && s.Total == 1 && s.BytesIn == uint64(len(want)) && s.BytesOut == 0
		})
	}
}

// A connection that cannot be adopted is reset at both ends, and its
// descriptors are closed.
func TestAdoptRefuses(t *testing.T) {
	front, back := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	over := &relay.Relay{Workers: 1}
	cancel()
	if err := over.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	full := &relay.Relay{Workers: 1, Limits: relay.Limits{MaxConns: 1, MaxConnsPerClient: 1}}
	serve(t, full)
	first := full.Adopter(nil)
	c := dial(t, addrOf(front.Addr()))
	adopt(t, first, accept(t, front), dial(t, addrOf(back.Addr())), []byte("x"))
	served := accept(t, back)
	io.ReadFull(served, make([]byte, 1))
	before := descriptors(t)
	for _, tt := range []struct {
		name  string
		relay *relay.Relay
		head  int
		err   error // nil: it is refused later
	}{
		{"not serving yet", &relay.Relay{}, 0, net.ErrClosed},
		{"not serving any more", over, 0, net.ErrClosed},
		{"too much read ahead", full, 64<<10 + 1, errAny},
		{"over the limit", full, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := tt.relay.Adopter(nil)
			client, accepted := dial(t, addrOf(front.Addr())), accept(t, front)
			toBack := dial(t, addrOf(back.Addr()))
			server := accept(t, back)
			err := a.Adopt(take(t, accepted), take(t, toBack), make([]byte, tt.head))
			if (err == nil) != (tt.err == nil) || tt.err == net.ErrClosed && !errors.Is(err, net.ErrClosed) {
				t.Errorf("Adopt: %v, want %v", err, tt.err)
			}
			expectReset(t, client)
			expectReset(t, server)
			client.Close()
			server.Close()
			if s := a.Stats().Load(); s.Total != 0 || s.Active != 0 || (s.Refused == 1) != (tt.err == nil) {
				t.Errorf("counted %+v", s)
			}
		})
	}
	wait(t, "descriptors to be closed", func() bool { return descriptors(t) == before })
	c.Close()
	served.Close()
	wait(t, "the end of the first", func() bool { return first.Stats().Load().Active == 0 })
	again := dial(t, addrOf(front.Addr())) // it has left room
	adopt(t, first, accept(t, front), dial(t, addrOf(back.Addr())), []byte("x"))
	if _, err := io.ReadFull(accept(t, back), make([]byte, 1)); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	again.Close()
}

var errAny = errors.New("any error")

// What is adopted ends with the relay.
func TestAdoptedEndWithTheRelay(t *testing.T) {
	front, back := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "127.0.0.1:0")
	r := &relay.Relay{Workers: 2, Limits: relay.Limits{DrainTimeout: -1}}
	stop := serve(t, r)
	a := r.Adopter(nil)
	client := dial(t, addrOf(front.Addr()))
	adopt(t, a, accept(t, front), dial(t, addrOf(back.Addr())), []byte("x"))
	server := accept(t, back)
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, c := range []*net.TCPConn{client, server} {
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the relay's end: %v, want a reset", err)
		}
	}
	if n := a.Stats().Load().Active; n != 0 {
		t.Errorf("%d connections are active", n)
	}
}
