package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// Whoever is at the other end of the tunnel reaches nothing in the jail, though
// it listens on all addresses.
func TestNothingComesInThroughTheTunnel(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		s, err := provider.Serve(jail.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wire := l.Exit.Capture(t, "provider0")
		for _, addr := range []string{"10.64.0.2", "fd64::2"} {
			if err := echo(jail, "tcp", net.JoinHostPort(addr, "7"), "hello"); err != nil {
				t.Errorf("within the jail: %v", err)
			}
		}
		// A handshake, so that packets find their way in.
		if err := echo(jail, "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Fatal(err)
		}
		calls := len(s.Calls())
		for _, addr := range []string{"10.64.0.2", "fd64::2"} {
			for _, port := range []string{"7", "53", "80"} {
				c, err := net.Conn(nil), error(nil)
				l.Exit.Do(func() error {
					c, err = net.DialTimeout("tcp", net.JoinHostPort(addr, port), 300*time.Millisecond)
					return nil
				})
				if err == nil {
					c.Close()
					t.Errorf("tcp %s port %s was reached through the tunnel", addr, port)
				}
			}
			canary := world.Canary()
			if err := l.Exit.Do(func() error { return sendProbe("udp/"+net.JoinHostPort(addr, "7"), canary) }); err != nil {
				t.Fatal(err)
			}
			wire.MustSee(t, canary)
			if out, err := l.Exit.Try(t, "ping", "-c1", "-W1", addr); err == nil {
				t.Errorf("the jail answers to ping: %s", out)
			}
		}
		// The canaries have gone in, before this comes back.
		if err := echo(jail, "udp", world.InternetV4+":7", "hello"); err != nil {
			t.Fatal(err)
		}
		for _, call := range s.Calls()[calls:] {
			t.Errorf("a service in the jail was called: %+v", call)
		}
		for _, f := range wire.Frames() {
			const echoRequest = 8 // the keeper's: no answer
			if h, ok := f.Header(); ok && !f.Out && h.Protocol == unix.IPPROTO_ICMP && f.Data[20] != echoRequest && h.Src.Addr().String() == "10.64.0.2" {
				t.Errorf("the jail answered: %v", f)
			}
		}
	})
}

// The errors that routers on the way send are let in: without them large
// packets would vanish where the path is narrow.
func TestPathMTUIsLearned(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		// exit ─ 1290 bytes ─ middle ─ 1500 bytes ─ far
		middle, far := w.Namespace(t, "middle"), w.Namespace(t, "far")
		const farV4, farV6 = "203.0.114.6", "2001:db8:9::2"
		w.Link(t, l.Exit.End("narrow0", "203.0.114.1/30", "2001:db8:8::1/64"), middle.End("narrow0", "203.0.114.2/30", "2001:db8:8::2/64"))
		w.Link(t, middle.End("wide0", "203.0.114.5/30", "2001:db8:9::1/64"), far.End("eth0", farV4+"/30", farV6+"/64"))
		for _, n := range []*world.Node{l.Exit, middle} {
			n.Run(t, "ip", "link", "set", "narrow0", "mtu", "1290")
			if err := errors.Join(n.Sysctl("net/ipv4/ip_forward", "1"), n.Sysctl("net/ipv6/conf/all/forwarding", "1")); err != nil {
				t.Fatal(err)
			}
		}
		l.Exit.Route(t, "203.0.114.4/30", "203.0.114.2")
		l.Exit.Route(t, "2001:db8:9::/64", "2001:db8:8::2")
		middle.Route(t, "default", "203.0.114.1")
		middle.Route(t, "default", "2001:db8:8::1")
		far.Route(t, "default", "203.0.114.5")
		far.Route(t, "default", "2001:db8:9::1")
		jail := l.up(t)
		for _, addr := range []string{farV4, farV6} {
			sink, err := far.Listen("tcp", net.JoinHostPort(addr, "8000"))
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			got := make(chan int64, 1)
			go func() {
				c, err := sink.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				n, _ := io.Copy(io.Discard, c)
				got <- n
			}()
			c, err := jail.Dial("tcp", net.JoinHostPort(addr, "8000"))
			if err != nil {
				t.Fatal(err)
			}
			const size = 1 << 17
			c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Errorf("to %s: %v", addr, err)
			}
			c.Close()
			if n := <-got; n != size {
				t.Errorf("%d bytes came to %s, want %d", n, addr, size)
			}
			if out := jail.Run(t, "ip", "route", "get", addr); !strings.Contains(out, "mtu 1290") {
				t.Errorf("the path MTU to %s has not been learned: %s", addr, out)
			}
		}
	})
}

// What the jail's sysctls are does not depend on what the machine's are.
func TestSysctlsInTheJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		want := map[string]string{
			"ipv6/conf/lo/disable_ipv6":         "0",
			"ipv6/conf/vpn/disable_ipv6":        "0",
			"ipv6/conf/vpn/addr_gen_mode":       "1",
			"ipv6/conf/default/addr_gen_mode":   "1",
			"ipv4/ping_group_range":             "0\t2147483647",
			"ipv4/ip_unprivileged_port_start":   "0",
			"ipv4/ip_forward":                   "0",
			"ipv4/tcp_fwmark_accept":            "1",
			"ipv4/fwmark_reflect":               "1",
			"ipv6/fwmark_reflect":               "1",
			"ipv4/conf/vpn/forwarding":          "0",
			"ipv6/conf/vpn/forwarding":          "0",
			"ipv6/conf/vpn/accept_ra":           "0",
			"ipv6/conf/default/accept_ra":       "0",
			"ipv4/conf/vpn/rp_filter":           "1",
			"ipv4/conf/vpn/accept_redirects":    "0",
			"ipv6/conf/vpn/accept_redirects":    "0",
			"ipv4/conf/vpn/send_redirects":      "0",
			"ipv4/conf/vpn/accept_source_route": "0",
			"ipv6/conf/vpn/accept_source_route": "0",
			"ipv4/conf/vpn/arp_ignore":          "2",
			"ipv4/conf/vpn/route_localnet":      "0",
		}
		for _, where := range []string{"all", "default"} {
			for name, value := range map[string]string{
				"ipv4/conf/%s/forwarding": "0", "ipv4/conf/%s/rp_filter": "1", "ipv4/conf/%s/accept_redirects": "0", "ipv4/conf/%s/send_redirects": "0",
				"ipv4/conf/%s/accept_source_route": "0", "ipv4/conf/%s/arp_ignore": "2", "ipv4/conf/%s/route_localnet": "0",
				"ipv6/conf/%s/forwarding": "0", "ipv6/conf/%s/accept_redirects": "0", "ipv6/conf/%s/accept_source_route": "0",
			} {
				want[fmt.Sprintf(name, where)] = value
			}
		}
		hostile := map[string]string{"0": "1", "1": "0", "2": "0", "0\t2147483647": "1\t0"}
		for name, value := range want {
			if strings.Contains(name, "/vpn/") || strings.HasSuffix(name, "port_start") {
				continue
			}
			if err := l.Host.Sysctl("net/"+name, hostile[value]); err != nil {
				t.Fatal(err)
			}
		}
		before := w.Snapshot(t)
		jail := l.up(t)
		for name, value := range want {
			jail.Do(func() error {
				got, err := os.ReadFile("/proc/sys/net/" + name)
				if strings.TrimSpace(string(got)) != value {
					t.Errorf("%s is %q, %v; want %q", name, got, err, value)
				}
				return nil
			})
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// Programs without any capability can do what they can in a container.
func TestProgramsPingAndListen(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		for _, addr := range []string{world.InternetV4, world.InternetV6} {
			r := l.runCmd(t, exec.Command("wgjail", "exec", "--user", "65534:65534", "vpn", "--", "ping", "-c1", "-W10", addr))
			if r.status != 0 {
				t.Errorf("ping %s ended with %+v", addr, r)
			}
		}
	})
}
