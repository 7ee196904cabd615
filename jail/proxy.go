package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/dialx"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/proxy"
	"github.com/wgjail/wgjail/internal/resolver"
)

// ProxyMode is the mode of a ForwardStatus that is a proxy.
const ProxyMode Mode = "proxy"

// ProxyOptions say what a proxy process serves. Those of ForwardOptions that
// concern a target do not count: the clients say where to.
type ProxyOptions struct {
	ForwardOptions
	Ports []ProxySpec
	Users string // file of NAME:PASSWORD lines; "" asks nobody
}

// OpenProxy binds where proxies are to listen and registers them, as OpenForward
// does for forwards. What their clients want is dialled from the jail, and names
// are asked of the jail's servers, from there.
func OpenProxy(ctx context.Context, opts ProxyOptions) (*Forwarder, error) {
	users, err := readUsers(opts.Users)
	if err != nil {
		return nil, err
	}
	return open(ctx, opts.ForwardOptions, func(f *Forwarder) error { return f.bindProxies(opts.Ports, users) })
}

// readUsers reads the file of users, which others must not read.
func readUsers(path string) (proxy.Users, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, hint.Wrap(fmt.Errorf("%s holds passwords, and others can read it", path), "close it with: chmod 600 %s", path)
	}
	const most = 1 << 20
	text := make([]byte, min(info.Size(), most))
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, err
	}
	users, err := proxy.ParseUsers(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return users, nil
}

// proxies are those of a process.
type proxies struct {
	ports   []proxyPort
	sockets *socketMaker // nil without proxies
}

// A proxyPort is one socket on which a proxy listens.
type proxyPort struct {
	server   *proxy.Server
	listener *net.TCPListener
}

// serve serves clients from when ready is closed until ctx is done. The channel
// is closed when the last one is served.
func (ps *proxies) serve(ctx context.Context, ready <-chan struct{}) <-chan struct{} {
	var all sync.WaitGroup
	for _, p := range ps.ports {
		all.Go(func() {
			select {
			case <-ready:
			case <-ctx.Done():
			}
			p.server.Serve(ctx, p.listener)
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
		ps.close()
	}()
	return done
}

// close undoes what was opened.
func (ps *proxies) close() {
	for _, p := range ps.ports {
		p.listener.Close()
	}
	if ps.sockets != nil {
		ps.sockets.close()
	}
}

// bindProxies binds every port and makes its entry.
func (f *Forwarder) bindProxies(ports []ProxySpec, users proxy.Users) error {
	allow, err := f.allow()
	if err != nil {
		return err
	}
	plan, err := f.opts.Into.dialPlan(f.ns, netip.Addr{})
	if err != nil {
		return err
	}
	if f.proxies.sockets, err = newSocketMaker(f.ns); err != nil {
		return err
	}
	dialer := &dialx.Dialer{Socket: f.proxies.sockets.socket, Source: plan.source}
	lookup, err := f.jailLookup(dialer)
	if err != nil {
		return err
	}
	for _, spec := range ports {
		e, err := newEntry(f.opts.Into, record{
			ID: spec.id(), Mode: ProxyMode, Proto: string(spec.Protocol), Listen: spec.String(), Target: "*", Source: SourceJail,
		}, allow, nil)
		if errors.Is(err, errRegistered) {
			return hint.Wrap(fmt.Errorf("there is a %s proxy at %s already", spec.Protocol, spec),
				"stop that with: wgjail proxy %s --stop --%s %s", f.opts.Into.flag(), spec.Protocol, spec)
		}
		if err != nil {
			return err
		}
		f.entries = append(f.entries, e)
		server := &proxy.Server{
			Protocol: spec.Protocol, Allow: allow, Users: users, Lookup: lookup, Dialer: dialer,
			Adopter: f.relay.Adopter(e.stats), Timeout: f.opts.Limits.DialTimeout, Log: f.opts.Log,
		}
		if err := f.listenProxy(e, spec, server); err != nil {
			return err
		}
	}
	return nil
}

// jailLookup asks the jail's name servers.
func (f *Forwarder) jailLookup(d *dialx.Dialer) (func(context.Context, string) ([]netip.Addr, error), error) {
	s, err := loadState(f.opts.Into.Jail)
	if err != nil {
		return nil, err
	}
	r := &resolver.Resolver{Search: s.Search, Dial: d.Dial}
	for _, a := range s.DNS {
		r.Servers = append(r.Servers, netip.AddrPortFrom(a, 53))
	}
	return r.Lookup, nil
}

// listenProxy binds the addresses of a port.
func (f *Forwarder) listenProxy(e *entry, spec ProxySpec, server *proxy.Server) error {
	addrs := spec.addrs()
	for _, at := range addrs {
		l, err := listenTCP(at)
		if len(addrs) == 2 && at.Addr().Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // a host without IPv6
		}
		if err != nil {
			return bindError(at, "tcp", err)
		}
		e.listeners = append(e.listeners, l)
		f.proxies.ports = append(f.proxies.ports, proxyPort{server, l})
	}
	return nil
}

// listenTCP listens in one family, with sockets that can be spliced: package
// net would take MPTCP.
func listenTCP(at netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// StopProxies ends the proxies of the jail at these ports, or all of them if
// there are no ports, and returns their IDs. It is StopForwards for proxies.
func StopProxies(ctx context.Context, name string, ports []ProxySpec) ([]string, error) {
	p := Place{Jail: name}
	if missing(stateDir(name)) {
		return nil, notUp(name)
	}
	if err := p.forgetKilled(ctx); err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range ports {
		ids = append(ids, s.id())
	}
	if len(ports) == 0 {
		all, err := forwardsIn(name)
		if err != nil {
			return nil, err
		}
		for _, f := range all {
			if f.Mode == ProxyMode {
				ids = append(ids, f.ID)
			}
		}
	}
	return stopEntries(ctx, forwardDir(name), ids, func(i int) error {
		if len(ports) == 0 {
			return nil // it has just ended by itself
		}
		return hint.Wrap(fmt.Errorf("%s has no %s proxy at %s", p, ports[i].Protocol, ports[i]), "see what there is: wgjail status")
	})
}
