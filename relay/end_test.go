package relay_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/relay"
)

// One side says that it has no more to send; the other answers at length after
// that (R3).
func TestHalfClose(t *testing.T) { both(t, halfCloses) }

func halfCloses(t *testing.T, link link) {
	answer := random(10 << 20)
	eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
		a.Write([]byte("request"))
		a.CloseWrite()
		if got := expectEOF(t, b); string(got) != "request" {
			t.Errorf("got %q", got)
		}
		go func() { b.Write(answer); b.CloseWrite() }()
		if got := expectEOF(t, a); !bytes.Equal(got, answer) {
			t.Errorf("%d bytes of the answer arrived, or not as they were sent", len(got))
		}
	})
}

// When both sides have ended nothing remains, in particular no socket that waits
// for a close (R4).
func TestNothingRemains(t *testing.T) { everyPath(t, nothingRemains) }

func nothingRemains(t *testing.T, listen, target string) {
	l := listenTCP(t, target)
	r := &relay.Relay{Workers: 1}
	f := forward(t, r, "tcp", listen, addrOf(l.Addr()))
	serve(t, r)
	before := descriptors(t)
	for _, end := range []func(c, s *net.TCPConn){
		func(c, s *net.TCPConn) { c.CloseWrite(); expectEOF(t, s); s.Close(); expectEOF(t, c); c.Close() },
		func(c, s *net.TCPConn) { s.CloseWrite(); expectEOF(t, c); c.Close(); expectEOF(t, s); s.Close() },
		func(c, s *net.TCPConn) { c.Close(); s.Close() },
		func(c, s *net.TCPConn) { c.SetLinger(0); c.Close(); expectReset(t, s); s.Close() },
		func(c, s *net.TCPConn) { s.SetLinger(0); s.Close(); expectReset(t, c); c.Close() },
	} {
		c, s := dial(t, f.Addr()), accept(t, l)
		end(c, s)
		wait(t, "the connection to end", func() bool { return f.Stats().Load().Active == 0 })
		wait(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
	}
}

// A reset stays a reset, and what was sent before arrives before it (R5).
func TestReset(t *testing.T) { both(t, resets) }

func resets(t *testing.T, link link) {
	for name, data := range map[string][]byte{"nothing before": nil, "a little": random(100), "much": random(50 << 10)} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
				a.Write(data)
				reset(t, a)
				if got := expectReset(t, b); !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes before the reset arrived", len(got), len(data))
				}
			})
		})
	}
	t.Run("after half-close", func(t *testing.T) {
		eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
			a.CloseWrite()
			expectEOF(t, b)
			reset(t, a)
			waitWriteError(t, b)
		})
	})
	t.Run("after the other's half-close", func(t *testing.T) {
		eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
			b.CloseWrite()
			expectEOF(t, a)
			a.Write([]byte("last words"))
			reset(t, a)
			if got := expectReset(t, b); string(got) != "last words" {
				t.Errorf("got %q before the reset", got)
			}
		})
	})
	t.Run("closed with unread bytes", func(t *testing.T) {
		eachWay(t, link, func(t *testing.T, a, b *net.TCPConn) {
			b.Write([]byte("nobody reads this"))
			io.ReadFull(a, make([]byte, 1))
			a.Close() // the kernel makes a reset of this
			expectReset(t, b)
		})
	})
}

// waitWriteError writes until that fails with a reset.
func waitWriteError(t *testing.T, c *net.TCPConn) {
	t.Helper()
	var err error
	wait(t, "writing to fail", func() bool {
		_, err = c.Write([]byte("x"))
		return err != nil
	})
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v; want a reset", err)
	}
}

// The relay has accepted more than the reader has room for when the writer
// resets: all of that is delivered, at the reader's own pace, then the reset.
func TestResetBehindSlowReader(t *testing.T) { everyPath(t, resetBehindSlowReader) }

func resetBehindSlowReader(t *testing.T, listen, target string) {
	l := listenTCP(t, target)
	r := &relay.Relay{Workers: 1}
	f := forward(t, r, "tcp", listen, addrOf(l.Addr()))
	serve(t, r)
	eachWay(t, func(t *testing.T) (client, server *net.TCPConn) { return dial(t, f.Addr()), accept(t, l) },
		func(t *testing.T, a, b *net.TCPConn) {
			data := random(3 << 20)
			a.Write(data)
			reset(t, a) // waits until the relay has it
			if got := expectReset(t, b); !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes before the reset arrived", len(got), len(data))
			}
		})
}

// A server that answers and closes early, while the client still sends, is
// understood: the answer arrives whole (R7).
func TestEarlyAnswer(t *testing.T) { both(t, earlyAnswer) }

func earlyAnswer(t *testing.T, link link) {
	answer := random(100 << 10)
	c, s := link(t)
	go func() {
		io.ReadFull(s, make([]byte, 1000))
		s.Write(answer)
		s.CloseWrite()
		io.Copy(io.Discard, s) // lingering close, as web servers do
		s.Close()
	}()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 50<<20))
		c.CloseWrite()
		sent <- err
	}()
	if got := expectEOF(t, c); !bytes.Equal(got, answer) {
		t.Errorf("%d of %d bytes of the answer arrived", len(got), len(answer))
	}
	if err := <-sent; err != nil {
		t.Errorf("write: %v", err)
	}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T, ip string) netip.AddrPort {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return addrOf(l.Addr())
}

// Nobody listens: the client is reset, as it would be without a relay (R6).
func TestRefused(t *testing.T) {
	everyPath(t, func(t *testing.T, listen, _ string) { refused(t, listen) })
}

func refused(t *testing.T, listen string) {
	var log journal
	r := &relay.Relay{Log: log.logger()}
	f := forward(t, r, "tcp", listen, closedPort(t, "127.0.0.1"), closedPort(t, "::1"))
	serve(t, r)
	c, err := net.Dial("tcp", f.Addr().String())
	if err == nil {
		expectReset(t, c.(*net.TCPConn))
	} else if !errors.Is(err, syscall.ECONNRESET) { // it was faster than connect
		t.Errorf("dial: %v; want a reset", err)
	}
	wait(t, "the counters", func() bool {
		s := f.Stats().Load()
		return s.Active == 0 && s.Total == 1 && s.DialErrors == 2
	})
	for range 20 {
		if c, err := net.Dial("tcp", f.Addr().String()); err == nil {
			expectReset(t, c.(*net.TCPConn))
		}
	}
	wait(t, "the log", func() bool { return log.count("target does not accept") > 0 })
	if n := log.count("target does not accept"); n != 1 {
		t.Errorf("%d lines in the log; want 1", n)
	}
}

// The first target that accepts is used (R6, R16).
func TestNextTarget(t *testing.T) {
	l := listenTCP(t, "[::1]:0")
	serveTCP(l, echo)
	r := &relay.Relay{}
	f := forward(t, r, "tcp", "127.0.0.1:0", closedPort(t, "127.0.0.1"), closedPort(t, "::1"), addrOf(l.Addr()))
	serve(t, r)
	c := dial(t, f.Addr())
	c.Write([]byte("hello"))
	c.CloseWrite()
	if got := expectEOF(t, c); string(got) != "hello" {
		t.Errorf("got %q", got)
	}
}

// blackhole returns an address that does not answer: a socket whose queue of
// connections is full.
func blackhole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one more than the queue holds; the last may stay on its way
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		unix.Connect(c, sa)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}

// A target that does not answer costs its own clients the dial timeout, and
// nobody else anything (R6).
func TestBlackhole(t *testing.T) {
	clock := relay.NewClock()
	r := &relay.Relay{Workers: 1}
	clock.Use(r)
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	dead := forward(t, r, "tcp", "127.0.0.1:0", blackhole(t))
	second := forward(t, r, "tcp", "127.0.0.1:0", blackhole(t), addrOf(l.Addr()))
	live := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)

	stuck, late := dial(t, dead.Addr()), dial(t, second.Addr())
	late.Write([]byte("hello"))
	late.CloseWrite()
	wait(t, "both to be dialled for", func() bool {
		return dead.Stats().Load().Active == 1 && second.Stats().Load().Active == 1
	})
	c := dial(t, live.Addr())
	c.Write([]byte("hello"))
	c.CloseWrite()
	if got := expectEOF(t, c); string(got) != "hello" {
		t.Errorf("next to a dead target: got %q", got)
	}

	gone := dial(t, dead.Addr()) // gives up before the relay does
	wait(t, "it to be accepted", func() bool { return dead.Stats().Load().Active == 2 })
	gone.SetLinger(0)
	gone.Close()
	wait(t, "it to be forgotten", func() bool { return dead.Stats().Load().Active == 1 })

	clock.Advance(relay.DefaultDialTimeout)
	expectReset(t, stuck)
	if got := expectEOF(t, late); string(got) != "hello" {
		t.Errorf("from the second target: got %q", got)
	}
}
