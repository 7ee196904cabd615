package veth_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// A probe tries one thing on a lab that has the forwards of newTarget, as often
// as one likes. It returns an error if what should work does not, or if what
// should not does.
type probe struct {
	name string // with the rows of the threat list that it stands for
	run  func(*target) error
	leak bool // it fails on a lab without any protection
}

// A target is a lab under probes: two jails, forwards, services, and captures
// everywhere.
type target struct {
	*lab
	t        *testing.T
	v        *veth.Veth
	outer    string // the host's end
	sides    [2]pairSide
	inJail   map[string]*service // by network: on 8080, that is forwarded
	before   int                 // frames that the host had captured before a probe
	hidden   *service            // in the jail, on 9999/udp, that is not
	onHost   *service            // 7777/udp
	captures map[*world.Node]*world.Capture
	lanUDP   [2]net.PacketConn // a client that is there all the time
	hostUDP  [2]net.PacketConn // a client on the host of somebody else's redirection
}

type pairSide struct{ outer, inner netip.Addr }

func newTarget(t *testing.T, w *world.World, tunnel ...string) *target {
	l := newLab(t, w, tunnel...)
	x := &target{lab: l, t: t, inJail: map[string]*service{}, captures: map[*world.Node]*world.Capture{}}
	for _, which := range []string{"all", "default"} { // the pair does not rely on it
		sysctl(t, l.jail, "net/ipv4/conf/"+which+"/arp_ignore", "0")
	}
	for _, network := range []string{"tcp", "udp"} {
		x.inJail[network] = serve(t, l.jail, "jail", network, "[::]:8080")
		serve(t, l.host, "host", network, "[::]:8080")
		serve(t, l.inet, "inet", network, "[::]:8080")
		serve(t, l.exit, "exit", network, "[::]:8080")
	}
	serve(t, l.jail, "jail", "tcp", "[::]:8082")
	serve(t, l.jail, "jail", "tcp", "[::]:8083")
	x.hidden = serve(t, l.jail, "hidden", "udp", "[::]:9999")
	x.onHost = serve(t, l.host, silent, "udp", "[::]:7777")
	forwards := []veth.Forward{tcp(8080), udp(8080),
		{ID: "from-jail", Network: "tcp", First: 81, Last: 81, Target: 8082, Source: veth.SourceJail},
		{ID: "few", Network: "tcp", First: 82, Last: 82, Target: 8083, Allow: []netip.Prefix{netip.MustParsePrefix("192.168.50.2/32"), netip.MustParsePrefix("2001:db8:50::/64")}},
	}
	x.v = l.open(t)
	add(t, x.v, forwards...)
	x.outer = veth.HostLink("vpn")
	for i, v6 := range []bool{false, true} {
		outer := netip.MustParseAddr(pairAddrs(t, l.host, x.outer, v6))
		x.sides[i] = pairSide{outer, outer.Next()}
		// Somebody else's redirection, of what programs on the host ask for.
		l.host.Run(t, []string{"iptables", "ip6tables"}[i], "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-d", elsewhere46[i], "--dport", "53",
			"-j", "DNAT", "--to-destination", netip.AddrPortFrom(netip.MustParseAddr(inet46[i]), 8080).String())
		x.lanUDP[i] = client(t, l.lan, x.lan46()[i])
		x.hostUDP[i] = client(t, l.host, wan46[i])
	}
	for _, n := range []*world.Node{l.host, l.lan, l.inet, l.jail, l.exit} {
		x.captures[n] = n.CaptureAll(t, "lo")
	}
	return x
}

// client is a UDP client at an address of the node.
func client(t *testing.T, n *world.Node, addr string) net.PacketConn {
	c, err := n.ListenPacket("udp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// settle waits until all frames that were sent before have been seen: a marker
// goes over each link in both directions.
func (x *target) settle() {
	type way struct {
		from, to *world.Node
		link     string
	}
	marked := map[string]*world.Node{} // marker, who must see it
	for _, w := range []way{
		{x.jail, x.host, "host0"}, {x.host, x.jail, x.outer},
		{x.host, x.lan, "lan0"}, {x.lan, x.host, "eth0"}, {x.host, x.inet, "wan0"}, {x.inet, x.host, "eth0"},
		{x.jail, x.exit, "vpn"}, {x.exit, x.jail, "vpnvpn"},
	} {
		l, err := w.from.Netlink.LinkByName(w.link)
		if err != nil || l.Attrs().Flags&net.FlagRunning == 0 {
			continue
		}
		const localExperiments = 0x88b6
		canary := world.Canary()
		broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		if injectFrame(w.from, l.Attrs().Index, frame(broadcast, l.Attrs().HardwareAddr, localExperiments, canary)) == nil {
			marked[string(canary)] = w.to
		}
	}
	world.Eventually(x.t, "markers", func() error {
		for canary, n := range marked {
			if len(x.captures[n].Find([]byte(canary))) == 0 {
				return fmt.Errorf("%s has not seen its own", n.Name)
			}
		}
		return nil
	})
	for _, c := range x.captures {
		c.Sync(x.t)
	}
}

// seen returns the frames with the canary that crossed a link of the node in that
// direction.
func (x *target) seen(n *world.Node, link string, out bool, canary []byte) []world.Frame {
	var list []world.Frame
	for _, f := range x.captures[n].Find(canary) {
		if f.Link == link && f.Out == out {
			list = append(list, f)
		}
	}
	return list
}

// unseen is an error if frames with the canary came in over a link of the node.
func (x *target) unseen(n *world.Node, link string, canary []byte) error {
	if list := x.seen(n, link, false, canary); len(list) > 0 {
		return fmt.Errorf("%s saw:%s", n.Name, world.Lines(list))
	}
	return nil
}

var elsewhere46 = [2]string{"203.0.113.5", "2001:db8:5::5"}

var (
	inet46   = [2]string{inet4, inet6}
	exit46   = [2]string{exit4, exit6}
	tunnel46 = [2]string{tunnel4, tunnel6}
)

var wan46 = [2]string{"198.51.100.2", "2001:db8:100::2"}

func (x *target) host46() [2]string { return [2]string{x.hostLAN4, x.hostLAN6} }
func (x *target) lan46() [2]string  { return [2]string{x.lan4, x.lan6} }

// attack is a probe for leaks: fire tries something in one family, found looks for
// what must not have come of it.
func attack(name string, fire, found func(x *target, i int, canary []byte) error) probe {
	return probe{name, func(x *target) error {
		canaries := [2][]byte{world.Canary(), world.Canary()}
		for i, c := range canaries {
			if err := fire(x, i, c); err != nil {
				return err
			}
		}
		x.settle()
		return each(func(i int, _ bool) error { return found(x, i, canaries[i]) })
	}, true}
}

// each calls fn for both families, or for the first one that fails.
func each(fn func(i int, v6 bool) error) error {
	if err := fn(0, false); err != nil {
		return err
	}
	return fn(1, true)
}

// reaches is a probe of something that must work.
func reaches(name string, run func(*target) error) probe { return probe{name: name, run: run} }

func leaks(name string, run func(*target) error) probe { return probe{name, run, true} }

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// works are the probes of what must work.
var works = []probe{
	reaches("TCP from the LAN", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.lan, "tcp", net.JoinHostPort(x.host46()[i], "8080"), "jail "+x.lan46()[i])
		})
	}),
	reaches("UDP from the LAN", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.lan, "udp", net.JoinHostPort(x.host46()[i], "8080"), "jail "+x.lan46()[i])
		})
	}),
	reaches("TCP from the host", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.host, "tcp", net.JoinHostPort(x.host46()[i], "8080"), "jail "+x.host46()[i])
		})
	}),
	reaches("TCP from the internet", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.inet, "tcp", net.JoinHostPort(wan46[i], "8080"), "jail "+inet46[i])
		})
	}),
	reaches("source jail", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.lan, "tcp", net.JoinHostPort(x.host46()[i], "81"), "jail "+x.sides[i].outer.String())
		})
	}),
	reaches("clients on the list", func(x *target) error {
		return each(func(i int, _ bool) error {
			return expect(x.lan, "tcp", net.JoinHostPort(x.host46()[i], "82"), "jail "+x.lan46()[i])
		})
	}),
	reaches("the host's loopback is not redirected", func(x *target) error {
		return errors.Join(expect(x.host, "tcp", "127.0.0.1:8080", "host 127.0.0.1"), expect(x.host, "tcp", "[::1]:8080", "host ::1"))
	}),
	reaches("link-local clients are not redirected", func(x *target) error {
		eth0, err := x.lan.Netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		to := fmt.Sprintf("[%s%%%d]:8080", linkLocal(x.t, x.host, "lan0"), eth0.Attrs().Index)
		got, err := ask(x.lan, "tcp", to, patience)
		if err == nil && !strings.HasPrefix(got, "host fe80:") {
			err = fmt.Errorf("answered by %q", got)
		}
		return err
	}),
	reaches("the tunnel", func(x *target) error {
		var errs []error
		for _, a := range x.opts.TunnelAddrs {
			to := exit4
			if a.Addr().Is6() {
				to = exit6
			}
			errs = append(errs, expect(x.jail, "udp", net.JoinHostPort(to, "8080"), "exit "+a.Addr().String()))
		}
		return errors.Join(errs...)
	}),
}

// linkLocal is a link's link-local IPv6 address, or "".
func linkLocal(t *testing.T, n *world.Node, link string) string {
	t.Helper()
	l, err := n.Netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := n.Netlink.AddrList(l, unix.AF_INET6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() {
			return a.IP.String()
		}
	}
	return ""
}

// conntracked reports whether the host has a connection that the address began.
func conntracked(n *world.Node, from netip.Addr, v6 bool) (bool, error) {
	var flows []*netlink.ConntrackFlow
	err := n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		kind := netlink.InetFamily(unix.AF_INET)
		if v6 {
			kind = unix.AF_INET6
		}
		flows, err = h.ConntrackTableList(netlink.ConntrackTable, kind)
		return err
	})
	for _, f := range flows {
		if strings.EqualFold(f.Forward.SrcIP.String(), from.String()) {
			return true, nil
		}
	}
	return false, err
}
