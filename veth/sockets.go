package veth

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A Service says who could answer a forward's clients in the jail.
type Service int

// What there is on a port.
const (
	NoService    Service = iota // nobody listens now; that may change
	LoopbackOnly                // on the jail's loopback only: rules do not lead there, relay mode does
	Reachable                   // at an address that clients are redirected to, or at all
)

// FindService looks for sockets in the namespace that listen on the forward's
// first port. tunnel are the addresses of Options.TunnelAddrs.
func FindService(ns *netnsx.Namespace, f Forward, tunnel []netip.Prefix) (Service, error) {
	found := NoService
	for _, v6 := range []bool{false, true} {
		sockets, err := listening(ns, f.Network, v6)
		if err != nil {
			return NoService, fmt.Errorf("list the sockets in the jail: %w", err)
		}
		for _, s := range sockets {
			if s.ID.SourcePort != f.Target {
				continue
			}
			a := addrOf(s.ID.Source)
			at := func(p netip.Prefix) bool { return p.Addr() == a }
			switch {
			case a.IsUnspecified() || slices.ContainsFunc(tunnel, at):
				return Reachable, nil
			case a.IsLoopback():
				found = LoopbackOnly
			}
		}
	}
	return found, nil
}

// tcpListen is the state of a listening socket (TCP_LISTEN of the kernel).
const tcpListen = 10

// listening returns TCP sockets that listen, or UDP sockets that are not
// connected.
func listening(ns *netnsx.Namespace, network string, v6 bool) (list []*netlink.Socket, err error) {
	dump, state := netlink.SocketDiagTCP, uint8(tcpListen)
	if network == "udp" {
		dump, state = netlink.SocketDiagUDP, unix.BPF_TCP_CLOSE
	}
	err = ns.Do(func() (err error) {
		list, err = whole(func() ([]*netlink.Socket, error) { return dump(uint8(family(v6))) })
		return err
	})
	return slices.DeleteFunc(list, func(s *netlink.Socket) bool { return s.State != state }), err
}
