package relay

import (
	"errors"
	"fmt"
	"net/netip"
)

// A Forward says which socket is relayed where. It is not changed after Listen.
type Forward struct {
	// Network is "tcp" or "udp".
	Network string

	// Listen is the address clients connect to. Port 0 lets the kernel choose.
	// An IPv6 socket takes IPv6 clients only, so that "everywhere" is two
	// forwards, 0.0.0.0 and [::], whatever net.ipv6.bindv6only says.
	Listen netip.AddrPort

	// Targets are tried in order until one accepts. They are addresses and
	// never names: a name would be looked up in the wrong namespace.
	Targets []netip.AddrPort

	// Source holds at most one address per family: where the sockets that dial
	// are bound. For a family without one the kernel chooses, but never a
	// loopback address if Source has any entry: applications trust clients from
	// there, so a loopback target without a Source of its family counts as one
	// that does not accept. A Source that the namespace does not have makes the
	// dial fail; nothing else is tried in its place.
	Source []netip.Addr

	// FromClient has each socket that dials bound to the address and, if it is
	// free, the port of its own client, so that the target sees who it really
	// is (IP_TRANSPARENT; see ip(7)): TCP only. Targets of the other family
	// count as ones that do not accept. Addresses that mean another host where
	// the target is, loopback and link-local IPv6 ones, are not taken over:
	// Source holds for those clients. It takes CAP_NET_ADMIN or CAP_NET_RAW,
	// and routes that lead answers back, for which Mark can be used.
	FromClient bool

	// Mark is put on the packets of sockets that are bound to their client's
	// address (SO_MARK; see socket(7)). Zero is none.
	Mark uint32

	// Proxy has the target told, before the first byte, who the client is and
	// which address it asked: TCP only. Zero says nothing.
	Proxy ProxyProtocol

	// Allow holds the networks whose clients are served; empty means anyone.
	// A TCP client from elsewhere is reset, and both are counted as refused.
	Allow []netip.Prefix

	// Stats is where to count. Nil means memory of the Listener's own.
	Stats *Stats
}

// maxTargets fits the index that a connection keeps.
const maxTargets = 255

func (f *Forward) validate() error {
	switch {
	case f.Network != "tcp" && f.Network != "udp":
		return fmt.Errorf("network %q is neither tcp nor udp", f.Network)
	case !f.Listen.Addr().IsValid():
		return errors.New("no address to listen on")
	case len(f.Targets) == 0:
		return errors.New("no target")
	case len(f.Targets) > maxTargets:
		return fmt.Errorf("%d targets; at most %d are possible", len(f.Targets), maxTargets)
	}
	for _, t := range f.Targets {
		if !t.IsValid() || t.Port() == 0 || t.Addr().IsUnspecified() || t.Addr().IsMulticast() {
			return fmt.Errorf("%v is not an address and port to dial", t)
		}
	}
	var has [2]bool
	for _, s := range f.Source {
		i := 0
		if s.Unmap().Is6() {
			i = 1
		}
		if !s.IsValid() || s.IsUnspecified() || has[i] {
			return fmt.Errorf("source %v: one address per family is possible", s)
		}
		has[i] = true
	}
	for _, p := range f.Allow {
		if !p.IsValid() {
			return errors.New("a network to allow is not valid")
		}
	}
	return f.validateClient()
}

// validateClient checks how targets learn of their clients.
func (f *Forward) validateClient() error {
	switch {
	case f.Proxy > ProxyV2:
		return fmt.Errorf("there is no version %d of the PROXY protocol", f.Proxy)
	case f.Network == "udp" && f.Proxy != 0:
		return errors.New("the PROXY protocol is for tcp")
	case f.Network == "udp" && f.FromClient:
		return errors.New("dialling from the client's address is for tcp")
	}
	return nil
}

// A route is one target with the local address to dial it from.
type route struct {
	target netip.AddrPort
	addr   sockaddr
	source *sockaddr // nil: the kernel chooses
	barred bool      // must not be dialled: its source would be a loopback address
	local  bool      // on this host: answers or fails at once, and never dies silently
}

func (f *Forward) routes() []route {
	routes := make([]route, len(f.Targets))
	for i, t := range f.Targets {
		t = netip.AddrPortFrom(t.Addr().Unmap(), t.Port())
		r := route{target: t, addr: newSockaddr(t), local: t.Addr().IsLoopback()}
		for _, s := range f.Source {
			if s = s.Unmap(); s.Is4() == t.Addr().Is4() {
				a := newSockaddr(netip.AddrPortFrom(s, 0))
				r.source = &a
			}
		}
		r.barred = len(f.Source) > 0 && r.source == nil && r.local
		routes[i] = r
	}
	return routes
}

// allows reports whether a client may be served.
func (f *Forward) allows(client netip.Addr) bool {
	if len(f.Allow) == 0 {
		return true
	}
	for _, p := range f.Allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}
