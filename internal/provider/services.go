package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// Ports of the services.
const (
	EchoPort   = 7
	DNSPort    = 53
	WhoamiPort = 80
)

// Services are what a probe finds behind the tunnel, or outside it: on every
// address of a namespace, IPv4 and IPv6,
//
//	7 and other ports  tcp, udp  echo
//	53                 tcp, udp  a name server; what is not a query is echoed
//	80                 tcp       HTTP: the client's address and a newline
//
// A reply to a datagram comes from the address that it was sent to.
type Services struct {
	names *names

	mu     sync.Mutex
	calls  []Call
	open   map[io.Closer]bool // listeners and connections
	closed bool
	wg     sync.WaitGroup
}

// A Call is a connection or a datagram that a service received.
type Call struct {
	Network       string // "tcp" or "udp"
	Local, Remote netip.AddrPort
}

// callLimit bounds the calls that are kept.
const callLimit = 1 << 14

// Serve starts the services in the namespace ns, with echo on these ports too.
// nil is the namespace of the process.
func Serve(ns *netnsx.Namespace, echo ...uint16) (*Services, error) {
	s := &Services{names: newNames(), open: map[io.Closer]bool{}}
	err := in(ns, func() error {
		for _, port := range append([]uint16{EchoPort}, echo...) {
			if err := s.listen(port, s.echo, s.echoDatagram); err != nil {
				return err
			}
		}
		if err := s.listen(DNSPort, s.answerStream, s.answerDatagram); err != nil {
			return err
		}
		return s.listen(WhoamiPort, nil, s.echoDatagram)
	})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start the provider's services: %w", err)
	}
	return s, nil
}

// listen serves a port on all addresses, in the calling thread's namespace. A
// nil stream handler stands for the HTTP service.
func (s *Services) listen(port uint16, stream func(net.Conn), datagram func(netip.AddrPort, []byte) []byte) error {
	for network, addr := range map[string]netip.Addr{"4": netip.IPv4Unspecified(), "6": netip.IPv6Unspecified()} {
		at := netip.AddrPortFrom(addr, port).String()
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp"+network, at)
		if errors.Is(err, unix.EAFNOSUPPORT) { // no IPv6 in this kernel
			continue
		}
		if err != nil {
			return err
		}
		s.keep(l)
		if stream == nil {
			s.wg.Go(func() { s.serveWhoami(l) })
		} else {
			s.wg.Go(func() { s.accept(l, stream) })
		}
		c, err := listenUDP("udp"+network, at)
		if err != nil {
			return err
		}
		s.keep(c)
		s.wg.Go(func() { s.receive(c, datagram) })
	}
	return nil
}

// keep remembers c for Close. It reports whether c may be used.
func (s *Services) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.open[c] = true
	return true
}

func (s *Services) drop(c io.Closer) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close ends the services and their connections.
func (s *Services) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Calls returns the connections and datagrams received so far, oldest first.
func (s *Services) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *Services) called(network string, local, remote netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) == callLimit {
		s.calls = slices.Clone(s.calls[callLimit/2:])
	}
	s.calls = append(s.calls, Call{network, unmap(local), unmap(remote)})
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// accept serves one listener until it is closed.
func (s *Services) accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or a client that has gone already
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if !s.keep(c) {
			return
		}
		s.note(c)
		s.wg.Go(func() {
			defer s.drop(c)
			serve(c)
		})
	}
}

func (s *Services) note(c net.Conn) {
	s.called("tcp", c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
}

// echo sends back what it reads, the end of the stream included.
func (s *Services) echo(c net.Conn) {
	io.Copy(c, c)
}

func (s *Services) echoDatagram(_ netip.AddrPort, data []byte) []byte { return data }

// serveWhoami is the HTTP service.
func (s *Services) serveWhoami(l net.Listener) {
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			io.WriteString(w, host+"\n")
		}),
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.note(c)
				s.keep(c)
			case http.StateClosed, http.StateHijacked:
				s.drop(c)
			}
		},
	}
	server.Serve(l)
}

// SetName lets the name server answer for name with these addresses. No
// addresses: the name does not exist.
func (s *Services) SetName(name string, addrs ...netip.Addr) {
	s.names.set(strings.TrimSuffix(name, "."), addrs)
}

// Queries returns what the name server was asked so far, oldest first.
func (s *Services) Queries() []Query { return s.names.asked() }
