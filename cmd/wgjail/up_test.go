package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// What a jailed program reaches is the provider's side of the internet.
func TestUpMakesAJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		if out := l.do(t, "up", l.conf); !strings.Contains(out, "jail vpn is up ("+backend()+" WireGuard, MTU 1420)") {
			t.Errorf("up printed %q", out)
		}
		jail := w.Open(t, "vpn")
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{world.InternetV4, world.InternetV6, provider.ServerV4.String(), provider.ServerV6.String()} {
				if err := echo(jail, network, net.JoinHostPort(addr, "7"), "hello"); err != nil {
					t.Errorf("%s to %s from the jail: %v", network, addr, err)
				}
			}
		}
		if calls := l.Sink.Calls(); len(calls) > 0 {
			t.Errorf("calls arrived in clear: %v", calls)
		}
		for _, call := range l.Provider.Calls() {
			if a := call.Remote.Addr(); !slices.Contains([]string{"10.64.0.2", "fd64::2"}, a.String()) {
				t.Errorf("the provider saw a call from %v", a)
			}
		}
		if out := l.in(t, "getent ahosts whoami.test"); !strings.Contains(out, provider.ServerV4.String()) {
			t.Errorf("a name that only the provider knows is %q", out)
		}
		for _, q := range l.Sink.Queries() {
			t.Errorf("the host's resolver was asked for %s", q.Name)
		}
	})
}

// The interface is in the jail and nowhere else, its socket on the host and
// nowhere else.
func TestUpPutsEachPartInItsPlace(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		hostBefore := w.Host.Snapshot(t)
		jail := l.up(t)
		if diff := world.Diff(hostBefore, w.Host.Snapshot(t)); diff != "" {
			t.Errorf("up has changed the host's network:\n%s", diff)
		}
		if out := jail.Run(t, "ls", "/sys/class/net"); strings.Contains(out, "vpn") {
			t.Errorf("the host's /sys shows the jail's interface: %s", out)
		}
		var links []string
		list, err := jail.Netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range list {
			links = append(links, link.Attrs().Name)
			if link.Attrs().Flags&net.FlagUp == 0 {
				t.Errorf("%s is down", link.Attrs().Name)
			}
		}
		if slices.Sort(links); !slices.Equal(links, []string{"lo", "vpn"}) {
			t.Errorf("in the jail are %q", links)
		}
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "10.64.0.2:0", "[fd64::2]:0"} {
			c, err := jail.ListenPacket("udp", addr)
			if err != nil {
				t.Errorf("in the jail: %v", err)
				continue
			}
			c.Close()
		}
		port := strings.TrimSpace(jail.Run(t, "wg", "show", "vpn", "listen-port"))
		if out := l.Host.Run(t, "ss", "-Huan", "sport = :"+port); !strings.Contains(out, ":"+port) {
			t.Errorf("the tunnel's socket, port %s, is not on the host:\n%s", port, out)
		}
		if out := jail.Run(t, "ss", "-Huan"); strings.TrimSpace(out) != "" {
			t.Errorf("there is a UDP socket in the jail:\n%s", out)
		}
		rules := jail.Run(t, "nft", "list", "ruleset")
		for _, rule := range []string{`iifname "vpn" ct state established,related accept`, "ip daddr 10.64.0.1 accept", "ip6 daddr fd64::1 accept"} {
			if !strings.Contains(rules, rule) {
				t.Errorf("the rule %q is not in the jail", rule)
			}
		}
	})
}

// write writes a configuration called NAME.conf out of lines of its interface
// and the lab's peer with these allowed addresses.
func (l *lab) write(t *testing.T, name, iface, peer string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %v\n%s\n[Peer]\nPublicKey = %v\nPresharedKey = %v\n%s\n",
		l.Client.PrivateKey, iface, l.Client.Server, l.Client.PresharedKey, peer)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpRoutes(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		const both = "10.64.0.2/32, fd64::2/128"
		for _, tt := range []struct{ name, addresses, allowed, v4, v6 string }{
			{"whole", both, "0.0.0.0/0, ::/0", "default", "fd64::2 default"},
			{"halves", both, "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1", "default", "fd64::2 default"},
			{"partial", both, "10.64.0.0/16, 203.0.113.0/24, 2001:db8:7::/48", "10.64.0.0/16 203.0.113.0/24", "fd64::2 2001:db8:7::/48"},
			{"v4only", "10.64.0.2/32", "0.0.0.0/0, ::/0", "default", ""},
			{"v6only", "fd64::2/128", "0.0.0.0/0, ::/0", "", "fd64::2 default"},
			{"subnet", "10.64.0.2/24", "10.0.0.0/8", "10.64.0.0/24 10.0.0.0/8", ""},
		} {
			t.Run(tt.name, func(t *testing.T) {
				l.do(t, "up", l.write(t, tt.name, "Address = "+tt.addresses, "AllowedIPs = "+tt.allowed+"\nEndpoint = "+l.Client.Endpoint))
				jail := w.Open(t, tt.name)
				for flag, want := range map[string]string{"-4": tt.v4, "-6": tt.v6} {
					got := destinations(jail.Run(t, "ip", flag, "route", "show", "dev", tt.name))
					if wanted := strings.Fields(want); !slices.Equal(got, sorted(wanted)) {
						t.Errorf("routes %s are %q, want %q", flag, got, wanted)
					}
				}
				l.do(t, "down", tt.name)
			})
		}
	})
}

func sorted(words []string) []string {
	slices.Sort(words)
	return words
}

// destinations returns the first word of each line, sorted.
func destinations(routes string) []string {
	var list []string
	for line := range strings.Lines(routes) {
		if f := strings.Fields(line); len(f) > 0 {
			list = append(list, f[0])
		}
	}
	return sorted(list)
}

// A family that the tunnel does not have fails at once, everywhere but on lo.
func TestUpWithOneFamily(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for _, tt := range []struct {
			name, address string
			works         string
			dark          []string
		}{
			{"four", "10.64.0.2/32", world.InternetV4, []string{world.InternetV6, world.HostV6, "fe80::1%four", "ff02::1%four", "fd64::1"}},
			{"six", "fd64::2/128", world.InternetV6, []string{world.InternetV4, world.HostV4, "169.254.1.1", "224.0.0.1", "10.64.0.1"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				l.do(t, "up", l.write(t, tt.name, "Address = "+tt.address, "AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = "+l.Client.Endpoint))
				jail := w.Open(t, tt.name)
				if err := echo(jail, "tcp", net.JoinHostPort(tt.works, "7"), "hello"); err != nil {
					t.Error(err)
				}
				if tt.name == "four" {
					if got := jail.Run(t, "cat", "/proc/sys/net/ipv6/conf/four/disable_ipv6"); got != "1\n" {
						t.Errorf("disable_ipv6 is %q", got)
					}
				}
				for _, addr := range tt.dark {
					if err := sendUDP(jail, netip.MustParseAddr(addr)); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
						t.Errorf("a datagram to %s: %v, want that the network is unreachable", addr, err)
					}
				}
				l.do(t, "down", tt.name)
			})
		}
	})
}

// sendUDP sends a datagram from a node without binding or connecting first. A
// zone is a name in the node.
func sendUDP(from *world.Node, to netip.Addr) error {
	return from.Do(func() error {
		var at unix.Sockaddr = &unix.SockaddrInet4{Port: 4000, Addr: [4]byte(to.AsSlice()[:4])}
		family := unix.AF_INET
		if to.Is6() {
			six := &unix.SockaddrInet6{Port: 4000, Addr: to.As16()}
			if zone := to.Zone(); zone != "" {
				link, err := net.InterfaceByName(zone)
				if err != nil {
					return err
				}
				six.ZoneId = uint32(link.Index)
			}
			at, family = six, unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("probe"), 0, at)
	})
}
