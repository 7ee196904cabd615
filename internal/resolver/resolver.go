// Package resolver asks name servers for addresses, over connections that its
// user makes: in a jail, where package net's own resolver would not look.
//
//	Lookup ─► cache ─► A and AAAA at once ─► server 1 (UDP, TCP if cut) ─► server 2 …
//
// It is a stub resolver (RFC 1034, 5.3.1; RFC 1123, 6.1.3): it asks recursive
// servers, and follows only the aliases that they have followed. It reads no
// file: neither /etc/hosts nor /etc/resolv.conf has a say.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A Resolver looks names up. Its fields are not changed once it is in use; it
// may be used by many goroutines at once.
type Resolver struct {
	// Servers are asked in order, the next if one does not answer or cannot.
	Servers []netip.AddrPort

	// Search are the domains that names without a dot are looked up in.
	Search []string

	// Dial connects to a server, for network "udp" and "tcp".
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

	// Timeout is how long a server may take, for each of two tries. Zero is 2 s.
	Timeout time.Duration

	cache cache
}

// Errors of Lookup.
var (
	ErrNotFound = errors.New("there is no such name, or it has no address")
	ErrNoServer = errors.New("no name server is configured")
	errBadName  = errors.New("not a name")
)

// attempts is how often each server is asked.
const attempts = 2

// Lookup returns the addresses of name, IPv6 first. A name that is an address
// already stands for itself, and "localhost" and what ends in it for loopback
// (RFC 6761); nobody is asked then. The error is ErrNotFound if the servers
// know no address.
func (r *Resolver) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, nil
	}
	err := error(ErrNotFound)
	for _, full := range r.candidates(name) {
		var addrs []netip.Addr
		addrs, err = r.lookup(ctx, full)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return addrs, wrap(name, err)
		}
	}
	return nil, wrap(name, err)
}

func wrap(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look up %q: %w", name, err)
}

// candidates are the full names that name may stand for, as resolv.conf(5) has
// it with ndots:1.
func (r *Resolver) candidates(name string) []string {
	if strings.Contains(name, ".") || len(r.Search) == 0 {
		return []string{name}
	}
	var list []string
	for _, domain := range r.Search {
		list = append(list, name+"."+strings.TrimSuffix(domain, "."))
	}
	return append(list, name)
}

// lookup asks for both families of addresses.
func (r *Resolver) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if addrs, err, ok := r.cache.get(name, time.Now()); ok {
		return addrs, err
	}
	q, err := dnsmessage.NewName(name + ".")
	if err != nil || name == "" || strings.Contains(name, "..") || strings.HasPrefix(name, ".") {
		return nil, errBadName
	}
	if len(r.Servers) == 0 {
		return nil, ErrNoServer
	}
	kinds := [2]dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA}
	var answers [2]answer
	done := make(chan struct{})
	go func() {
		defer close(done)
		answers[0] = r.ask(ctx, dnsmessage.Question{Name: q, Type: kinds[0], Class: dnsmessage.ClassINET})
	}()
	answers[1] = r.ask(ctx, dnsmessage.Question{Name: q, Type: kinds[1], Class: dnsmessage.ClassINET})
	<-done
	both := join(answers[0], answers[1])
	if both.err == nil || errors.Is(both.err, ErrNotFound) {
		r.cache.put(name, both, time.Now())
	}
	return both.addrs, both.err
}

// An answer is what the servers say to one question.
type answer struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// join makes one of the answers for two families: one is enough.
func join(six, four answer) answer {
	all := answer{ttl: maxTTL, err: ErrNotFound}
	for _, a := range []answer{six, four} {
		switch {
		case a.err == nil:
			all.addrs = append(all.addrs, a.addrs...)
			all.ttl = min(all.ttl, a.ttl)
		case !errors.Is(a.err, ErrNotFound):
			all.err = a.err
			all.ttl = 0 // it should be asked again
		}
	}
	switch {
	case len(all.addrs) > 0:
		all.err = nil
	case all.err == ErrNotFound:
		all.ttl = negativeTTL
	}
	return all
}

// ask puts one question to the servers in turn. The error is what each of them
// has come to in the end.
func (r *Resolver) ask(ctx context.Context, q dnsmessage.Question) answer {
	var err error
	for range attempts {
		err = nil
		for _, server := range r.Servers {
			a := r.askServer(ctx, q, server)
			if a.err == nil || errors.Is(a.err, ErrNotFound) {
				return a
			}
			a.err = fmt.Errorf("name server %v: %w", server, a.err)
			if err != nil {
				a.err = fmt.Errorf("%w; %w", err, a.err)
			}
			if err = a.err; ctx.Err() != nil {
				return answer{err: err}
			}
		}
	}
	return answer{err: err}
}

// askServer puts one question to one server, again over TCP if the answer does
// not fit into a datagram.
func (r *Resolver) askServer(ctx context.Context, q dnsmessage.Question, server netip.AddrPort) answer {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		a, cut := r.exchange(ctx, network, server, q)
		if !cut {
			return a
		}
	}
	return answer{err: errors.New("its answer is cut off even over TCP")}
}
