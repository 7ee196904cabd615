package jail

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// A dialPlan says how a forward reaches services inside.
type dialPlan struct {
	addrs  []netip.Addr // tried in order
	source []netip.Addr // at most one of each family
}

// targets are the addresses with a port, in the order in which they are tried. For
// UDP loopback comes last: a service that is bound to no address answers from the
// one that the way back to the client has, which is never loopback.
func (d dialPlan) targets(network string, port uint16) []netip.AddrPort {
	list := make([]netip.AddrPort, len(d.addrs))
	for i, a := range d.addrs {
		list[i] = netip.AddrPortFrom(a, port)
	}
	if network == "udp" {
		slices.SortStableFunc(list, func(a, b netip.AddrPort) int { return last(a) - last(b) })
	}
	return list
}

func last(a netip.AddrPort) int {
	if a.Addr().IsLoopback() {
		return 1
	}
	return 0
}

// dialPlan finds out which addresses the place has. Services are looked for at
// to, or else at 127.0.0.1, at ::1 and at the place's own addresses, so that it
// does not matter which of them they listen on. They see a client with an
// address that is not loopback: many services trust loopback (CVE-2021-20199).
func (p Place) dialPlan(ns *netnsx.Namespace, to netip.Addr) (dialPlan, error) {
	own, err := globalAddrs(ns)
	if err != nil {
		return dialPlan{}, fmt.Errorf("list the addresses in %s: %w", p, err)
	}
	plan := dialPlan{}
	for _, v6 := range []bool{false, true} {
		for _, a := range own {
			if a.Is6() == v6 {
				plan.source = append(plan.source, a)
				break
			}
		}
	}
	if len(plan.source) == 0 {
		return dialPlan{}, p.onlyLoopback()
	}
	if to.IsValid() {
		plan.addrs = []netip.Addr{to}
		return plan, nil
	}
	plan.addrs = append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, own...)
	return plan, nil
}

// onlyLoopback is the error for a place without a global address.
func (p Place) onlyLoopback() error {
	if p.Jail != "" {
		return hint.Wrap(fmt.Errorf("%s has lost its addresses", p), "put them back with: wgjail up %s.conf", p.Jail)
	}
	return hint.Wrap(fmt.Errorf("%s has no address but loopback: a service in it would take every client for a local one", p),
		"give it one from the host, for example: nsenter --net=%s ip address add %s dev lo", p.Path, standInIPv4)
}

// globalAddrs returns the addresses in the namespace that are not loopback,
// those of interfaces before those of lo.
func globalAddrs(ns *netnsx.Namespace) ([]netip.Addr, error) {
	var onLinks, onLoopback []netip.Addr
	err := withJail(ns, func(h *netlink.Handle) error {
		links, err := whole(h.LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				return err
			}
			for _, a := range addrs {
				ip := prefixOf(a.IPNet).Addr()
				switch {
				case ip.IsLoopback() || ip.IsLinkLocalUnicast() && ip.Is6():
				case link.Attrs().Flags&net.FlagLoopback != 0:
					onLoopback = append(onLoopback, ip)
				default:
					onLinks = append(onLinks, ip)
				}
			}
		}
		return nil
	})
	return append(onLinks, onLoopback...), err
}
