package world

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/machine"
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
	if err := n.Do(machine.NewHost); err != nil {
		t.Fatalf("prepare %s: %v", name, err)
	}
	return n
}

// Open returns the namespace called name that something else made, a jail for
// example. It is not removed with the test.
func (w *World) Open(t testing.TB, name string) *Node {
	t.Helper()
	return w.OpenAt(t, name, netnsx.Path(name))
}

// OpenAt is Open for a namespace whose file is at path: of another mount
// namespace, for example.
func (w *World) OpenAt(t testing.TB, name, path string) *Node {
	t.Helper()
	ns, err := netnsx.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return newNode(t, name, ns)
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
