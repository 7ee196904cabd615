package jail

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// register returns the name under which forwards into the place are kept: the
// jail's, or one that no jail can have.
func (p Place) register() string {
	if p.Jail != "" {
		return p.Jail
	}
	sum := sha256.Sum256([]byte(p.Path))
	return placePrefix + hex.EncodeToString(sum[:6])
}

// placePrefix begins the registers of places that are not jails.
const placePrefix = ".netns-"

// A dialPlan says how a forward reaches services inside.
type dialPlan struct {
	addrs  []netip.Addr // tried in order
	source []netip.Addr // at most one of each family
}

func (d dialPlan) targets(port uint16) []netip.AddrPort {
	list := make([]netip.AddrPort, len(d.addrs))
	for i, a := range d.addrs {
		list[i] = netip.AddrPortFrom(a, port)
	}
	return list
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

// PlaceOf returns the place that the file of a namespace, or its name as
// ip-netns(8) knows it, stands for: a jail if it is one's.
func PlaceOf(file string) (Place, error) {
	if !strings.Contains(file, "/") {
		file = netnsx.Path(file)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return Place{}, err
	}
	name := filepath.Base(path)
	if path == netnsx.Path(name) && CheckName(name) == nil && !missing(stateDir(name)) {
		return Place{Jail: name}, nil
	}
	return Place{Path: path}, nil
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
