package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/dialx"
	"github.com/wgjail/wgjail/relay"
)

// A Protocol is what clients speak.
type Protocol string

// The protocols.
const (
	SOCKS5 Protocol = "socks5"
	HTTP   Protocol = "http"
)

// A Server is a proxy. Its fields are not changed once Serve was called.
type Server struct {
	Protocol Protocol

	// Allow holds the networks whose clients are served; empty means anyone.
	// Others are reset, and counted as refused.
	Allow []netip.Prefix

	// Users are who may use it, with their passwords. Empty asks nobody.
	Users Users

	// Lookup returns the addresses of a name, or of what is one already.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)

	// Dialer makes the connections to targets.
	Dialer *dialx.Dialer

	// Adopter takes over a client and its target, and counts them. Its Stats
	// also count who was refused, and datagrams.
	Adopter *relay.Adopter

	// Timeout is how long a target may take, its name included. Zero is 20 s.
	Timeout time.Duration

	// Log is told at debug level what became of requests. Nil is silent.
	Log *slog.Logger
}

const (
	// handshakeTimeout is how long a client may take to say where to.
	handshakeTimeout = 30 * time.Second
	// headLimit is how many bytes of it are read.
	headLimit = 64 << 10
)

func (s *Server) timeout() time.Duration {
	if s.Timeout == 0 {
		return 20 * time.Second
	}
	return s.Timeout
}

// Serve serves the clients of l until ctx is done or l is closed; it closes l
// then. Handshakes that are not over end with it, and so do datagrams; what the
// relay has taken over goes on.
func (s *Server) Serve(ctx context.Context, l *net.TCPListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	delay := time.Duration(0)
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			delay = 0
			sessions.Go(func() { s.handle(ctx, c) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case short(err):
			// Clients wait in the backlog, which costs nothing.
			delay = min(max(5*time.Millisecond, 2*delay), time.Second)
			s.log("not accepting for a while", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
		}
	}
}

// short tells errors that go away when something else is closed.
func short(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Server) log(msg string, args ...any) {
	if s.Log != nil {
		s.Log.Debug(msg, args...)
	}
}

// handle is the life of one client, until it is the relay's.
func (s *Server) handle(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	if !s.allows(c) {
		s.refused()
		c.SetLinger(0)
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	x := &session{Server: s, ctx: ctx, client: c, r: bufio.NewReader(io.LimitReader(c, headLimit))}
	if s.Protocol == SOCKS5 {
		x.socks()
	} else {
		x.http()
	}
}

func (s *Server) refused() { atomic.AddUint64(&s.Adopter.Stats().Refused, 1) }

func (s *Server) allows(c *net.TCPConn) bool {
	if len(s.Allow) == 0 {
		return true
	}
	client := addrOf(c.RemoteAddr()).Addr().WithZone("")
	for _, p := range s.Allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// addrOf is the address of a TCP socket.
func addrOf(a net.Addr) netip.AddrPort {
	tcp := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(tcp.Addr().Unmap(), tcp.Port())
}

// A session is a client that has not got its target yet.
type session struct {
	*Server
	ctx    context.Context // of the server
	client *net.TCPConn
	r      *bufio.Reader // what was read ahead is the target's
}

// ahead returns the bytes that were read but not used.
func (x *session) ahead() []byte {
	b, _ := x.r.Peek(x.r.Buffered())
	return b
}

// join hands the client and its target over to the relay.
func (x *session) join(target *net.TCPConn, head []byte) {
	to, err := dialx.Take(target)
	if err != nil {
		x.log("hand over", "error", err)
		return
	}
	from, err := dialx.Take(x.client)
	if err != nil {
		unix.Close(to)
		x.log("hand over", "error", err)
		return
	}
	if err := x.Adopter.Adopt(from, to, head); err != nil {
		x.log("hand over", "error", err)
	}
}

// lingerTimeout is how long a client may take to read why it is sent away.
const lingerTimeout = time.Second

// sendAway writes the last thing that the client is told. What it may still be
// sending is read: to close a socket with unread bytes is to reset it, and the
// client would not see the answer.
func (x *session) sendAway(answer []byte) {
	x.client.SetDeadline(time.Now().Add(lingerTimeout))
	if _, err := x.client.Write(answer); err != nil {
		return
	}
	x.client.CloseWrite()
	io.Copy(io.Discard, io.LimitReader(x.client, 4*headLimit))
}
