package relay_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

// A soak is a relay under random load: lanes of TCP conversations, and lanes of
// datagrams. Half of the lanes cross from one address family to the other.
type soak struct {
	seed   uint64
	n      int // rounds so far
	clock  *relay.Clock
	backs  []*net.TCPListener
	fronts fronts // in front of backs
	flows  fronts // in front of echo services
}

type fronts []*relay.Listener

func (fs fronts) total() (n uint64) {
	for _, f := range fs {
		n += f.Stats().Load().Total
	}
	return n
}

func (fs fronts) active() (n uint64) {
	for _, f := range fs {
		n += f.Stats().Load().Active
	}
	return n
}

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{seed: seed, clock: relay.NewClock()}
	r := &relay.Relay{Workers: 2, Limits: relay.Limits{MaxFlows: 64}}
	s.clock.UseAhead(r)
	for i := range 8 {
		listen, target := "127.0.0.1:0", "127.0.0.1:0"
		if i&1 > 0 {
			target = "[::1]:0"
		}
		if i&2 > 0 {
			listen = "[::1]:0"
		}
		s.backs = append(s.backs, listenTCP(t, target))
		s.fronts = append(s.fronts, forward(t, r, "tcp", listen, addrOf(s.backs[i].Addr())))
		if i < 4 {
			back := listenUDP(t, target)
			back.SetDeadline(time.Time{})
			echoUDP(back)
			s.flows = append(s.flows, forward(t, r, "udp", listen, addrOf(back.LocalAddr())))
		}
	}
	serve(t, r)
	return s
}

// run keeps every lane busy until the deadline, and waits until all is quiet.
func (s *soak) run(t *testing.T, deadline time.Time) {
	t.Helper()
	s.n++
	var g sync.WaitGroup
	lane := func(name string, do func(name string, rnd *rand.Rand)) {
		g.Go(func() {
			for n := 0; time.Now().Before(deadline) && !t.Failed(); n++ {
				rnd := rand.New(rand.NewPCG(s.seed, uint64(s.n)<<48|uint64(len(name))<<40|uint64(name[len(name)-1])<<32|uint64(n)))
				do(fmt.Sprintf("round %d, %s, number %d", s.n, name, n), rnd)
				time.Sleep(*modelPause) // behaviour, not waiting
			}
		})
	}
	for i, f := range s.fronts {
		lane(fmt.Sprint("lane ", i), func(name string, rnd *rand.Rand) { converse(t, name, rnd, f, s.backs[i]) })
	}
	for i, f := range s.flows {
		lane(fmt.Sprint("datagrams ", i), func(name string, rnd *rand.Rand) { chatter(t, name, rnd, f) })
	}
	g.Wait()
	wait(t, "the connections to end", func() bool { return s.fronts.active() == 0 })
	wait(t, "the flows to expire", func() bool { // some answers may have been late
		s.clock.Advance(relay.DefaultFlowTimeout)
		return s.flows.active() == 0
	})
}

// chatter is a client that asks some questions, of which it may not wait for
// the answer, and goes away without a word.
func chatter(t *testing.T, name string, rnd *rand.Rand, front *relay.Listener) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(front.Addr()))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 64<<10)
	for i := range 1 + rnd.IntN(8) {
		question := content(byte(i), 0, rnd.IntN(1<<rnd.IntN(16)))
		if _, err := c.Write(question); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if rnd.IntN(8) == 0 {
			return
		}
		n, err := c.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], question) {
			t.Errorf("%s: %d bytes came back (%v) of %d", name, n, err, len(question))
			return
		}
	}
}

// figures are what this process, and so the relay in it, costs.
type figures struct {
	descriptors, threads, goroutines int
	heap, resident                   int64 // bytes
}

func (f figures) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %d KiB of heap, %d KiB resident", f.descriptors, f.threads, f.goroutines, f.heap>>10, f.resident>>10)
}

// figures waits for what ends by itself and then measures.
func (s *soak) figures(t *testing.T) figures {
	t.Helper()
	debug.FreeOSMemory()
	f := figures{descriptors: descriptors(t), goroutines: runtime.NumGoroutine(), heap: heap()}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	f.threads = len(threads)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &f.resident); err != nil {
		t.Fatal(err)
	}
	f.resident <<= 10
	return f
}

// mustNotExceed compares what a relay costs after a while with what it cost at
// first. What it keeps for use again, and the threads and memory of the test
// around it, may vary a little.
func (f figures) mustNotExceed(t *testing.T, first figures) {
	t.Helper()
	const pipes = 2 * 2 * 4 // two workers may keep four each
	for _, c := range []struct {
		what             string
		now, first, more int64
	}{
		{"descriptors", int64(f.descriptors), int64(first.descriptors), pipes},
		{"threads", int64(f.threads), int64(first.threads), 8},
		{"goroutines", int64(f.goroutines), int64(first.goroutines), 0},
		{"bytes of heap", f.heap, first.heap, 8 << 20},
		{"bytes resident", f.resident, first.resident, 48 << 20},
	} {
		if c.now > c.first+c.more {
			t.Errorf("%d %s, and %d at first", c.now, c.what, c.first)
		}
	}
}
