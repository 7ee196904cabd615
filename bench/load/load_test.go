package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

func local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// localTarget is a server on this machine's loopback.
var localTarget = Target{HTTP: local(PortHTTP), Source: local(PortSource), Sink: local(PortSink), UDP: local(PortUDP), UDPSink: local(PortUDPSink)}

// serve starts a server in a world that a test has to itself.
func serve(t *testing.T) *Server {
	t.Helper()
	s, err := Serve(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// everything is each kind of load, by name.
func everything(s *Server) map[string]func(context.Context, Window) (Result, error) {
	return map[string]func(context.Context, Window) (Result, error){
		"download":    func(ctx context.Context, w Window) (Result, error) { return Download(ctx, localTarget, 3, w) },
		"upload":      func(ctx context.Context, w Window) (Result, error) { return Upload(ctx, localTarget, s, 3, w) },
		"requests":    func(ctx context.Context, w Window) (Result, error) { return Requests(ctx, localTarget, 20, w) },
		"connections": func(ctx context.Context, w Window) (Result, error) { return Connections(ctx, localTarget, 8, w) },
		"datagrams":   func(ctx context.Context, w Window) (Result, error) { return Datagrams(ctx, localTarget, w) },
		"flood":       func(ctx context.Context, w Window) (Result, error) { return Flood(ctx, localTarget, s, w) },
	}
}

// Each kind counts something, fails nothing, allocates nothing for it, and
// leaves no descriptor open.
func TestLoad(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := serve(t)
		for name, drive := range everything(s) {
			before := descriptors(t)
			var mallocs []uint64
			r, err := drive(t.Context(), Window{Warm: 20 * time.Millisecond, Length: 100 * time.Millisecond, Look: func() {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				mallocs = append(mallocs, m.Mallocs)
			}})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if len(mallocs) != 2 {
				t.Fatalf("%s: looked %d times", name, len(mallocs))
			}
			moved := r.Ops + r.Bytes/bulkBuffer
			if n := mallocs[1] - mallocs[0]; moved == 0 || r.Failed > 0 || n > moved/10+30 {
				t.Errorf("%s: %d ops, %d bytes, %d failed, with %d allocations", name, r.Ops, r.Bytes, r.Failed, n)
			}
			if counts := r.Latency.TotalCount(); (name == "requests" || name == "connections" || name == "datagrams") &&
				(counts == 0 || uint64(counts) > r.Ops+100 || r.Latency.Min() < 1000) {
				t.Errorf("%s: %d latencies of %d ops, the least %d ns", name, counts, r.Ops, r.Latency.Min())
			}
			t.Logf("%s: %d ops, %d bytes, %d sent in %v, p50 %d ns", name, r.Ops, r.Bytes, r.Sent, r.Elapsed, r.Latency.ValueAtQuantile(50))
			world.Eventually(t, "the end of "+name, func() error {
				if after := descriptors(t); after > before || s.Open() > 0 {
					return fmt.Errorf("%d descriptors, before %d; %d connections", after, before, s.Open())
				}
				return nil
			})
		}
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestLoadWhereNobodyAnswers(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := &Server{}
		for name, drive := range everything(s) {
			_, err := drive(t.Context(), Window{Length: 50 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), "127.0.0.1:80") {
				t.Errorf("%s: %v; want an error that names the address", name, err)
			}
		}
		if err := FirstByte(localTarget); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("FirstByte: %v", err)
		}
	})
}

func TestLoadIsInterrupted(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := serve(t)
		for name, drive := range everything(s) {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := drive(ctx, Window{Length: time.Hour, Look: cancel})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v; want that it was cancelled", name, err)
			}
		}
	})
}

func TestHold(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		s := serve(t)
		h, err := Hold(localTarget, 50)
		if err != nil {
			t.Fatal(err)
		}
		if s.Open() != 50 {
			t.Errorf("%d connections are open, want 50", s.Open())
		}
		h.Close()
		world.Eventually(t, "the end of the connections", func() error {
			if n := s.Open(); n > 0 {
				return fmt.Errorf("%d are open", n)
			}
			return nil
		})
	})
}

// A datagram that is lost is counted, and the flow goes on.
func TestLostDatagramsAreCounted(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		serve(t)
		w.Host.Run(t, "nft", "add table ip lossy; add chain ip lossy in { type filter hook input priority 0; };"+
			"add rule ip lossy in udp dport 8083 numgen random mod 100 < 30 drop")
		r, err := Datagrams(t.Context(), localTarget, Window{Warm: 50 * time.Millisecond, Length: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if lost := float64(r.Sent-r.Ops) / float64(r.Sent); lost < 0.1 || lost > 0.5 {
			t.Errorf("%d of %d came back: %.1f %% lost, want about 30", r.Ops, r.Sent, lost*100)
		}
	})
}

// wrk and curl can be clients of the server: it speaks HTTP.
func TestServerSpeaksHTTP(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		serve(t)
		out := w.Host.Run(t, "curl", "-sSi", "http://127.0.0.1:8080/", "--next", "-sSi", "-H", "Connection: close", "http://127.0.0.1:8080/")
		for _, text := range []string{"hello world\n", "HTTP/1.1 200 OK"} {
			if n := strings.Count(out, text); n != 2 {
				t.Errorf("%q occurs %d times in\n%s", text, n, out)
			}
		}
	})
}

// What is slow has a rate too: a window goes on until enough is counted.
func TestWindowGoesOnWithoutACount(t *testing.T) {
	nothing, few := counts{ops: 5, bytes: 7}, counts{ops: 4 + fewest, bytes: 7}
	enough, byt := counts{ops: 5 + fewest, bytes: 7}, counts{ops: 5, bytes: 8}
	for _, tt := range []struct {
		after   counts
		elapsed time.Duration
		want    bool
	}{{nothing, time.Millisecond, true}, {few, time.Millisecond, true}, {enough, time.Millisecond, false}, {byt, time.Millisecond, false}, {nothing, grace + 1, false}} {
		if got := more(nothing, tt.after, tt.elapsed) > 0; got != tt.want {
			t.Errorf("after %v with %+v it goes on: %v", tt.elapsed, tt.after, got)
		}
	}
}
