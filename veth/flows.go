package veth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// flowsOf returns the entries of the jail's connection table that have the marks
// of these forwards. The mark tells forwards apart that have the same port one
// after the other.
func (v *Veth) flowsOf(indexes ...uint16) ([]*netlink.ConntrackFlow, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	chosen := map[uint16]bool{}
	for _, i := range indexes {
		chosen[i] = true
	}
	return markedFlows(v.jail, func(index uint16) bool { return chosen[index] })
}

// markedFlows returns the entries of a jail's connection table that came by
// forwards with chosen indexes.
func markedFlows(jail *netlink.Handle, choose func(index uint16) bool) (list []*netlink.ConntrackFlow, err error) {
	for _, v6 := range []bool{false, true} {
		flows, err := whole(func() ([]*netlink.ConntrackFlow, error) {
			return jail.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family(v6)))
		})
		if err != nil {
			return nil, fmt.Errorf("list the jail's connection table: %w", err)
		}
		for _, flow := range flows {
			if isMarked(flow) && choose(indexOf(flow)) {
				list = append(list, flow)
			}
		}
	}
	return list, nil
}

func isMarked(flow *netlink.ConntrackFlow) bool { return flow.Mark&markMask == markBase }

// indexOf returns the index of the forward that a marked flow came by.
func indexOf(flow *netlink.ConntrackFlow) uint16 { return uint16(flow.Mark) }

// isOpen reports whether a flow is more than a memory of a connection that both
// sides have closed (enum tcp_conntrack of the kernel).
func isOpen(flow *netlink.ConntrackFlow) bool {
	const lastAck = 6
	tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return !ok || tcp.State < lastAck
}

// A way is a packet's from the jail's end of a pair to a client, or to who stands
// for it.
type way struct {
	protocol uint8
	from, to netip.AddrPort
}

// outside is the way of a flow's answers as the host's table has it.
func outside(f *netlink.ConntrackFlow) way {
	return way{f.Forward.Protocol, addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort), addrPort(f.Reverse.DstIP, f.Reverse.DstPort)}
}

// inside is the same as the jail's table has it, where services have another
// address.
func inside(f *netlink.ConntrackFlow) way {
	return way{f.Forward.Protocol, addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Forward.SrcIP, f.Forward.SrcPort)}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort { return netip.AddrPortFrom(addrOf(ip), port) }

// end ends connections that the jail's table has as flows: it resets them, and
// removes them from both tables. Their marks must still be let out.
func (v *Veth) end(flows []*netlink.ConntrackFlow) error {
	if len(flows) == 0 {
		return nil
	}
	ended := map[way]bool{}
	for _, f := range flows {
		ended[inside(f)] = true
	}
	return errors.Join(abort(v.opts.Namespace, flows),
		forget(v.host, func(f *netlink.ConntrackFlow) bool { return ended[outside(f)] }),
		forget(v.jail, func(f *netlink.ConntrackFlow) bool { return isMarked(f) && ended[inside(f)] }))
}

// cutOff ends forwards, of whichever process, and their connections. Redirections
// end first, so that who is reset does not come back, and marks last, so that
// resets get out.
func (v *Veth) cutOff(ids []string, indexes []uint16) error {
	err := v.takeAway(false, ids...)
	flows, flowsErr := v.flowsOf(indexes...)
	return errors.Join(err, flowsErr, v.end(flows), v.table.removeForwards(ids, true))
}
