package veth_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// everywhere asks for a port from the LAN, and from the host by its own
// addresses, over both families, and wants the jail to answer and see the client.
func (l *lab) everywhere(network, port string) []error {
	var errs []error
	for _, x := range []struct {
		from       *world.Node
		to, client string
	}{
		{l.lan, l.hostLAN4, l.lan4},
		{l.lan, l.hostLAN6, l.lan6},
		{l.host, l.hostLAN4, l.hostLAN4},
		{l.host, l.hostLAN6, l.hostLAN6},
	} {
		errs = append(errs, expect(x.from, network, net.JoinHostPort(x.to, port), "jail "+x.client))
	}
	return errs
}

// TestTunnels: services are reached whatever families the tunnel has, and whether
// or not it has routes to the clients.
func TestTunnels(t *testing.T) {
	for _, x := range []struct {
		name   string
		tunnel []string
		routes bool
	}{
		{"IPv4", []string{tunnel4}, true},
		{"IPv6", []string{tunnel6}, true},
		{"NoRoutes", []string{tunnel4, tunnel6}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w, x.tunnel...)
				if !x.routes {
					l.jail.Run(t, "ip", "-4", "route", "del", "default")
					l.jail.Run(t, "ip", "-6", "route", "del", "default")
				}
				serve(t, l.jail, "jail", "tcp", "[::]:8080")
				serve(t, l.jail, "jail", "udp", "[::]:8080")
				v := l.open(t)
				add(t, v, tcp(8080), udp(8080))
				must(t, l.everywhere("tcp", "8080")...)
				must(t, l.everywhere("udp", "8080")...)
			})
		})
	}
}

// TestPorts: ranges, other ports inside, an address to listen at, lists of
// clients, and both sources, at once.
func TestPorts(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		for _, port := range []string{"8080", "9000", "9001", "9009"} {
			serve(t, l.jail, "jail", "tcp", "[::]:"+port)
			serve(t, l.jail, "jail", "udp", "[::]:"+port)
		}
		serve(t, l.jail, "tunnel", "tcp", tunnel4+":8090")
		serve(t, l.host, "host", "tcp", "[::]:8080")
		v := l.open(t)
		lan4 := netip.MustParseAddr(l.hostLAN4)
		add(t, v,
			veth.Forward{ID: "remapped", Network: "tcp", First: 80, Last: 80, Target: 8080},
			veth.Forward{ID: "range", Network: "tcp", First: 9000, Last: 9009, Target: 9000},
			veth.Forward{ID: "shifted", Network: "udp", First: 7000, Last: 7009, Target: 9000},
			veth.Forward{ID: "at", Network: "tcp", Listen: lan4, First: 8080, Last: 8080, Target: 8080},
			veth.Forward{ID: "hidden", Network: "tcp", First: 81, Last: 81, Target: 8080, Source: veth.SourceJail},
			veth.Forward{ID: "hidden-at", Network: "udp", Listen: lan4, First: 82, Last: 83, Target: 9000, Source: veth.SourceJail},
			veth.Forward{ID: "few", Network: "tcp", First: 84, Last: 84, Target: 8080, Allow: []netip.Prefix{netip.MustParsePrefix("192.168.50.0/30"), netip.MustParsePrefix("192.168.0.0/16")}},
			veth.Forward{ID: "others", Network: "tcp", First: 85, Last: 85, Target: 8080, Allow: []netip.Prefix{netip.MustParsePrefix("192.168.51.0/24"), netip.MustParsePrefix("fd00::/8")}},
			tcp(8090),
		)
		lan := func(network, port, want string) error {
			return expect(l.lan, network, net.JoinHostPort(l.hostLAN4, port), want)
		}
		must(t, l.everywhere("tcp", "80")...)
		must(t, l.everywhere("tcp", "9000")...)
		must(t, l.everywhere("tcp", "9009")...)
		must(t, l.everywhere("udp", "7001")...)
		must(t, l.everywhere("udp", "7009")...)
		outer := l.host.Run(t, "ip", "-4", "-br", "addr")
		_ = outer
		must(t,
			lan("tcp", "8080", "jail "+l.lan4),
			expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN6, "8080"), "host "+l.lan6),
			expect(l.host, "tcp", "198.51.100.2:8080", "host 198.51.100.2"),
			lan("tcp", "81", "jail "+outerAddr(t, l, false)),
			expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN6, "81"), "jail "+outerAddr(t, l, true)),
			lan("udp", "83", "jail "+outerAddr(t, l, false)),
			expectNone(l.host, "udp", "198.51.100.2:83"),
			lan("tcp", "84", "jail "+l.lan4),
			expectNone(l.lan, "tcp", net.JoinHostPort(l.hostLAN6, "84")),
			expectNone(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "85")),
			expectNone(l.lan, "tcp", net.JoinHostPort(l.hostLAN6, "85")),
			lan("tcp", "8090", "tunnel "+l.lan4),
		)
		for _, id := range []string{"at", "range"} {
			if err := v.Remove(id); err != nil {
				t.Error(err)
			}
		}
		must(t,
			lan("tcp", "8080", "host "+l.lan4),
			expectNone(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "9000")),
			lan("tcp", "84", "jail "+l.lan4),
			lan("udp", "7001", "jail "+l.lan4),
		)
	})
}

// outerAddr is the address of the host's end of the pair.
func outerAddr(t *testing.T, l *lab, v6 bool) string {
	t.Helper()
	return pairAddrs(t, l.host, "wgjv", v6)
}

func pairAddrs(t *testing.T, n *world.Node, prefix string, v6 bool) string {
	t.Helper()
	links, err := n.Netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if len(link.Attrs().Name) < len(prefix) || link.Attrs().Name[:len(prefix)] != prefix {
			continue
		}
		addrs, err := n.Netlink.AddrList(link, map[bool]int{false: 2, true: 10}[v6])
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			return a.IP.String()
		}
	}
	t.Fatalf("%s has no link %s… with an address", n.Name, prefix)
	return ""
}

// TestJails: two jails with the same tunnel address, and a forward of each.
func TestJails(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		other := l.newJail(t, "other", tunnel4)
		serve(t, l.jail, "jail", "tcp", "[::]:8080")
		serve(t, other, "other", "tcp", "[::]:8080")
		v := l.open(t)
		add(t, v, tcp(8080))
		second := *l
		second.opts = options("other", other, tunnel4)
		v2 := second.open(t)
		add(t, v2, veth.Forward{ID: "tcp-8081", Network: "tcp", First: 8081, Last: 8081, Target: 8080})
		ask := func(port, want string) error {
			return expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, port), want+" "+l.lan4)
		}
		must(t, ask("8080", "jail"), ask("8081", "other"))
		if err := v2.Remove("tcp-8081"); err != nil {
			t.Error(err)
		}
		must(t, ask("8080", "jail"), expectNone(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "8081")))
	})
}
