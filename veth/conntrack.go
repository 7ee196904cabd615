package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel asks rules about the first packet of a connection only; its
// connection table (conntrack) answers for the others. UDP has no end of a
// connection, so an entry that was made before a forward came or went would keep
// its client where it was, for as long as it goes on sending.

// A flowFilter chooses entries of the connection table.
type flowFilter func(*netlink.ConntrackFlow) bool

func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

// towards chooses the entries of clients that asked for the forward's ports at
// one of the addresses local, before there was a redirection.
func (f Forward) towards(local []netip.Addr) flowFilter {
	return func(flow *netlink.ConntrackFlow) bool {
		return f.asked(flow) && slices.Contains(local, addrOf(flow.Forward.DstIP))
	}
}

// asked reports whether the client asked for a port of the forward.
func (f Forward) asked(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == protocol(f.Network) && flow.Forward.DstPort >= f.First && flow.Forward.DstPort <= f.Last &&
		(f.everywhere() || addrOf(flow.Forward.DstIP) == f.Listen)
}

// isRedirected reports whether the jail's end answers to the flow.
func isRedirected(flow *netlink.ConntrackFlow, sides []side) bool {
	from := addrOf(flow.Reverse.SrcIP)
	return slices.ContainsFunc(sides, func(s side) bool { return s.inner == from })
}

// forget removes the chosen entries from the connection table.
func forget(h *netlink.Handle, choose flowFilter) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family(v6)), choose)
		if err = ignore(err, unix.ENOENT); err != nil { // it ended by itself meanwhile
			errs = append(errs, fmt.Errorf("remove connections from the connection table: %w", err))
		}
	}
	return errors.Join(errs...)
}

// localAddrs returns the host's addresses.
func localAddrs(h *netlink.Handle) ([]netip.Addr, error) {
	list, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		addrs = append(addrs, addrOf(a.IP))
	}
	return addrs, nil
}
