package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A forwardMode is a way of forwarding. What is true of all of them is tested
// with each.
type forwardMode struct {
	name string
	args []string // for up, run and forward
	// Clients that are not on the host's loopback reach the service by rules, and
	// are seen by it.
	rules, seen bool
}

var forwardModes = []forwardMode{
	{name: "relay", args: []string{"--mode", "relay"}},
	{name: "veth", args: []string{"--mode", "veth"}, rules: true, seen: true},
}

// eachMode calls test for each mode, in a world of its own.
func eachMode(t *testing.T, test func(t *testing.T, l *lab, m forwardMode)) {
	for _, m := range forwardModes {
		t.Run(m.name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) { test(t, newLab(t, w), m) })
		})
	}
}

// forward is lab.forward in the mode.
func (m forwardMode) forward(t *testing.T, l *lab, args ...string) *world.Process {
	t.Helper()
	return l.forward(t, append(m.args, args...)...)
}

// background starts wgjail forward in the background, in the mode.
func (m forwardMode) background(t *testing.T, l *lab, args ...string) {
	t.Helper()
	l.do(t, append(append([]string{"forward", "-d"}, m.args...), args...)...)
}

// Whoever may come reaches the service, over both families and both protocols:
// from the LAN, from the host by its own addresses, and from the host's loopback.
// Whom it sees is never a loopback address.
func TestModesReach(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		jail := l.up(t)
		serve(t, jail, "app", "tcp", "[::]:80")
		echoUDP(t, jail, "[::]:81")
		m.forward(t, l, "8080:80", "8081:81/udp")
		own := addresses(t, jail)
		source := map[string]string{ // whom services see in veth mode, by where clients go
			world.HostLANV4: world.LANV4, "[" + world.HostLANV6 + "]": world.LANV6,
		}
		for _, c := range l.clients() {
			banner, seen, err := greet(c.from, c.to+":8080")
			if err != nil || banner != "app" {
				t.Errorf("%s to %s: banner %q, error %v", c.from.Name, c.to, banner, err)
				continue
			}
			if seen.IsLoopback() {
				t.Errorf("%s to %s: the service saw %s", c.from.Name, c.to, seen)
			}
			if want, byRules := source[c.to]; m.seen && byRules {
				if c.from == l.Host {
					want = strings.Trim(c.to, "[]")
				}
				if seen.String() != want {
					t.Errorf("%s to %s: the service saw %s, want %s", c.from.Name, c.to, seen, want)
				}
			} else if !own[seen] {
				t.Errorf("%s to %s: the service saw %s, which is not the jail's", c.from.Name, c.to, seen)
			}
			if err := echo(c.from, "udp", c.to+":8081", "over UDP"); err != nil {
				t.Errorf("%s to %s over UDP: %v", c.from.Name, c.to, err)
			}
		}
		if t.Failed() {
			t.Logf("status: %+v", l.status(t))
		}
	})
}

// echoUDP answers datagrams in a node with what they say, until the test ends.
func echoUDP(t *testing.T, n *world.Node, addr string) {
	t.Helper()
	c, err := n.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			k, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteTo(buf[:k], from)
			}
		}
	}()
}

// Ranges lead to ranges, ports to other ports, and an address is the only one
// that is listened on.
func TestModesSpecs(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		jail := l.up(t)
		for _, port := range []string{"80", "9000", "9001", "9002"} {
			serve(t, jail, "port-"+port, "tcp", "[::]:"+port)
		}
		before := l.ruleCount(t)
		m.forward(t, l, "8080:80", "8000-8002:9000-9002", "127.0.0.1:9000", "[::1]:9000", "[fd77::1]:9001:9002", world.HostLANV4+":9003:80")
		lan, lan6 := world.HostLANV4, "["+world.HostLANV6+"]"
		mustGreet(t, l.LAN, lan+":8080", "port-80")
		for i := range 3 {
			mustGreet(t, l.LAN, fmt.Sprintf("%s:%d", lan6, 8000+i), fmt.Sprintf("port-%d", 9000+i))
			mustGreet(t, l.LAN, fmt.Sprintf("%s:%d", lan, 8000+i), fmt.Sprintf("port-%d", 9000+i))
		}
		mustGreet(t, l.Host, "127.0.0.1:9000", "port-9000")
		mustGreet(t, l.Host, "[::1]:9000", "port-9000")
		mustGreet(t, l.LAN, lan6+":9001", "port-9002")
		mustGreet(t, l.LAN, lan+":9003", "port-80")
		mustGreet(t, l.Host, lan+":9003", "port-80")
		for _, closed := range []string{lan + ":8003", lan + ":80", lan + ":9000", lan6 + ":9000", lan + ":9001", lan6 + ":9003"} {
			mustBeClosed(t, l.LAN, closed)
		}
		mustBeClosed(t, l.Host, "[::1]:9001")
		mustBeClosed(t, l.Host, world.HostV4+":9003")
		// What listens on loopback only, or on IPv6 only, has no rule for IPv4;
		// a range has one.
		if want := map[bool]int{true: 3}[m.rules]; l.ruleCount(t)-before != want {
			t.Errorf("%d redirections for IPv4, want %d", l.ruleCount(t)-before, want)
		}
	})
}

// ruleCount is the number of redirections that the host has for IPv4.
func (l *lab) ruleCount(t *testing.T) int {
	t.Helper()
	return strings.Count(l.Host.Run(t, "iptables-save"), "-j DNAT ")
}

// If one port of several cannot be had, none is opened, and nothing is left.
func TestModesOpenAllOrNone(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		serve(t, l.Host, "other", "tcp4", "127.0.0.1:8005")
		settled(t, "vpn")
		before := l.w.Snapshot(t)
		for _, detach := range []string{"--detach=false", "--detach"} {
			l.refused(t, 1, []string{"8005/tcp: address already in use"}, append([]string{"forward", detach, "8000:80", "8002-8007"}, m.args...)...)
			mustBeClosed(t, l.LAN, world.HostLANV4+":8000")
		}
		if diff := world.Diff(without(before, "forward.log"), without(l.w.Snapshot(t), "forward.log")); diff != "" {
			t.Errorf("left by a failed forward:\n%s", diff)
		}
		m.forward(t, l, "8000:80")
		l.refused(t, 1, []string{"error: 8000 is forwarded into jail vpn already"}, append([]string{"forward", "8000:81"}, m.args...)...)
		mustGreet(t, l.LAN, world.HostLANV4+":8000", "app")
	})
}

// up -p and run -p forward as well, and what they make goes with the jail. The
// processes may be dead by then.
func TestModesPublish(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		before := l.w.Snapshot(t)
		jail := l.up(t, append([]string{"-p", "8080:80", "-p", "8081:80/udp"}, m.args...)...)
		serve(t, jail, "app", "tcp", "[::]:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		for _, f := range l.status(t).Forwards {
			syscall.Kill(f.PID, syscall.SIGKILL)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down, after the forward was killed")

		r := l.run(t, append(append([]string{"run", "-p", "8080:80"}, m.args...), l.conf, "--", "true")...)
		if !strings.Contains(r.err, "forwarding 8080:80 into jail vpn") {
			t.Errorf("run printed %q and %q", r.out, r.err)
		}
		l.unchanged(t, before, "run")
	})
}

// Several forwards and jails come and go while others are in use.
func TestModesSeveral(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		before := l.w.Snapshot(t)
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		l.do(t, "up", l.Conf(t, "other"))
		serve(t, l.w.Open(t, "other"), "other", "tcp", "[::]:80")
		first := m.forward(t, l, "--jail", "vpn", "8080:80")
		m.background(t, l, "--jail", "other", "8081:80")
		m.background(t, l, "--jail", "vpn", "8082:80")
		v := l.mustVisit(t, world.HostLANV4+":8082")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		mustGreet(t, l.LAN, "["+world.HostLANV6+"]:8081", "other")
		first.Signal(t, syscall.SIGTERM)
		if err := first.Wait(); err != nil {
			t.Error(err)
		}
		l.do(t, "down", "other")
		mustBeClosed(t, l.LAN, world.HostLANV4+":8080")
		mustBeClosed(t, l.LAN, world.HostLANV4+":8081")
		mustGreet(t, l.LAN, "["+world.HostLANV6+"]:8082", "app")
		if err := v.exchange("still here"); err != nil {
			t.Errorf("a connection of another forward: %v", err)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}
