package jail

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// lanAlways are the sources that are local by their nature: loopback, private
// (RFC 1918), unique local (RFC 4193) and link-local (RFC 3927, RFC 4291).
var lanAlways = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
}

// LAN returns the sources that are served unless the user says otherwise:
// local addresses, and the networks that the host is attached to. It must run
// in the host's namespace.
func LAN() ([]netip.Prefix, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	list := append([]netip.Prefix(nil), lanAlways...)
	for _, a := range addrs {
		if p := prefixOf(a.IPNet).Masked(); !within(p, list) {
			list = append(list, p)
		}
	}
	return list, nil
}

func within(p netip.Prefix, list []netip.Prefix) bool {
	for _, outer := range list {
		if outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
