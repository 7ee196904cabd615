package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/relay"
)

// bind binds every spec and makes its entry.
func (f *Forwarder) bind() error {
	allow, err := f.allow()
	if err != nil {
		return err
	}
	dial, err := f.opts.Into.dialPlan(f.ns, f.opts.To)
	if err != nil {
		return err
	}
	if err := f.showClients(dial); err != nil {
		return err
	}
	for i, spec := range f.opts.Specs {
		if slices.ContainsFunc(f.opts.Specs[:i], func(s ForwardSpec) bool { return hostPorts(s) == hostPorts(spec) }) {
			return fmt.Errorf("forward %q: the port is given twice", spec)
		}
		e, err := newEntry(f.opts.Into, f.record(spec, dial), allow, f.redirection(spec, allow))
		if errors.Is(err, errRegistered) {
			return hint.Wrap(fmt.Errorf("%s is forwarded into %s already", hostPorts(spec), f.opts.Into),
				"stop that with: wgjail forward %s --stop %s", f.opts.Into.flag(), hostPorts(spec))
		}
		if err != nil {
			return err
		}
		f.entries = append(f.entries, e)
		if err := f.listen(e, spec, dial, allow); err != nil {
			return err
		}
	}
	return nil
}

// record is what the register says of a spec: its target is the address that is
// tried first, or in veth mode that of services.
func (f *Forwarder) record(spec ForwardSpec, dial dialPlan) record {
	target := dial.targets(spec.Network, spec.Target)[0].Addr()
	if f.opts.Mode == ModeVeth {
		target = dial.source[0]
	}
	return record{
		ID: forwardID(spec), Mode: f.opts.Mode, Proto: spec.Network, Listen: listenText(spec),
		Target: portsText(target, spec.Target, spec.Target+(spec.Last-spec.First)), Source: f.opts.Source, Proxy: proxyText(f.opts.Proxy),
	}
}

func proxyText(v relay.ProxyProtocol) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("v%d", v)
}

func (f *Forwarder) allow() ([]netip.Prefix, error) {
	if f.opts.Anyone {
		return nil, nil
	}
	if len(f.opts.Allow) > 0 {
		return f.opts.Allow, nil
	}
	return LAN()
}

// listen binds every port of the spec, in both families unless it names an
// address.
func (f *Forwarder) listen(e *entry, spec ForwardSpec, dial dialPlan, allow []netip.Prefix) error {
	addrs := []netip.Addr{spec.Addr}
	if !spec.Addr.IsValid() {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for i := 0; i <= int(spec.Last-spec.First); i++ {
		for _, a := range addrs {
			at := netip.AddrPortFrom(a, spec.First+uint16(i))
			l, err := f.relay.Listen(relay.Forward{
				Network: spec.Network, Listen: at,
				Targets: dial.targets(spec.Network, spec.Target+uint16(i)), Source: dial.source,
				FromClient: f.client != nil, Mark: clientMark, Proxy: f.opts.Proxy,
				Allow: allow, Stats: e.stats,
			})
			if len(addrs) == 2 && a.Is6() && errors.Is(err, syscall.EAFNOSUPPORT) {
				continue // a host without IPv6
			}
			if err != nil {
				return bindError(at, spec.Network, err)
			}
			e.listeners = append(e.listeners, l)
		}
	}
	return nil
}

func bindError(at netip.AddrPort, network string, err error) error {
	wrapped := fmt.Errorf("listen on %s port %d/%s: %w", at.Addr(), at.Port(), network, errnoOf(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint.Wrap(wrapped, "another program has the port (see: ss -lnp 'sport = :%d'); choose another one with: wgjail forward OTHER:%d", at.Port(), at.Port())
	case errors.Is(err, syscall.EACCES):
		return hint.Wrap(wrapped, "ports below 1024 need root, or a lower net.ipv4.ip_unprivileged_port_start")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return hint.Wrap(wrapped, "the host has no such address (see: ip address)")
	case errors.Is(err, syscall.EMFILE):
		return hint.Wrap(wrapped, "a forward needs open files, two for each port and more for clients: raise the limit (ulimit -Hn), or forward fewer ports")
	}
	return wrapped
}

// errnoOf returns the system's error in err: the rest is said already.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
