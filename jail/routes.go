package jail

import (
	"net/netip"
	"sort"
)

var (
	defaultIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	defaultIPv6 = netip.MustParsePrefix("::/0")
)

// routesFor returns the routes of a jail: every family's allowed addresses, or
// one default route where they cover the whole family, whether written as
// 0.0.0.0/0 or in parts such as 0.0.0.0/1, 128.0.0.0/1. A family without an
// address of its own has no routes: its packets would have no source, so they
// are better refused at once. The result is sorted and has no duplicates.
func routesFor(addresses []netip.Prefix, peers []Peer) []netip.Prefix {
	var v4, v6 bool
	for _, a := range addresses {
		v4 = v4 || a.Addr().Is4()
		v6 = v6 || a.Addr().Is6()
	}
	set := map[netip.Prefix]bool{}
	for _, p := range peers {
		for _, a := range p.AllowedIPs {
			if a.Addr().Is4() && v4 || a.Addr().Is6() && v6 {
				set[a] = true
			}
		}
	}
	full := coversAll(set)
	var routes []netip.Prefix
	for p := range set {
		if !full[p.Addr().Is4()] {
			routes = append(routes, p)
		}
	}
	if full[true] {
		routes = append(routes, defaultIPv4)
	}
	if full[false] {
		routes = append(routes, defaultIPv6)
	}
	sort.Slice(routes, func(i, j int) bool { return routes[i].Compare(routes[j]) < 0 })
	return routes
}

// coversAll reports, for IPv4 (true) and IPv6 (false), whether the prefixes
// together are the whole family. It joins halves into their parent, longest
// first, so the work grows with the number of prefixes.
func coversAll(set map[netip.Prefix]bool) map[bool]bool {
	var byLength [129][]netip.Prefix
	seen := map[netip.Prefix]bool{}
	for p := range set {
		byLength[p.Bits()] = append(byLength[p.Bits()], p)
		seen[p] = true
	}
	for bits := 128; bits > 0; bits-- {
		for _, p := range byLength[bits] {
			parent := netip.PrefixFrom(p.Addr(), bits-1).Masked()
			if !seen[parent] && seen[sibling(p)] {
				seen[parent] = true
				byLength[bits-1] = append(byLength[bits-1], parent)
			}
		}
	}
	return map[bool]bool{true: seen[defaultIPv4], false: seen[defaultIPv6]}
}

// sibling returns the prefix that differs from p in its last bit only.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	last := p.Bits() - 1
	b[last/8] ^= 0x80 >> (last % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}
