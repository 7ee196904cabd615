package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/relay"
)

// A reverse forward is the one way out of a jail besides the tunnel: programs
// inside connect to a port of the jail, and the relay dials one address and port
// from the host, whatever they send.
//
//	program in the jail ──► jail 127.0.0.1:5432 ──► relay (on the host) ──► host 127.0.0.1:5432
//
// Its listening socket is made in the jail; the workers stay on the host.

var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// reverse reports whether the specs are those of a reverse forward.
func (o *ForwardOptions) reverse() bool { return len(o.Specs) > 0 && o.Specs[0].Reverse }

// checkReverse says what a reverse forward cannot do.
func (o *ForwardOptions) checkReverse() error {
	switch {
	case o.Mode == ModeVeth:
		return hint.Wrap(errors.New("--reverse does not go with --mode veth"), "relay mode does: leave --mode veth out")
	case len(o.Specs) > 1 || o.Specs[0].First != o.Specs[0].Last:
		return hint.Wrap(errors.New("--reverse opens one port at a time"), "start one forward for each port that programs inside need")
	case o.Source != "" && o.Source != SourceHost:
		return hint.Wrap(errors.New("--reverse and --source exclude each other"), "a service on the host sees a client on the host")
	}
	return nil
}

// bindReverse binds and registers the spec.
func (f *Forwarder) bindReverse() error {
	f.relay.Enter = nil
	spec := f.opts.Specs[0]
	allow, err := f.allowInside()
	if err != nil {
		return err
	}
	at, to := []netip.Addr{spec.Addr}, []netip.Addr{f.opts.To}
	if !spec.Addr.IsValid() {
		at = loopbacks
	}
	if !f.opts.To.IsValid() {
		to = loopbacks
	}
	dial := dialPlan{addrs: to}
	e, err := newEntry(f.opts.Into, record{
		ID: forwardID(spec), Mode: ModeRelay, Proto: spec.Network, Listen: listenText(spec), Target: dial.targets(spec.Network, spec.Target)[0].String(),
		Source: SourceHost, Proxy: proxyText(f.opts.Proxy), Reverse: true,
	}, allow, nil)
	if errors.Is(err, errRegistered) {
		return hint.Wrap(fmt.Errorf("%s is forwarded out of %s already", hostPorts(spec), f.opts.Into),
			"stop that with: wgjail forward %s --reverse --stop %s", f.opts.Into.flag(), hostPorts(spec))
	}
	if err != nil {
		return err
	}
	f.entries = append(f.entries, e)
	for _, a := range at {
		err := f.listenInside(e, relay.Forward{
			Network: spec.Network, Listen: netip.AddrPortFrom(a, spec.First),
			Targets: dial.targets(spec.Network, spec.Target), Proxy: f.opts.Proxy, Allow: allow, Stats: e.stats,
		})
		noIPv6 := errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
		if err != nil && !(noIPv6 && len(at) > 1 && a.Is6()) {
			return f.bindInsideError(netip.AddrPortFrom(a, spec.First), spec.Network, err)
		}
	}
	return nil
}

func (f *Forwarder) listenInside(e *entry, fw relay.Forward) error {
	return f.ns.Do(func() error {
		l, err := f.relay.Listen(fw)
		if err == nil {
			e.listeners = append(e.listeners, l)
		}
		return err
	})
}

func (f *Forwarder) bindInsideError(at netip.AddrPort, network string, err error) error {
	err = fmt.Errorf("listen in %s on %s port %d/%s: %w", f.opts.Into, at.Addr(), at.Port(), network, errnoOf(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint.Wrap(err, "a program inside has the port; choose another one with: wgjail forward --reverse OTHER:%d", f.opts.Specs[0].Target)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return hint.Wrap(err, "there is no such address inside; leave it out to listen on loopback")
	}
	return err
}

// allowInside is allow for clients inside: nobody but them is served, unless the
// user says otherwise.
func (f *Forwarder) allowInside() ([]netip.Prefix, error) {
	if f.opts.Anyone || len(f.opts.Allow) > 0 {
		return f.opts.Allow, nil
	}
	own, err := globalAddrs(f.ns)
	list := []netip.Prefix{netip.PrefixFrom(loopbacks[0], 8).Masked(), netip.PrefixFrom(loopbacks[1], 128)}
	for _, a := range own {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list, err
}
