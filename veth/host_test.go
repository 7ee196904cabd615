package veth_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// TestCleanup: after Close, and after Teardown by name alone, host and jail are as
// they were. With several users of a pair, the last one cleans up.
func TestCleanup(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *lab){
		"Nothing": func(*testing.T, *lab) {},
		"RulesOfOthers": func(t *testing.T, l *lab) {
			l.host.Run(t, "iptables", "-P", "FORWARD", "DROP")
			l.host.Run(t, "iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "DNAT", "--to-destination", "198.51.100.9", "-m", "comment", "--comment", "wgjail vpn2")
			l.host.Run(t, "ip6tables", "-t", "mangle", "-N", "OTHER")
			l.host.Run(t, "nft", "add table inet mine { chain f { type filter hook forward priority 5; policy accept; }; }")
		},
		"Router": func(t *testing.T, l *lab) {
			sysctl(t, l.host, "net/ipv4/ip_forward", "1")
			sysctl(t, l.host, "net/ipv6/conf/all/forwarding", "1")
		},
		"OneLinkForwards": func(t *testing.T, l *lab) { sysctl(t, l.host, "net/ipv4/conf/wan0/forwarding", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w, tunnel4, tunnel6)
				before(t, l)
				host, jail := l.host.Snapshot(t), withoutMarks(l.jail.Snapshot(t))
				same := func(when string) {
					t.Helper()
					if d := world.Diff(host, l.host.Snapshot(t)); d != "" {
						t.Errorf("%s: changed on the host:\n%s", when, d)
					}
					if d := world.Diff(jail, withoutMarks(l.jail.Snapshot(t))); d != "" {
						t.Errorf("%s: changed in the jail:\n%s", when, d)
					}
				}
				first, second := l.mustOpen(t), l.mustOpen(t)
				add(t, first, tcp(8080), veth.Forward{ID: "s", Network: "udp", First: 81, Last: 90, Target: 8081, Source: veth.SourceJail})
				add(t, second, tcp(8081))
				if err := first.Close(); err != nil {
					t.Error(err)
				}
				serve(t, l.jail, "jail", "tcp", "[::]:8081")
				must(t, expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "8081"), "jail "+l.lan4))
				if err := second.Close(); err != nil {
					t.Error(err)
				}
				same("after Close")
				third := l.mustOpen(t)
				add(t, third, tcp(8080), udp(8080))
				for range 2 { // twice is once
					if err := veth.Teardown("vpn", l.jail.Namespace); err != nil {
						t.Error(err)
					}
					same("after Teardown")
				}
			})
		})
	}
}

// withoutMarks leaves out the one switch that stays: it does nothing without a
// packet that is marked.
func withoutMarks(snapshot string) string {
	var b strings.Builder
	for line := range strings.Lines(snapshot) {
		if !strings.Contains(line, "/tcp_fwmark_accept ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// mustOpen is open for those who close.
func (l *lab) mustOpen(t *testing.T, forwards ...veth.Forward) *veth.Veth {
	t.Helper()
	v, err := veth.Open(l.opts, forwards...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return v
}

// TestNamespaceGone: the jail is gone, and the pair with it, before Teardown.
func TestNamespaceGone(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		before := l.host.Snapshot(t)
		v := l.mustOpen(t)
		add(t, v, tcp(8080), udp(8080))
		l.host.Run(t, "ip", "link", "del", veth.HostLink("vpn")) // as the end of the namespace does
		if err := veth.Teardown("vpn", nil); err != nil {
			t.Error(err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("left:\n%s", d)
		}
	})
}

// TestSwitches: L17, L18: no switch of the whole host, none for loopback; the host
// goes on believing router advertisements.
func TestSwitches(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		before := l.host.Snapshot(t)
		v := l.open(t)
		add(t, v, tcp(8080))
		for line := range strings.Lines(world.Diff(before, l.host.Snapshot(t))) {
			name, _, _ := strings.Cut(line, " =")
			if !strings.HasPrefix(line, "+sysctl") || strings.Contains(line, "/"+veth.HostLink("vpn")+"/") {
				continue
			}
			switch strings.TrimPrefix(name, "+sysctl /proc/sys/net/") {
			case "ipv4/conf/lan0/forwarding", "ipv4/conf/wan0/forwarding", "ipv6/conf/lan0/force_forwarding", "ipv6/conf/wan0/force_forwarding":
			default:
				t.Errorf("switched: %s", line)
			}
		}
		for _, n := range []*world.Node{l.host, l.jail} {
			if out := n.Run(t, "sh", "-c", "cat /proc/sys/net/ipv4/conf/*/route_localnet"); strings.Contains(out, "1") {
				t.Errorf("%s: route_localnet is on", n.Name)
			}
		}
	})
}

// TestHostBecomesRouter: when somebody makes the host a router, our guards no
// longer hold that up, and its switches are not ours to undo.
func TestHostBecomesRouter(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.inet, "inet", "tcp", "[::]:7000")
		v := l.mustOpen(t)
		add(t, v, tcp(8080))
		through := func() error {
			return errors.Join(expect(l.lan, "tcp", inet4+":7000", "inet "+l.lan4), expect(l.lan, "tcp", "["+inet6+"]:7000", "inet "+l.lan6))
		}
		must(t, expectNone(l.lan, "tcp", inet4+":7000"))
		sysctl(t, l.host, "net/ipv4/ip_forward", "1")
		sysctl(t, l.host, "net/ipv6/conf/all/forwarding", "1")
		if err := v.Repair(); err != nil {
			t.Error(err)
		}
		must(t, through())
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		must(t, through())
	})
}

// TestTransit: L14: what goes through the host to somebody else's port gets there.
func TestTransit(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		sysctl(t, l.host, "net/ipv4/ip_forward", "1")
		sysctl(t, l.host, "net/ipv6/conf/all/forwarding", "1")
		for _, network := range []string{"tcp", "udp"} {
			serve(t, l.inet, "inet", network, "[::]:8080")
			serve(t, l.jail, "jail", network, "[::]:8080")
		}
		v := l.open(t)
		add(t, v, tcp(8080), udp(8080))
		for _, network := range []string{"tcp", "udp"} {
			must(t, expect(l.lan, network, inet4+":8080", "inet "+l.lan4), expect(l.lan, network, "["+inet6+"]:8080", "inet "+l.lan6),
				expect(l.host, network, inet4+":8080", "inet 198.51.100.2"))
			must(t, l.everywhere(network, "8080")...)
		}
	})
}

// TestLoopbackOnly: L16: a forward at a loopback address has no rules, and frames
// that pretend to go there do not get there.
func TestLoopbackOnly(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		inJail := serve(t, l.jail, "jail", "udp", "[::]:8080")
		v := l.open(t)
		f, f6, ok := udp(8080), udp(8080), udp(8081)
		f.Listen, f6.Listen, f6.ID, ok.Target = netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), "six", 8080
		add(t, v, f, f6)
		canary := world.Canary()
		c := l.host.Capture(t, "lan0")
		for _, to := range []netip.AddrPort{at("127.0.0.1", 8080), at("::1", 8080), at(l.hostLAN4, 8080), at(l.hostLAN6, 8080)} {
			from := at(l.lan4, 9)
			if to.Addr().Is6() {
				from = at(l.lan6, 9)
			}
			if err := inject(l.lan, "eth0", macOf(t, l.host, "lan0"), udpPacket(from, to, canary)); err != nil {
				t.Fatal(err)
			}
		}
		c.MustSee(t, canary)
		add(t, v, ok) // the same service is reached where it is forwarded
		must(t, expect(l.lan, "udp", net.JoinHostPort(l.hostLAN4, "8081"), "jail "+l.lan4))
		if inJail.heard(canary) {
			t.Error("the service heard it")
		}
		if r, err := v.Inspect(); err != nil || len(r.Missing) > 0 {
			t.Errorf("Inspect: %v, %v", r, err)
		}
	})
}

// TestStaleUDP: L37: a client that sends without pause reaches the jail as soon as
// there is a forward, and the host's own service as soon as there is none.
func TestStaleUDP(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "udp", "[::]:8080")
		serve(t, l.host, "host", "udp", "[::]:8080")
		v := l.open(t)
		clients := [2]net.PacketConn{client(t, l.lan, l.lan4), client(t, l.lan, l.lan6)}
		both := func(who string) {
			t.Helper()
			must(t, exchange(clients[0], at(l.hostLAN4, 8080), who), exchange(clients[1], at(l.hostLAN6, 8080), who))
		}
		both("host")
		add(t, v, udp(8080))
		both("jail")
		if err := v.Remove("udp-8080"); err != nil {
			t.Fatal(err)
		}
		both("host")
		add(t, v, udp(8080))
		both("jail")
		if err := veth.Teardown("vpn", nil); err != nil {
			t.Fatal(err)
		}
		both("host")
	})
}

// TestMany: L30: several processes at once, with jails of their own or the same
// one, choose different addresses and do not hinder each other.
func TestMany(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		const count = 12
		l := newLab(t, w, tunnel4)
		before := l.host.Snapshot(t)
		var wg sync.WaitGroup
		errs := make([]error, count)
		hold := make([]*veth.Veth, count)
		for i := range count {
			opts := l.opts
			if i%3 != 0 { // a third of them share one
				name := fmt.Sprintf("jail%d", i)
				opts = options(name, w.Namespace(t, name))
			}
			wg.Go(func() {
				v, err := veth.Open(opts)
				if err == nil {
					hold[i], err = v, v.Add(tcp(uint16(9000+i)))
				}
				errs[i] = err
			})
		}
		wg.Wait()
		must(t, errs...)
		seen := map[string]bool{}
		for line := range strings.Lines(l.host.Run(t, "ip", "-br", "addr")) {
			f := strings.Fields(line)
			if !strings.HasPrefix(f[0], "wgjv") {
				continue
			}
			for _, a := range f[2:] {
				if seen[a] {
					t.Errorf("%s twice", a)
				}
				seen[a] = true
			}
		}
		if want := 2 * (1 + count*2/3); len(seen) != want {
			t.Errorf("%d addresses, want %d", len(seen), want)
		}
		for i, v := range hold {
			wg.Go(func() { errs[i] = v.Close() })
		}
		wg.Wait()
		must(t, errs...)
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("left:\n%s", d)
		}
	})
}

// TestPrune: what a killed process left is found by the next one.
func TestPrune(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "udp", "[::]:8080")
		serve(t, l.jail, "jail", "udp", "[::]:8082")
		serve(t, l.host, "host", "udp", "[::]:8080")
		killed := l.mustOpen(t) // it does nothing any more
		add(t, killed, udp(8080), tcp(8081), veth.Forward{ID: "moved", Network: "udp", First: 8083, Last: 8083, Target: 1})
		c := client(t, l.lan, l.lan4)
		must(t, exchange(c, at(l.hostLAN4, 8080), "jail"))
		v := l.open(t)
		add(t, v, udp(8082))
		dead, err := veth.Prune(l.opts, func(id string) bool { return id == "tcp-8081" || id == "udp-8082" })
		if err != nil || fmt.Sprint(dead) != "[moved udp-8080]" {
			t.Errorf("Prune: %v, %v", dead, err)
		}
		must(t, exchange(c, at(l.hostLAN4, 8080), "host"), expect(l.lan, "udp", net.JoinHostPort(l.hostLAN4, "8082"), "jail "+l.lan4))
		// The same ID, but another port.
		add(t, v, veth.Forward{ID: "moved", Network: "udp", First: 8083, Last: 8083, Target: 8082})
		must(t, expect(l.lan, "udp", net.JoinHostPort(l.hostLAN4, "8083"), "jail "+l.lan4))
		r, err := v.Inspect()
		if err != nil || len(r.Missing) > 0 || len(r.Forwards) != 2 {
			t.Errorf("Inspect: %+v, %v", r, err)
		}
	})
}
