package veth

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// LoopbackServices are the services in a jail that listen on its loopback only: rules
// do not lead there, relay mode does. A port where nobody listens is not among them,
// since that may change.
type LoopbackServices map[servicePort]bool

type servicePort struct {
	network string
	number  uint16
}

// ListLoopbackServices looks for them. tunnel are the addresses of
// Options.TunnelAddrs.
func ListLoopbackServices(ns *netnsx.Namespace, tunnel []netip.Prefix) (LoopbackServices, error) {
	hidden, reachable := LoopbackServices{}, map[servicePort]bool{}
	for _, network := range []string{"tcp", "udp"} {
		for _, v6 := range []bool{false, true} {
			list, err := listening(ns, network, v6)
			if err != nil {
				return nil, fmt.Errorf("list the sockets in the jail: %w", err)
			}
			for _, s := range list {
				a, at := addrOf(s.ID.Source), servicePort{network, s.ID.SourcePort}
				if a.IsLoopback() {
					hidden[at] = true
				} else if a.IsUnspecified() || slices.ContainsFunc(tunnel, func(p netip.Prefix) bool { return p.Addr() == a }) {
					reachable[at] = true
				}
			}
		}
	}
	maps.DeleteFunc(hidden, func(at servicePort, _ bool) bool { return reachable[at] })
	return hidden, nil
}

// Of returns the ports inside of those that forwards lead to.
func (l LoopbackServices) Of(forwards ...Forward) (list []uint16) {
	for _, f := range forwards {
		for at := range l {
			if at.network == f.Network && at.number >= f.Target && at.number <= f.targetLast() {
				list = append(list, at.number)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// A serviceEnd is a service's end of a TCP connection: who is at the other one, and the
// service's port.
type serviceEnd struct {
	client netip.AddrPort
	port   uint16
}

func (w way) serviceEnd() serviceEnd { return serviceEnd{w.to, w.from.Port()} }

// openSockets returns services' sockets of TCP connections. The connection table is
// no witness for those: it does not believe every reset.
func openSockets(ns *netnsx.Namespace) (map[serviceEnd]*netlink.Socket, error) {
	ends := map[serviceEnd]*netlink.Socket{}
	for _, v6 := range []bool{false, true} {
		list, err := sockets(ns, v6, netlink.SocketDiagTCP)
		if err != nil {
			return nil, fmt.Errorf("list the sockets in the jail: %w", err)
		}
		for _, s := range list {
			if s.State != tcpListen && s.State != unix.BPF_TCP_TIME_WAIT && s.State != unix.BPF_TCP_CLOSE && !addrOf(s.ID.Source).IsLoopback() {
				ends[serviceEnd{addrPort(s.ID.Destination, s.ID.DestinationPort), s.ID.SourcePort}] = s
			}
		}
	}
	return ends, nil
}

// sockets lists what a dump lists in a namespace.
func sockets(ns *netnsx.Namespace, v6 bool, dump func(uint8) ([]*netlink.Socket, error)) (list []*netlink.Socket, err error) {
	err = ns.Do(func() (err error) {
		list, err = whole(func() ([]*netlink.Socket, error) { return dump(uint8(family(v6))) })
		return err
	})
	return list, err
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
	list, err = sockets(ns, v6, dump)
	return slices.DeleteFunc(list, func(s *netlink.Socket) bool { return s.State != state }), err
}
