package veth

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// A pair is the veth pair between the host and one jail. Neither end resolves
// addresses (NOARP; no IPv6 link-local address, so no router or multicast
// listener either): each knows the other's, and answers nobody.
type pair struct {
	names        names
	ns           *netnsx.Namespace
	sides        []side // IPv4 first
	outer, inner end
}

// outerAddr and innerAddr are of one side; the jail's end has the next address.
func sideOf(outer netip.Addr) side { return side{outer.Is6(), outer, outer.Next()} }

// findPair returns the jail's pair, or nil if there is none that is whole enough
// to be repaired. A link of somebody else's with the pair's name is an error.
func findPair(n names, ns *netnsx.Namespace, host, jail *netlink.Handle) (*pair, error) {
	outer, err := linkNamed(host, n.link)
	if outer == nil || err != nil {
		return nil, err
	}
	if err := n.owns(outer); err != nil {
		return nil, err
	}
	inner, err := linkNamed(jail, innerLink)
	if inner == nil || err != nil {
		return nil, err
	}
	if inner.Attrs().ParentIndex != outer.Attrs().Index || outer.Attrs().ParentIndex != inner.Attrs().Index {
		return nil, nil // of another namespace: the jail was removed and made again
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return host.AddrList(outer, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	p := &pair{names: n, ns: ns, outer: end{host, n.link, outer}, inner: end{jail, innerLink, inner}}
	for _, v6 := range []bool{false, true} {
		for _, a := range addrs {
			if ip := addrOf(a.IP); ip.Is6() == v6 && !ip.IsLinkLocalUnicast() || ip.Is4() && !v6 {
				p.sides = append(p.sides, sideOf(ip))
				break
			}
		}
	}
	if len(p.sides) == 0 || p.sides[0].v6 {
		return nil, nil
	}
	return p, nil
}

// makePair makes the two links where they belong, down and without addresses.
func makePair(n names, ns *netnsx.Namespace, host, jail *netlink.Handle, sides []side) (*pair, error) {
	if foreign, err := linkNamed(jail, innerLink); foreign != nil || err != nil {
		if err == nil {
			err = hint.Wrap(fmt.Errorf("link %s in the jail: a %s that wgjail did not make", innerLink, foreign.Type()),
				"give it another name with: ip -n %s link set %s name NAME; or use relay mode, which needs no link", n.jail, innerLink)
		}
		return nil, err
	}
	veth := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         innerLink,
		PeerHardwareAddr: n.address(false),
		PeerNamespace:    netlink.NsFd(ns.Fd()),
	}
	veth.Name, veth.HardwareAddr = n.link, n.address(true)
	if err := host.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make link %s: %w", n.link, err)
	}
	outer, err := host.LinkByName(n.link)
	if err != nil {
		return nil, err
	}
	inner, err := jail.LinkByName(innerLink)
	if err != nil {
		return nil, err
	}
	return &pair{n, ns, sides, end{host, n.link, outer}, end{jail, innerLink, inner}}, nil
}

// downPair sets the host end down: nothing passes any more.
func downPair(n names, host *netlink.Handle) error {
	return withPair(n, host, func(link netlink.Link) error { return host.LinkSetDown(link) })
}

// removePair removes the pair by the name of its host end, which takes the other
// end, the addresses and the routes along.
func removePair(n names, host *netlink.Handle) error {
	return withPair(n, host, func(link netlink.Link) error { return host.LinkDel(link) })
}

// withPair calls fn for the host end, if there is one. A link of somebody else's is
// none.
func withPair(n names, host *netlink.Handle, fn func(netlink.Link) error) error {
	link, err := linkNamed(host, n.link)
	if link == nil || err != nil {
		return err
	}
	if n.owns(link) != nil {
		return nil
	}
	if err := fn(link); err != nil && !isNotFound(err) {
		return fmt.Errorf("link %s: %w", n.link, err)
	}
	return nil
}

// pieces are what the pair is made of, besides rules. services are the addresses
// from which services in the jail answer (see jailrules.go).
func (p *pair) pieces(services []netip.Addr) []piece {
	list := []piece{
		// Answers of marked connections have a way: the sockets of accepted TCP
		// connections take the mark over, and the check for spoofed sources
		// (rp_filter) asks for the way back with the mark.
		sysctl(p.ns, "ipv4/tcp_fwmark_accept", "1"),
		sysctl(p.ns, "ipv4/conf/"+innerLink+"/src_valid_mark", "1"),
	}
	ends := []end{p.outer, p.inner}
	for i, ns := range []*netnsx.Namespace{nil, p.ns} {
		list = append(list, ends[i].flagged("without ARP", unix.IFF_NOARP, true, ends[i].h.LinkSetARPOff))
		if p.hasIPv6() {
			conf := "ipv6/conf/" + ends[i].name
			list = append(list, sysctl(ns, conf+"/disable_ipv6", "0"), sysctl(ns, conf+"/addr_gen_mode", "1"))
		}
	}
	for _, e := range ends {
		list = append(list, e.flagged("up", unix.IFF_UP, true, e.h.LinkSetUp))
	}
	for i, s := range p.sides {
		list = append(list, p.sidePieces(s, services[i])...)
	}
	return list
}

func (p *pair) hasIPv6() bool { return len(p.sides) == 2 }

// sidePieces are the addresses and routes of one family. In the jail no table
// but one of ours has a route over the pair, and only marked packets ask it. The
// mark's lower half does not matter to the rule.
func (p *pair) sidePieces(s side, service netip.Addr) []piece {
	mask := uint32(markMask)
	marked := netlink.NewRule()
	marked.Family, marked.Priority, marked.Table = family(s.v6), rulePref, routeTab
	marked.Mark, marked.Mask = markBase, &mask
	list := []piece{p.outer.address(s.outer)}
	if isLocal(s, service) {
		list = append(list, p.inner.address(s.inner))
	}
	return append(list,
		p.outer.route(netlink.Route{Family: family(s.v6), Dst: single(s.inner), Scope: scopeOf(s.v6), Table: unix.RT_TABLE_MAIN}),
		p.outer.neighbour(s.inner, p.inner.link.Attrs().HardwareAddr),
		p.inner.neighbour(s.outer, p.outer.link.Attrs().HardwareAddr),
		p.inner.route(netlink.Route{
			Family: family(s.v6), Dst: ipNet(anyOf(s.v6)), Gw: s.outer.AsSlice(), Src: service.AsSlice(),
			Flags: int(netlink.FLAG_ONLINK), Table: routeTab,
		}),
		policyRule(p.inner.h, "rule for marked packets, "+familyName(s.v6), marked),
	)
}

// isLocal reports whether the jail's end has its address. IPv4 works on links that
// have one only. In IPv6 packets the service's address is the destination before
// anything asks whose it is.
func isLocal(s side, service netip.Addr) bool { return !s.v6 || service == s.inner }

func scopeOf(v6 bool) netlink.Scope {
	if v6 {
		return netlink.SCOPE_UNIVERSE
	}
	return netlink.SCOPE_LINK
}

func familyName(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
