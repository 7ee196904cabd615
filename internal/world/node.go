package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A Node is a network namespace of the world with what tests do in it. Its
// methods may be called from any goroutine, except those that take a testing.T.
type Node struct {
	*netnsx.Namespace
	Name string
	// Netlink works in the namespace, from any thread.
	Netlink *netlink.Handle
}

// newNode wraps an open namespace, which the caller closes.
func newNode(t testing.TB, name string, ns *netnsx.Namespace) *Node {
	t.Helper()
	var nl *netlink.Handle
	err := ns.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatalf("open netlink in %s: %v", name, err)
	}
	t.Cleanup(nl.Close)
	return &Node{Namespace: ns, Name: name, Netlink: nl}
}

// Namespace makes a network namespace called name, as `ip netns add` does, with
// lo up. It goes away with the test.
func (w *World) Namespace(t testing.TB, name string) *Node {
	t.Helper()
	did, err := netnsx.PrepareDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netnsx.RemoveDir(did); err != nil {
			t.Error(err)
		}
	})
	ns, err := netnsx.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := netnsx.Remove(name); err != nil {
			t.Error(err)
		}
	})
	n := newNode(t, name, ns)
	if err := errors.Join(setLoUp(n.Netlink), n.Do(noForwarding)); err != nil {
		t.Fatalf("prepare %s: %v", name, err)
	}
	return n
}

// Open returns the namespace called name that something else made, a jail for
// example. It is not removed with the test.
func (w *World) Open(t testing.TB, name string) *Node {
	t.Helper()
	ns, err := netnsx.OpenNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return newNode(t, name, ns)
}

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

// Sysctl writes a value below /proc/sys: "net/ipv4/ip_forward", "1".
func (n *Node) Sysctl(name, value string) error {
	return n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
	})
}

// Dial connects from the node to addr, an address and port, never a name.
func (n *Node) Dial(network, addr string) (net.Conn, error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: dialTimeout}).Dial(network, addr)
		return err
	})
	return c, err
}

// Listen listens in the node on addr, an address and port, for network "tcp…".
func (n *Node) Listen(network, addr string) (net.Listener, error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(context.Background(), network, addr)
		return err
	})
	return l, err
}

// ListenPacket listens in the node on addr, an address and port, for "udp…".
func (n *Node) ListenPacket(network, addr string) (net.PacketConn, error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(context.Background(), network, addr)
		return err
	})
	return c, err
}

// literal refuses what package net would look up on a thread outside the node.
func literal(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return errors.Join(errors.New("only addresses can be used in a node, not names"), err)
	}
	return nil
}
