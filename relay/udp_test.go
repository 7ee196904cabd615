package relay_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

func listenUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

func dialUDP(t testing.TB, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// echoUDP answers each datagram with itself, and notes who sent it.
func echoUDP(c *net.UDPConn) (clients func() int) {
	var mu sync.Mutex
	seen := make(map[netip.AddrPort]bool)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			seen[from] = true
			mu.Unlock()
			c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// ask sends b and expects it back.
func ask(t testing.TB, c *net.UDPConn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	expectDatagram(t, c, b)
}

func expectDatagram(t testing.TB, c *net.UDPConn, want []byte) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], want) {
		t.Fatalf("got %d bytes, %v; want the %d that were sent", n, err, len(want))
	}
}

// Datagrams keep their boundaries and their order, from nothing to the largest
// (R19).
func TestDatagrams(t *testing.T) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			back := listenUDP(t, p.target)
			r := &relay.Relay{}
			f := forward(t, r, "udp", p.listen, addrOf(back.LocalAddr()))
			serve(t, r)
			c := dialUDP(t, f.Addr())
			sizes := []int{0, 1, 64, 1472, 1473, 9000, 65507, 0, 64, 64, 64, 63, 65}
			var total uint64
			for _, size := range sizes { // to the target: bursts, and no order but theirs
				c.Write(random(size))
				total += uint64(size)
			}
			for _, size := range sizes {
				expectDatagram(t, back, random(size))
			}
			echoUDP(back)
			for _, size := range sizes {
				ask(t, c, random(size))
			}
			wait(t, "the counters", func() bool {
				s := f.Stats().Load()
				n := uint64(len(sizes))
				return s.Active == 1 && s.Total == 1 && s.DatagramsIn == 2*n && s.DatagramsOut == n &&
					s.BytesIn == 2*total && s.BytesOut == total && s.Dropped == 0
			})
		})
	}
}

// Each client, and each address it asks, has a flow of its own, and the answer
// comes from the address that was asked (R19).
func TestAnswersComeFromTheAddressAsked(t *testing.T) {
	for _, test := range []struct{ listen, asked1, asked2 string }{
		{"0.0.0.0:0", "127.0.0.1", "127.0.0.9"},
		{"[::]:0", "::1", "::1"},
	} {
		t.Run(test.listen, func(t *testing.T) {
			back := listenUDP(t, "127.0.0.1:0")
			clients := echoUDP(back)
			r := &relay.Relay{}
			f := forward(t, r, "udp", test.listen, addrOf(back.LocalAddr()))
			serve(t, r)
			c := listenUDP(t, test.listen) // not connected: it takes answers from anywhere
			for _, asked := range []string{test.asked1, test.asked2} {
				to := netip.AddrPortFrom(netip.MustParseAddr(asked), f.Addr().Port())
				c.WriteToUDPAddrPort([]byte("who?"), to)
				buf := make([]byte, 100)
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil || string(buf[:n]) != "who?" {
					t.Fatalf("got %q, %v", buf[:n], err)
				}
				if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != to {
					t.Errorf("asked %v, and %v answered", to, from)
				}
			}
			ask(t, dialUDP(t, netip.AddrPortFrom(netip.MustParseAddr(test.asked1), f.Addr().Port())), []byte("hello"))
			want := 3
			if test.asked1 == test.asked2 {
				want = 2
			}
			if n := clients(); n != want {
				t.Errorf("%d flows; want %d", n, want)
			}
		})
	}
}

// A target that is not there yet ends nothing: when it appears the same client
// reaches it (R20).
func TestTargetAppearsLater(t *testing.T) { everyPath(t, targetAppearsLater) }

func targetAppearsLater(t *testing.T, listen, target string) {
	back := listenUDP(t, target)
	addr := addrOf(back.LocalAddr())
	back.Close()
	r := &relay.Relay{}
	f := forward(t, r, "udp", listen, addr)
	serve(t, r)
	c := dialUDP(t, f.Addr())
	for i := range 3 {
		c.Write([]byte("anyone?"))
		wait(t, "the refusal to be seen", func() bool { return f.Stats().Load().DialErrors > uint64(i) })
	}
	echoUDP(listenUDP(t, addr.String()))
	ask(t, c, []byte("hello"))
	if s := f.Stats().Load(); s.Total != 1 {
		t.Errorf("%d flows; want 1", s.Total)
	}
}

// With several targets the first that is there is used, without the loss of a
// datagram, and the others when it goes away.
func TestNextTargetUDP(t *testing.T) {
	gone := listenUDP(t, "127.0.0.1:0")
	first, second := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "[::1]:0")
	r := &relay.Relay{}
	f := forward(t, r, "udp", "127.0.0.1:0", addrOf(gone.LocalAddr()), addrOf(first.LocalAddr()), addrOf(second.LocalAddr()))
	gone.Close()
	serve(t, r)
	echoUDP(first)
	c := dialUDP(t, f.Addr())
	ask(t, c, []byte("one"))
	ask(t, c, []byte("two"))
	first.Close()
	echoUDP(second)
	c.Write([]byte("lost")) // nobody has said yet that the target is gone
	wait(t, "the refusal to be seen", func() bool { return f.Stats().Load().DialErrors > 1 })
	ask(t, c, []byte("three"))
}

// A datagram either way keeps a flow (R21).
func TestFlowTimeout(t *testing.T) { everyPath(t, flowTimeout) }

func flowTimeout(t *testing.T, listen, target string) {
	const limit = 120 * time.Second
	clock := relay.NewClock()
	r := &relay.Relay{}
	clock.Use(r)
	back := listenUDP(t, target)
	f := forward(t, r, "udp", listen, addrOf(back.LocalAddr()))
	serve(t, r)
	oneWay, answers, silent := dialUDP(t, f.Addr()), dialUDP(t, f.Addr()), dialUDP(t, f.Addr())
	silent.Write([]byte("?"))
	expectDatagram(t, back, []byte("?"))
	oneWay.Write([]byte("!"))
	expectDatagram(t, back, []byte("!"))
	answers.Write([]byte("subscribe"))
	buf := make([]byte, 100)
	_, subscriber, err := back.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		clock.Advance(limit * 2 / 3)
		oneWay.Write([]byte("!"))
		expectDatagram(t, back, []byte("!"))
		back.WriteToUDPAddrPort([]byte("news"), subscriber)
		expectDatagram(t, answers, []byte("news"))
	}
	wait(t, "the silent flow to end", func() bool { return f.Stats().Load().Active == 2 })
	clock.Advance(limit)
	wait(t, "all flows to end", func() bool { return f.Stats().Load().Active == 0 })
	if s := f.Stats().Load(); s.Total != 3 || s.Evicted != 0 {
		t.Errorf("%d flows, %d evicted; want 3 and 0", s.Total, s.Evicted)
	}
}

// A flood of clients costs no more than the cap, and flows that are in use go on
// (R22).
func TestFlowCap(t *testing.T) { everyPath(t, flowCap) }

func flowCap(t *testing.T, listen, target string) {
	const limit = 32
	back := listenUDP(t, target)
	clients := echoUDP(back)
	r := &relay.Relay{Limits: relay.Limits{MaxFlows: limit}}
	f := forward(t, r, "udp", listen, addrOf(back.LocalAddr()))
	serve(t, r)
	before := descriptors(t)
	var regulars []*net.UDPConn
	for range 10 {
		c := dialUDP(t, f.Addr())
		ask(t, c, []byte("one"))
		ask(t, c, []byte("two")) // has shown that it gets answers
		regulars = append(regulars, c)
	}
	seen := clients()
	var flood []*net.UDPConn
	for range 20 * limit {
		c := dialUDP(t, f.Addr())
		ask(t, c, []byte("flood"))
		flood = append(flood, c)
	}
	if s := f.Stats().Load(); s.Active > limit || s.Evicted == 0 {
		t.Errorf("%d flows, %d evicted; the limit is %d", s.Active, s.Evicted, limit)
	}
	if n := descriptors(t) - before - len(flood) - len(regulars); n > limit {
		t.Errorf("the relay has %d descriptors; the limit is %d flows", n, limit)
	}
	was := clients()
	for _, c := range regulars {
		ask(t, c, []byte("three"))
	}
	if now := clients(); now != was {
		t.Errorf("%d of 10 flows in use did not survive (%d, %d, %d clients seen)", now-was, seen, was, now)
	}
}

// A flood of datagrams whose senders are invented, and wait for no answer, costs
// a bounded number of descriptors and amount of memory, and a client that is
// served goes on being served (R22).
func TestFlood(t *testing.T) { everyPath(t, flood) }

func flood(t *testing.T, listen, target string) {
	const limit = 64
	back := listenUDP(t, target)
	echoUDP(back)
	r := &relay.Relay{Workers: 1, Limits: relay.Limits{MaxFlows: limit}}
	f := forward(t, r, "udp", listen, addrOf(back.LocalAddr()))
	serve(t, r)
	regular := dialUDP(t, f.Addr())
	ask(t, regular, []byte("one"))
	ask(t, regular, []byte("two")) // has shown that it gets answers
	before, memory := descriptors(t), heap()
	const n = 2000
	for i := range n {
		source := fmt.Sprintf("127.%d.%d.%d:0", 1+i%200, i>>8&255, i&255)
		if f.Addr().Addr().Is6() {
			source = "[::1]:0"
		}
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(addrPort(source)), net.UDPAddrFromAddrPort(f.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("flood"))
		c.Close()
		if i%100 == 0 {
			ask(t, regular, []byte("still here?"))
		}
	}
	ask(t, regular, []byte("three"))
	s := f.Stats().Load()
	if s.Active > limit || s.Total < n/2 || s.Evicted < s.Total-limit {
		t.Errorf("%d flows of %d exist, %d were evicted; the limit is %d", s.Active, s.Total, s.Evicted, limit)
	}
	if d := descriptors(t) - before; d > limit {
		t.Errorf("%d descriptors more; the limit is %d flows", d, limit)
	}
	if grown := heap() - memory; grown > 4<<20 {
		t.Errorf("%d bytes more for %d clients", grown, n)
	}
}

// A flood on one port costs the clients of another nothing, however few they are
// and whichever worker has them (R22).
func TestFloodOfAnotherPort(t *testing.T) {
	const limit = 64
	back := listenUDP(t, "127.0.0.1:0")
	clients := echoUDP(back)
	r := &relay.Relay{Workers: 2, Limits: relay.Limits{MaxFlows: limit}}
	quiet := forward(t, r, "udp", "127.0.0.1:0", addrOf(back.LocalAddr()))
	flooded := forward(t, r, "udp", "127.0.0.1:0", addrOf(back.LocalAddr()))
	serve(t, r)
	flood := func() {
		for range 2 * limit {
			c := dialUDP(t, flooded.Addr())
			ask(t, c, []byte("flood"))
			c.Close()
		}
	}
	flood()
	var regulars []*net.UDPConn
	for range limit / 4 { // the flood has all flows when they come
		c := dialUDP(t, quiet.Addr())
		ask(t, c, []byte("one"))
		regulars = append(regulars, c)
	}
	flood()
	was := clients()
	for _, c := range regulars {
		ask(t, c, []byte("two"))
	}
	if now := clients(); now != was {
		t.Errorf("%d of %d flows did not survive a flood of another port", now-was, len(regulars))
	}
	wait(t, "the limit to be kept", func() bool { return quiet.Stats().Load().Active+flooded.Stats().Load().Active <= limit })
}

// Clients from elsewhere get nothing, and cost no flow.
func TestAllowUDP(t *testing.T) {
	back := listenUDP(t, "127.0.0.1:0")
	r := &relay.Relay{}
	f, err := r.Listen(relay.Forward{
		Network: "udp", Listen: addrPort("0.0.0.0:0"), Targets: []netip.AddrPort{addrOf(back.LocalAddr())},
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, r)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), f.Addr().Port())
	dialUDP(t, to).Write([]byte("no"))
	ok := listenUDP(t, "127.0.0.2:0")
	ok.WriteToUDPAddrPort([]byte("yes"), to)
	expectDatagram(t, back, []byte("yes"))
	wait(t, "the counters", func() bool {
		s := f.Stats().Load()
		return s.Refused == 1 && s.Dropped == 1 && s.Total == 1
	})
}

// Bursts from many clients at once arrive whole and in order, batched or not
// (R19, R23).
func TestDatagramBursts(t *testing.T) { everyPath(t, datagramBursts) }

func datagramBursts(t *testing.T, listen, target string) {
	back := listenUDP(t, target)
	back.SetReadBuffer(4 << 20)
	echoUDP(back)
	r := &relay.Relay{Workers: 2}
	f := forward(t, r, "udp", listen, addrOf(back.LocalAddr()))
	serve(t, r)
	var g sync.WaitGroup
	for i := range 8 {
		c := dialUDP(t, f.Addr())
		g.Go(func() {
			buf := make([]byte, 2048)
			for round := range 100 {
				for j := range 10 { // few enough for any queue
					c.Write(fmt.Appendf(nil, "client %d round %d datagram %*d", i, round, 1+j%3*500, j))
				}
				for j := range 10 {
					n, err := c.Read(buf)
					if want := fmt.Sprintf("client %d round %d datagram %*d", i, round, 1+j%3*500, j); err != nil || string(buf[:n]) != want {
						t.Errorf("got %q, %v; want %q", buf[:n], err, want)
						return
					}
				}
			}
		})
	}
	g.Wait()
}

// The port is bound once, and its listener takes the flows with it.
func TestListenUDP(t *testing.T) { everyPath(t, listenUDPOnce) }

func listenUDPOnce(t *testing.T, listen, target string) {
	back := listenUDP(t, target)
	echoUDP(back)
	r := &relay.Relay{}
	f := forward(t, r, "udp", listen, addrOf(back.LocalAddr()))
	serve(t, r)
	if _, err := r.Listen(relay.Forward{Network: "udp", Listen: f.Addr(), Targets: []netip.AddrPort{addrOf(back.LocalAddr())}}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the same address again: %v", err)
	}
	before := descriptors(t)
	ask(t, dialUDP(t, f.Addr()), []byte("hello"))
	f.Close()
	if n := f.Stats().Load().Active; n != 0 {
		t.Errorf("%d flows without a listener", n)
	}
	if n := descriptors(t) - before; n > 0 { // one more for the client, one less for the listener
		t.Errorf("%d descriptors are left open", n)
	}
	again := forward(t, r, "udp", f.Addr().String(), addrOf(back.LocalAddr()))
	ask(t, dialUDP(t, again.Addr()), []byte("hello"))
}
