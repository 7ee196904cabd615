package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/resolver"
)

// headStart is how long an address may take before the next one is tried as
// well (RFC 8305, 5).
const headStart = 250 * time.Millisecond

// dial connects to a port of host, a name or an address. Of several addresses
// the one that accepts first is taken.
func (x *session) dial(host string, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(x.ctx, x.timeout())
	defer cancel()
	x.client.SetDeadline(time.Now().Add(x.timeout() + handshakeTimeout))
	addrs, err := x.Lookup(ctx, host)
	var c *net.TCPConn
	if err == nil {
		c, err = x.race(ctx, alternate(addrs), port)
	}
	if err != nil {
		if timedOut(ctx, err) {
			err = fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, err)
		}
		atomic.AddUint64(&x.Adopter.Stats().DialErrors, 1)
		x.log("target", "host", host, "port", port, "error", err)
	}
	return c, err
}

// timedOut reports whether time was what was missing.
func timedOut(ctx context.Context, err error) bool {
	var timeout interface{ Timeout() bool }
	return ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout()
}

// alternate puts IPv6 and IPv4 addresses in turn, so that a family that does
// not work costs one attempt only.
func alternate(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Is4() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	list := make([]netip.Addr, 0, len(addrs))
	for len(families[0])+len(families[1]) > 0 {
		for i, f := range families {
			if len(f) > 0 {
				list = append(list, f[0])
				families[i] = f[1:]
			}
		}
	}
	return list
}

// race dials the addresses in order, each headStart after the one before it or
// when that has failed, and returns the first connection.
func (x *session) race(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, len(addrs))
	started, ended := 0, 0
	defer func() {
		go func(late int) {
			for range late { // cancelled, but may have been made just before
				if r := <-results; r.c != nil {
					r.c.Close()
				}
			}
		}(started - ended)
	}()
	err := error(resolver.ErrNotFound) // if there is no address
	for started < len(addrs) || ended < started {
		var next <-chan time.Time
		if started < len(addrs) {
			to := netip.AddrPortFrom(addrs[started], port)
			started++
			go func() {
				c, err := x.Dialer.Dial(ctx, "tcp", to)
				results <- result{c, err}
			}()
			next = time.After(headStart)
		}
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				return r.c.(*net.TCPConn), nil
			}
			if err == resolver.ErrNotFound || reason(err) == noRoute {
				err = r.err
			}
		case <-next:
		}
	}
	return nil, err
}

// A failure is why a target was not reached, as far as protocols tell.
type failure int

const (
	failed  failure = iota
	denied          // by rules of the network
	noRoute         // to its network
	noHost          // or no such name
	refused
	timeout
)

func reason(err error) failure {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return timeout
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return denied
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EAFNOSUPPORT):
		return noRoute
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EADDRNOTAVAIL),
		errors.Is(err, resolver.ErrNotFound), errors.Is(err, resolver.ErrNoServer):
		return noHost
	}
	return failed
}
