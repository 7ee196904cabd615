package jail

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// Addresses that stand in, on the jail's lo, for a family in which the tunnel
// has none. Forwards connect from them, so that a service never takes a client
// from outside for a local one. 192.0.0.8 is the IPv4 dummy address (RFC 7600);
// the IPv6 one is unique local, with a global ID out of wgjail's name.
var (
	standInIPv4 = netip.MustParsePrefix("192.0.0.8/32")
	standInIPv6 = func() netip.Prefix {
		sum := sha256.Sum256([]byte("wgjail"))
		a := [16]byte{0: 0xfd, 15: 0x08}
		copy(a[1:6], sum[:])
		return netip.PrefixFrom(netip.AddrFrom16(a), 128)
	}()
)

// standIns returns the stand-in addresses that a jail with these needs.
func standIns(addresses []netip.Prefix) []netip.Prefix {
	var v4, v6 bool
	for _, a := range addresses {
		v4 = v4 || a.Addr().Is4()
		v6 = v6 || a.Addr().Is6()
	}
	var list []netip.Prefix
	if !v4 {
		list = append(list, standInIPv4)
	}
	if !v6 && haveIPv6() {
		list = append(list, standInIPv6)
	}
	return list
}

// bringUpLoopback makes lo usable, with the stand-in addresses. It is
// idempotent.
func bringUpLoopback(ns *netnsx.Namespace, addresses []netip.Prefix) error {
	return withJail(ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return addAddresses(h, lo, standIns(addresses))
	})
}

// checkLoopback reports the first thing that the jail's lo lacks.
func checkLoopback(ns *netnsx.Namespace, addresses []netip.Prefix) error {
	return withJail(ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("interface lo: %w", err)
		}
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("interface lo is down")
		}
		return checkAddresses(h, lo, standIns(addresses))
	})
}

// bringUp gives the jail's interface its addresses, sets it up and routes the
// routes through it. It is idempotent.
func bringUp(ns *netnsx.Namespace, s *state) error {
	return withJail(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(s.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", s.Name, err)
		}
		if err := h.LinkSetMTU(link, s.mtu()); err != nil { // first: IPv6 comes and goes with it
			return fmt.Errorf("set MTU %d: %w", s.mtu(), err)
		}
		if err := ns.Do(func() error { return prepareFamily(s) }); err != nil {
			return err
		}
		if err := addAddresses(h, link, usable(s.Addresses)); err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set interface %s up: %w", s.Name, err)
		}
		return addRoutes(h, link, usable(s.Routes), readHealth(s.Name).Held)
	})
}

// prepareFamily switches IPv6 on the jail's interface on or off, by whether
// the jail has an IPv6 address: without one even link-local packets are refused
// at once. The interface gets no address that the configuration does not name.
// It must run in the jail's namespace.
func prepareFamily(s *state) error {
	disable := "1"
	for _, a := range s.Addresses {
		if a.Addr().Is6() {
			disable = "0"
		}
	}
	conf := filepath.Join("ipv6/conf", s.Name)
	if disable == "1" && missing(filepath.Join(sysctlDir, conf)) {
		return nil // an MTU below 1280 leaves no IPv6 on the link
	}
	return applySettings([]setting{
		{filepath.Join(conf, "addr_gen_mode"), "1"}, // none
		{filepath.Join(conf, "disable_ipv6"), disable},
	})
}

// usable leaves out IPv6 where the kernel has none.
func usable(list []netip.Prefix) []netip.Prefix {
	if haveIPv6() {
		return list
	}
	var v4 []netip.Prefix
	for _, p := range list {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		}
	}
	return v4
}

func addAddresses(h *netlink.Handle, link netlink.Link, addresses []netip.Prefix) error {
	for _, a := range addresses {
		n := ipNet(a)
		addr := &netlink.Addr{IPNet: &n}
		if a.Addr().Is6() {
			// Nobody else can have it, and a tentative address cannot be used.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

// addRoutes adds routes or puts others in their place. They hold packets to so
// many bytes, unless that is 0.
func addRoutes(h *netlink.Handle, link netlink.Link, routes []netip.Prefix, held int) error {
	for _, r := range routes {
		add := route(link, r)
		add.MTU = held
		if err := h.RouteReplace(add); err != nil {
			return fmt.Errorf("add route %s: %w", r, err)
		}
	}
	return nil
}

func route(link netlink.Link, to netip.Prefix) *netlink.Route {
	n := ipNet(to)
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &n, Family: unix.AF_INET6}
	if to.Addr().Is4() {
		r.Scope, r.Family = netlink.SCOPE_LINK, unix.AF_INET
	}
	return r
}

// checkLink reports the first thing that the jail's interface lacks.
func checkLink(ns *netnsx.Namespace, s *state) error {
	return withJail(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(s.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", s.Name, err)
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			return fmt.Errorf("interface %s is down", s.Name)
		}
		if mtu := link.Attrs().MTU; mtu != s.mtu() {
			return fmt.Errorf("interface %s has MTU %d, not %d", s.Name, mtu, s.mtu())
		}
		if err := checkAddresses(h, link, usable(s.Addresses)); err != nil {
			return err
		}
		return checkRoutes(h, link, usable(s.Routes))
	})
}

func checkAddresses(h *netlink.Handle, link netlink.Link, want []netip.Prefix) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	have := map[netip.Prefix]bool{}
	for _, a := range addrs {
		have[prefixOf(a.IPNet)] = true
	}
	for _, a := range want {
		if !have[a] {
			return fmt.Errorf("address %s is missing", a)
		}
	}
	return nil
}

func checkRoutes(h *netlink.Handle, link netlink.Link, want []netip.Prefix) error {
	routes, err := whole(func() ([]netlink.Route, error) { return h.RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	have := map[netip.Prefix]bool{}
	for _, r := range routes {
		if r.Dst != nil {
			have[prefixOf(r.Dst)] = true
		}
	}
	for _, r := range want {
		if !have[r] {
			return fmt.Errorf("route %s is missing", r)
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}
