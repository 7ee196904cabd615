package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/relay"
)

// Bytes arrive as they were sent, both ways at once, whatever the sizes (R1).
func TestIntegrity(t *testing.T) { both(t, integrity) }

func integrity(t *testing.T, link link) {
	sizes := []int{1, 2, 1000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 24 << 20}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := link(t)
			want := random(size)
			var g sync.WaitGroup
			for _, c := range []*net.TCPConn{a, b} {
				g.Go(func() { writeChunks(t, c, want); c.CloseWrite() })
				g.Go(func() {
					if got := expectEOF(t, c); !bytes.Equal(got, want) {
						t.Errorf("%d bytes arrived, not as they were sent", len(got))
					}
				})
			}
			g.Wait()
		})
	}
}

// writeChunks writes b in pieces of random sizes, many of them tiny.
func writeChunks(t *testing.T, c *net.TCPConn, b []byte) {
	for len(b) > 0 {
		n := min(len(b), 1+rand.IntN(1<<rand.IntN(21)))
		if _, err := c.Write(b[:n]); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		b = b[n:]
	}
}

// One byte at a time gets through without waiting for more (R1, R18).
func TestSingleBytes(t *testing.T) { both(t, singleBytes) }

func singleBytes(t *testing.T, link link) {
	a, b := link(t)
	go func() { echo(b); b.Close() }()
	var buf [1]byte
	for i := range 500 {
		a.Write([]byte{byte(i)})
		if _, err := io.ReadFull(a, buf[:]); err != nil || buf[0] != byte(i) {
			t.Fatalf("byte %d: got %d, %v", i, buf[0], err)
		}
	}
	a.CloseWrite()
	expectEOF(t, a)
}

// Urgent data is not passed on, and what is around it arrives: a peer that does
// not ask for urgent data sees the same without a relay (R18).
func TestUrgentData(t *testing.T) { both(t, urgentData) }

func urgentData(t *testing.T, link link) {
	eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
		a.Write([]byte("before "))
		raw, err := a.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
		if err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("after"))
		a.CloseWrite()
		if got := expectEOF(t, b); string(got) != "before after" {
			t.Errorf("got %q", got)
		}
	})
}

// Many connections, one after another and at once; no descriptor remains (R1, R4).
func TestManyConnections(t *testing.T) {
	n := 4000
	if testing.Short() {
		n = 400
	}
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	r := &relay.Relay{Workers: 2}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	before := descriptors(t)
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			want := random(3000)
			got := make([]byte, len(want))
			for range n / 8 {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(f.Addr()))
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(patience))
				c.Write(want)
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("echo: %v", err)
				}
				c.Close()
			}
		})
	}
	g.Wait()
	wait(t, "all connections to end", func() bool { return f.Stats().Load().Active == 0 })
	// Splicing keeps a few pipes, nothing else may remain.
	wait(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
	want := relay.Stats{Total: uint64(n), BytesIn: uint64(3000 * n), BytesOut: uint64(3000 * n)}
	wait(t, "the counters", func() bool { return f.Stats().Load() == want })
}

// It does not matter who speaks first, or whether anyone does (R2).
func TestWhoSpeaksFirst(t *testing.T) { both(t, whoSpeaksFirst) }

func whoSpeaksFirst(t *testing.T, link link) {
	eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
		a.Write([]byte("220 ready\r\n"))
		got := make([]byte, 11)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "220 ready\r\n" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		a, b := link(t)
		a.CloseWrite()
		expectEOF(t, b)
		b.CloseWrite()
		expectEOF(t, a)
	})
}

// One side stops reading: the other is held back, and the relay keeps next to
// nothing for it. When it reads on nothing is missing (R8).
func TestBackpressure(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	r := &relay.Relay{Workers: 1}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	eachWay(t, func(t *testing.T) (client, server *net.TCPConn) { return dial(t, f.Addr()), accept(t, l) },
		func(t *testing.T, a, b *net.TCPConn) {
			want := random(96 << 20)
			before := heap()
			var sent atomic.Int64
			go func() {
				for p := want; len(p) > 0; {
					n, err := a.Write(p[:min(len(p), 64<<10)])
					if err != nil {
						t.Errorf("write: %v", err)
						return
					}
					sent.Add(int64(n))
					p = p[n:]
				}
				a.CloseWrite()
			}()
			last, still := int64(-1), 0
			wait(t, "the writer to be held back", func() bool {
				if n := sent.Load(); n != last {
					last, still = n, 0
				} else {
					still++
				}
				return still > 100
			})
			if n := sent.Load(); n > 64<<20 {
				t.Errorf("%d bytes were taken although nobody reads", n)
			}
			if grown := heap() - before; grown > 2<<20 {
				t.Errorf("the relay keeps %d bytes for one connection", grown)
			}
			if got := expectEOF(t, b); !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes arrived, or not as they were sent", len(got), len(want))
			}
		})
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Connections that do nothing, or next to nothing, are in nobody's way (R9).
func TestIdleConnections(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	r := &relay.Relay{Workers: 1}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	before := descriptors(t)
	const n = 1000
	var conns []*net.TCPConn
	for range n {
		c := dial(t, f.Addr())
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// Four per connection are in this process: the client's, the server's, and
	// two of the relay's.
	if d := descriptors(t) - before; d > 4*n {
		t.Errorf("%d descriptors for %d idle connections; want at most %d", d, n, 4*n)
	}
	if relay.ConnSize > 128 {
		t.Errorf("%d bytes of memory per connection", relay.ConnSize)
	}
	c := dial(t, f.Addr())
	c.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("a new connection among idle ones: %q, %v", got, err)
	}
	for _, c := range conns {
		c.Close()
	}
}

// The families of client and target have nothing to do with each other (R16).
func TestFamilies(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "127.0.0.2:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		for _, target := range []string{"127.0.0.1:0", "[::1]:0"} {
			t.Run(listen+" to "+target, func(t *testing.T) {
				l := listenTCP(t, target)
				serveTCP(l, echo)
				r := &relay.Relay{}
				f := forward(t, r, "tcp", listen, addrOf(l.Addr()))
				serve(t, r)
				to := f.Addr()
				if to.Addr().IsUnspecified() {
					loopback := netip.IPv6Loopback()
					if to.Addr().Is4() {
						loopback = netip.MustParseAddr("127.0.0.1")
					}
					to = netip.AddrPortFrom(loopback, to.Port())
				}
				c := dial(t, to)
				c.Write([]byte("hello"))
				c.CloseWrite()
				if got := expectEOF(t, c); string(got) != "hello" {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}
