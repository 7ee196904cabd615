package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An End is one end of a link: a new interface of a node.
type End struct {
	Node  *Node
	Name  string
	Addrs []string // with prefix length
}

// End describes an interface for Link.
func (n *Node) End(name string, addrs ...string) End { return End{n, name, addrs} }

// Link joins two nodes with a veth pair that is up and can be used at once.
func (w *World) Link(t testing.TB, a, b End) {
	t.Helper()
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Name, Namespace: netlink.NsFd(a.Node.Fd())},
		PeerName:      b.Name,
		PeerNamespace: netlink.NsFd(b.Node.Fd()),
	}
	if err := a.Node.Netlink.LinkAdd(pair); err != nil {
		t.Fatalf("add veth %s in %s, %s in %s: %v", a.Name, a.Node.Name, b.Name, b.Node.Name, err)
	}
	for _, end := range []End{a, b} {
		if err := end.Node.configure(end.Name, end.Addrs); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []End{a, b} {
		Eventually(t, end.Name+" to be up in "+end.Node.Name, end.settled)
	}
}

// settled returns an error until the kernel has noticed that the link works,
// which it does within a second: before, IPv6 has no routes for its addresses.
// On Linux 6.8 and later asking is enough to make it notice.
func (e End) settled() error {
	link, err := e.Node.Netlink.LinkByName(e.Name)
	if err != nil {
		return err
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Errorf("its state is %v", state)
	}
	addrs, err := e.Node.Netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return fmt.Errorf("%v is tentative", a.IPNet)
		}
	}
	given := slices.ContainsFunc(e.Addrs, func(a string) bool { return strings.Contains(a, ":") })
	if given && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) {
		return errors.New("it has no link-local address")
	}
	return nil
}

// configure gives an interface its addresses and sets it up. Addresses skip
// duplicate detection, so that they can be used at once.
func (n *Node) configure(name string, addrs []string) error {
	link, err := n.Netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", name, n.Name, err)
	}
	// The automatic link-local address would be tentative for a second.
	if err := n.Sysctl("net/ipv6/conf/"+name+"/accept_dad", "0"); err != nil {
		return err
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("parse address %q: %w", text, err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := n.Netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s in %s: %w", text, name, n.Name, err)
		}
	}
	if err := n.Netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in %s: %w", name, n.Name, err)
	}
	return nil
}

// Addr adds addresses to an interface of the node and sets it up.
func (n *Node) Addr(t testing.TB, link string, addrs ...string) {
	t.Helper()
	if err := n.configure(link, addrs); err != nil {
		t.Fatal(err)
	}
}

// Route adds a route to dst ("default" or a prefix) via the gateway via.
func (n *Node) Route(t testing.TB, dst, via string) {
	t.Helper()
	gw, err := netip.ParseAddr(via)
	if err != nil {
		t.Fatal(err)
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
		if gw.Is6() {
			dst = "::/0"
		}
	}
	_, to, err := net.ParseCIDR(dst)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Netlink.RouteAdd(&netlink.Route{Dst: to, Gw: gw.AsSlice()}); err != nil {
		t.Fatalf("add route to %s via %s in %s: %v", dst, via, n.Name, err)
	}
}
