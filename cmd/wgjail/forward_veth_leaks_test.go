package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// What package veth's tests show of a pair, with every rule taken away once, is
// shown here of the pair that the command makes, beside what the jail itself has:
// the pair is no second way out, and none in but the redirected one. Each probe
// has a control in which what it looks for happens.
func TestVethLeaks(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		hostile(t, l.Host)
		jail := l.up(t, "--mode", "veth", "-p", "8080:8000", "-p", "8081:8001/udp")
		serve(t, jail, "app", "tcp", "[::]:8000")
		echoUDP(t, jail, "[::]:8001")
		hidden, err := provider.Serve(jail.Namespace) // echoes on port 7, which is not forwarded
		if err != nil {
			t.Fatal(err)
		}
		defer hidden.Close()
		x := &vethTarget{lab: l, jail: jail, hidden: hidden, pair: veth.HostLink("vpn"),
			outer: l.Host.CaptureAll(t, "lo"), lan: l.LAN.CaptureAll(t, "lo"), inet: l.Inet.CaptureAll(t, "lo")}
		x.serves(t)
		for _, s := range []struct{ name, script string }{
			{"up", ":"},
			{"the forward frozen", fmt.Sprintf("kill -STOP %d", l.status(t).Forwards[0].PID)},
			{"the tunnel gone", "ip -n vpn link delete vpn"},
			{"root inside has flushed all rules", "ip netns exec vpn nft flush ruleset"},
		} {
			l.Host.Run(t, "sh", "-ec", s.script)
			x.flushed = strings.HasPrefix(s.name, "root")
			for name, probe := range map[string]func(*testing.T){
				"L8 L9": x.noIPv6ByItself, "L10 L12": x.noWayOut, "L15": x.noWayIn, "L18": x.noRouter, "L20": x.settings,
			} {
				if x.flushed && name == "L15" {
					continue // what the jail's root lets in from the host is its own
				}
				t.Run(s.name+"/"+name, probe)
			}
		}
	})
}

// hostile sets what a host should not have, and a jail must not take over.
func hostile(t *testing.T, n *world.Node) {
	t.Helper()
	for _, name := range []string{"accept_redirects", "send_redirects", "accept_source_route", "proxy_arp"} {
		if err := n.Sysctl("net/ipv4/conf/default/"+name, "1"); err != nil {
			t.Fatal(err)
		}
	}
}

type vethTarget struct {
	*lab
	jail             *world.Node
	hidden           *provider.Services
	pair             string
	outer, lan, inet *world.Capture
	flushed          bool // the jail's rules are gone
}

// serves is the control of all probes: the pair is in use.
func (x *vethTarget) serves(t *testing.T) {
	t.Helper()
	if _, seen, err := greet(x.LAN, world.HostLANV4+":8080"); err != nil || seen.String() != world.LANV4 {
		t.Fatalf("the service saw %s, error %v", seen, err)
	}
	canary := world.Canary()
	if err := echo(x.LAN, "udp", "["+world.HostLANV6+"]:8081", string(canary)); err != nil {
		t.Fatal(err)
	}
	x.outer.MustSee(t, canary)
	x.lan.MustSee(t, canary)
}

// inner is the jail's end of the pair, outer the host's.
func (x *vethTarget) addresses(t *testing.T) (outer, inner [2]netip.Addr) {
	t.Helper()
	for line := range strings.Lines(x.Host.Run(t, "ip", "-br", "address", "show", x.pair)) {
		for _, word := range strings.Fields(line) {
			if p, err := netip.ParsePrefix(word); err == nil {
				i := 0
				if p.Addr().Is6() {
					i = 1
				}
				outer[i], inner[i] = p.Addr(), p.Addr().Next()
			}
		}
	}
	return outer, inner
}

// noIPv6ByItself: no link-local address, no router, no route in any table but
// ours.
func (x *vethTarget) noIPv6ByItself(t *testing.T) {
	for _, n := range []*world.Node{x.Host, x.jail} {
		link := map[bool]string{true: x.pair, false: "host0"}[n == x.Host]
		if out := n.Run(t, "ip", "-6", "address", "show", "dev", link, "scope", "link"); out != "" {
			t.Errorf("%s in %s has a link-local address:\n%s", link, n.Name, out)
		}
	}
	for _, v := range []string{"-4", "-6"} {
		if out := x.jail.Run(t, "ip", v, "route", "show", "dev", "host0"); out != "" {
			t.Errorf("the jail has a route over the pair: %s", out)
		}
	}
}

// noWayOut: neither a user with a socket that is bound to the pair nor root with a
// route over it gets out, to the host, through it, or into its connection table.
func (x *vethTarget) noWayOut(t *testing.T) {
	outer, inner := x.addresses(t)
	to := []string{outer[0].String(), outer[1].String(), world.HostLANV4, world.HostLANV6, world.LANV4, world.LANV6, world.InternetV4, world.InternetV6, "224.0.0.251"}
	canary := world.Canary()
	send := func() {
		for _, addr := range to {
			for _, network := range []string{"udp", "tcp"} {
				sendOver(x.jail, "host0", network, net.JoinHostPort(addr, "7"), canary)
			}
		}
	}
	send()
	for i, v := range []string{"-4", "-6"} {
		x.jail.Run(t, "ip", v, "route", "add", "default", "via", outer[i].String(), "dev", "host0", "onlink", "metric", "1")
	}
	send()
	for i, v := range []string{"-4", "-6"} {
		x.jail.Run(t, "ip", v, "route", "del", "default", "via", outer[i].String(), "dev", "host0", "metric", "1")
	}
	if x.flushed { // what was sent has got as far as the host's end, and no further
		x.outer.MustSee(t, canary)
	}
	for where, c := range map[string]*world.Capture{"the LAN": x.lan, "the internet": x.inet} {
		c.Sync(t)
		if len(c.Find(canary)) > 0 {
			t.Errorf("%s has seen what was sent over the pair:%s", where, world.Lines(c.Find(canary)))
		}
	}
	for i, v := range []string{"ipv4", "ipv6"} {
		if out, _ := x.Host.Try(t, "conntrack", "-L", "-f", v, "--orig-src", inner[i].String()); strings.Contains(out, "src=") {
			t.Errorf("the host's connection table has what the jail began:\n%s", out)
		}
	}
	for _, f := range x.lan.Frames() { // SYNs have no canary
		if h, ok := f.Header(); ok && !f.Out && (h.Src.Addr() == inner[0] || h.Src.Addr() == inner[1]) {
			t.Errorf("the LAN has seen %v", f)
		}
	}
}

// sendOver sends from a socket that is bound to a link, if it can: a user may, and
// no route is needed (SO_BINDTODEVICE, socket(7)).
func sendOver(n *world.Node, link, network, addr string, text []byte) {
	n.Do(func() error {
		d := net.Dialer{Timeout: 100 * time.Millisecond, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.BindToDevice(int(fd), link) })
		}}
		c, err := d.Dial(network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(text)
		return err
	})
}

// noWayIn: ports that are not forwarded are reached by nobody, whatever routes
// they set, and the jail's addresses by no way but the redirection.
func (x *vethTarget) noWayIn(t *testing.T) {
	_, inner := x.addresses(t)
	calls := len(x.hidden.Calls())
	for i, v := range []string{"-4", "-6"} {
		via := []string{world.HostLANV4, world.HostLANV6}[i]
		tunnel := []string{"10.64.0.2", "fd64::2"}[i]
		for _, to := range []string{inner[i].String(), tunnel} {
			x.LAN.Run(t, "ip", v, "route", "replace", to, "via", via)
			for _, n := range []*world.Node{x.LAN, x.Host} {
				sendOver(n, map[bool]string{true: "eth0", false: x.pair}[n == x.LAN], "udp", net.JoinHostPort(to, "7"), world.Canary())
				sendOver(n, map[bool]string{true: "eth0", false: x.pair}[n == x.LAN], "tcp", net.JoinHostPort(to, "7"), world.Canary())
			}
		}
	}
	x.outer.Sync(t)
	if err := echo(x.jail, "udp", "127.0.0.1:7", "control"); err != nil {
		t.Fatal(err)
	}
	all := x.hidden.Calls()[calls:]
	if len(all) != 1 {
		t.Errorf("the hidden service was called: %+v, want the control only", all)
	}
}

// noRouter: the host forwards nothing but what is redirected, and no switch of the
// whole host is on.
func (x *vethTarget) noRouter(t *testing.T) {
	canary := world.Canary()
	for _, to := range []string{world.GatewayV4, world.GatewayV6} {
		sendOver(x.LAN, "eth0", "udp", net.JoinHostPort(to, "7"), canary)
	}
	x.lan.MustSee(t, canary)
	x.inet.Sync(t)
	if list := x.inet.Find(canary); len(list) > 0 {
		t.Errorf("the host is a router:%s", world.Lines(list))
	}
	if out := x.Host.Run(t, "sh", "-c", "cat /proc/sys/net/ipv4/conf/*/route_localnet"); strings.Contains(out, "1") {
		t.Error("route_localnet is on")
	}
	if out := x.Host.Run(t, "cat", "/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(out) != "0" {
		t.Error("ip_forward is on")
	}
}

// settings: the jail's link has none of the host's bad habits.
func (x *vethTarget) settings(t *testing.T) {
	for name, want := range map[string]string{
		"ipv4/conf/host0/forwarding": "0", "ipv4/conf/all/rp_filter": "1", "ipv4/conf/all/arp_ignore": "2",
		"ipv4/conf/host0/accept_redirects": "0", "ipv4/conf/host0/send_redirects": "0", "ipv4/conf/host0/accept_source_route": "0",
		"ipv6/conf/host0/accept_ra": "0", "ipv6/conf/host0/accept_redirects": "0", "ipv6/conf/host0/forwarding": "0",
	} {
		if out := strings.TrimSpace(x.jail.Run(t, "cat", "/proc/sys/net/"+name)); out != want {
			t.Errorf("%s is %s in the jail, want %s", name, out, want)
		}
	}
}

// L13, L22, L23: the other end of the tunnel sees nobody's address, gets in
// nowhere, and the provider's own address is reached through the tunnel only.
func TestVethTunnelLearnsNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t, "--mode", "veth", "-p", "8080:80", "-p", "8081:81/udp")
		serve(t, jail, "app", "tcp", "[::]:80")
		echoUDP(t, jail, "[::]:81")
		exit := l.Exit.CaptureAll(t, "lo")
		wan := l.Inet.CaptureAll(t, "lo")
		client := netip.MustParseAddr(world.LANV4)
		v := l.mustVisit(t, world.HostLANV4+":8080")
		udp := errors.Join(echo(l.LAN, "udp", world.HostLANV4+":8081", "hello"), echo(l.LAN, "udp", "["+world.HostLANV6+"]:8081", "hello"))
		if err := errors.Join(v.exchange("hello"), udp); err != nil {
			t.Fatal(err)
		}
		canary := world.Canary()
		if err := echo(jail, "udp", world.InternetV4+":7", string(canary)); err != nil {
			t.Fatal(err)
		}
		exit.MustSee(t, canary) // the capture sees what comes through the tunnel
		jail.Run(t, "conntrack", "-F")
		v.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(v, "once more")
		v.Close()
		// The endpoint's address is like any other to programs inside.
		endpoint := world.Canary()
		sendOver(jail, "vpn", "udp", net.JoinHostPort(world.EndpointsV4[0], "7"), endpoint)
		sendOver(jail, "host0", "udp", net.JoinHostPort(world.EndpointsV4[0], "7"), endpoint)
		if err := echo(jail, "udp", world.InternetV4+":7", "barrier"); err != nil {
			t.Fatal(err)
		}
		exit.MustSee(t, endpoint)
		wan.MustNotSee(t, endpoint)
		exit.Sync(t)
		for _, f := range exit.Frames() {
			for _, a := range []netip.Addr{client, netip.MustParseAddr(world.LANV6)} {
				if bytes.Contains(f.Raw, a.AsSlice()) {
					t.Errorf("the exit has seen a client's address: %v", f)
				}
			}
		}
		for _, addr := range []string{"10.64.0.2", "fd64::2"} {
			for _, port := range []string{"80", "8080"} {
				var err error
				l.Exit.Do(func() error {
					_, err = net.DialTimeout("tcp", net.JoinHostPort(addr, port), 300*time.Millisecond)
					return nil
				})
				if err == nil {
					t.Errorf("%s port %s was reached through the tunnel", addr, port)
				}
			}
		}
	})
}
