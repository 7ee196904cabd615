package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
)

// wireguardOverhead is what WireGuard adds to a packet at most, in bytes: outer
// IPv6 40, UDP 8, type and counter 16, tag 16 (wg-quick(8) subtracts the same).
const wireguardOverhead = 80

const (
	defaultMTU = 1500 - wireguardOverhead
	minimumMTU = 1280 // what IPv6 needs (RFC 8200, section 5)

	minimumIPv4MTU = 576 // what every IPv4 host accepts (RFC 791)
)

// resolve returns the address of an endpoint. It must run in the host's
// namespace: the name is looked up with the host's servers. Among several
// addresses it takes the first one that the host has a route to.
func resolve(ctx context.Context, e Endpoint) (netip.AddrPort, error) {
	addrs, err := lookup(ctx, e.Host)
	if err != nil {
		return netip.AddrPort{}, hint.Wrap(fmt.Errorf("look up endpoint %s: %w", e.Host, err),
			"check the name in the Endpoint line, and that the host itself is online")
	}
	for _, a := range addrs {
		if _, err := routeTo(a); err == nil {
			return netip.AddrPortFrom(a, e.Port), nil
		}
	}
	// No route at the moment, at boot for example. WireGuard keeps trying.
	return netip.AddrPortFrom(addrs[0], e.Port), nil
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, errors.New("the name has no address")
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// routeTo asks the kernel for the host's route to a.
func routeTo(a netip.Addr) (*netlink.Route, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	routes, err := h.RouteGet(net.IP(a.WithZone("").AsSlice()))
	if err != nil {
		return nil, err
	}
	if len(routes) == 0 {
		return nil, fmt.Errorf("no route to %s", a)
	}
	return &routes[0], nil
}

// pathMTU returns the MTU for a tunnel to the endpoints, in bytes: that of the
// narrowest path, less what WireGuard adds, but never below what the inner
// family needs. It must run in the host's namespace.
func pathMTU(endpoints []netip.AddrPort, inner []netip.Prefix) int {
	path := 0
	for _, e := range endpoints {
		if m := hostMTU(e.Addr()); m > 0 && (path == 0 || m < path) {
			path = m
		}
	}
	if path == 0 {
		return defaultMTU
	}
	return max(leastMTU(inner), path-wireguardOverhead)
}

// hostMTU returns the MTU of the host's route to a, or of the link that it
// uses, or 0 if there is neither. A path over loopback counts as none: what
// leaves a tunnel that ends on this machine goes on over usual links.
func hostMTU(a netip.Addr) int {
	route, err := routeTo(a)
	if err != nil {
		return 0
	}
	if route.MTU > 0 {
		return route.MTU
	}
	h, err := hostHandle()
	if err != nil {
		return 0
	}
	defer h.Close()
	link, err := h.LinkByIndex(route.LinkIndex)
	if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
		return 0
	}
	return link.Attrs().MTU
}
