package veth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// A way is a packet's from the jail's end of a pair to a client, or to who stands
// for it. It tells one redirected connection from all others, on both sides.
type way struct {
	protocol uint8
	from, to netip.AddrPort
}

// outside is the way of a connection's answers as the host's table has it.
func outside(f *netlink.ConntrackFlow) way {
	return way{f.Forward.Protocol, addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort), addrPort(f.Reverse.DstIP, f.Reverse.DstPort)}
}

// inside is the same as the jail's table has it, where services have another
// address.
func inside(f *netlink.ConntrackFlow) way {
	return way{f.Forward.Protocol, addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Forward.SrcIP, f.Forward.SrcPort)}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort { return netip.AddrPortFrom(addrOf(ip), port) }

// flows lists the connection table of a namespace.
func flows(h *netlink.Handle) (list []*netlink.ConntrackFlow, err error) {
	for _, v6 := range []bool{false, true} {
		some, err := whole(func() ([]*netlink.ConntrackFlow, error) {
			return h.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family(v6)))
		})
		if err != nil {
			return nil, fmt.Errorf("list the connection table: %w", err)
		}
		list = append(list, some...)
	}
	return list, nil
}

// isMarked reports whether a flow in the jail came by a forward.
func isMarked(flow *netlink.ConntrackFlow) bool { return flow.Mark&markMask == markBase }

// redirectedBy returns the connections that forwards have redirected. The host
// tells them by the ports that were asked for, so that those of a forward that was
// removed must be asked for before there is another one.
func (v *Veth) redirectedBy(forwards ...Forward) (map[way]bool, error) {
	if len(forwards) == 0 {
		return nil, nil
	}
	all, err := flows(v.host)
	ways := map[way]bool{}
	for _, flow := range all {
		if isRedirected(flow, v.pair.sides) && slices.ContainsFunc(forwards, func(f Forward) bool { return f.asked(flow) }) {
			ways[outside(flow)] = true
		}
	}
	return ways, err
}

// end ends connections: it resets them, and removes them from both tables. Their
// marks must still be let out.
func (v *Veth) end(ways map[way]bool) error {
	if len(ways) == 0 {
		return nil
	}
	return errors.Join(abort(v.opts.Namespace, ways),
		forget(v.host, func(f *netlink.ConntrackFlow) bool { return ways[outside(f)] }),
		forget(v.jail, func(f *netlink.ConntrackFlow) bool { return isMarked(f) && ways[inside(f)] }))
}

// cutOff ends forwards, of whichever process, and their connections: those that
// theirs returns. Redirections end first, so that who is reset does not come back, and
// marks last, so that resets get out.
func (v *Veth) cutOff(ids []string, theirs func() (map[way]bool, error)) error {
	return twice(func() error {
		err := v.takeAway(false, ids...)
		ways, waysErr := theirs()
		return errors.Join(err, waysErr, v.end(ways), v.table.removeForwards(ids, true))
	})
}

// orphans returns the connections of forwards whose processes are dead. Those that
// could be a living one's as well are left to that.
func (v *Veth) orphans(claims []claim, dead []string) (map[way]bool, error) {
	all, err := flows(v.host)
	ways := map[way]bool{}
	for _, flow := range all {
		theirs, others := false, false
		for _, c := range claims {
			if c.redirected(flow) {
				isDead := slices.Contains(dead, c.id)
				theirs, others = theirs || isDead, others || !isDead
			}
		}
		if theirs && !others && isRedirected(flow, v.pair.sides) {
			ways[outside(flow)] = true
		}
	}
	return ways, err
}
