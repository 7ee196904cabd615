package main

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// birthLink is the name under which the kernel's interface of the jail vpn is made.
var birthLink = fmt.Sprintf("wgj%x", sha256.Sum256([]byte("wgjail\x00vpn")))[:15]

// foreignHost are things of somebody else's that have names, marks and numbers like
// wgjail's, where they are in nobody's way.
const foreignHost = `
nft add table inet wgjail '{ chain input { type filter hook input priority 0; tcp dport 9 drop; }; }'
nft add table inet wgjail-veth '{ set in { type mark; }; chain new { ct mark 0x57470001 accept; }; }'
ip rule add fwmark 0x57470000/0xffff0000 lookup 22343 priority 100
ip -6 rule add lookup 22343 priority 40001
ip route add 203.0.113.99/32 via 198.51.100.1 table 22343
iptables -t mangle -N WGJAIL-0000000000-in
iptables -t mangle -A WGJAIL-0000000000-in -j CONNMARK --set-mark 0x57470001
iptables -t mangle -A OUTPUT -p tcp --dport 9 -j WGJAIL-0000000000-in
ip6tables -t nat -N WGJAIL-OTHER
iptables -A FORWARD -m comment --comment 'wgjail vpn2' -p tcp --dport 9 -j DROP
ip netns add vpn2
ip link add host0 type veth peer name vpn
ip link add wgjv0000000000 type veth peer name wgj000000000000
mkdir -p /etc/netns/vpn /etc/netns/vpn2
echo nameserver 9.9.9.9 >/etc/netns/vpn2/resolv.conf
`

// What has names like wgjail's but is in nobody's way stays as it is, in both modes.
func TestForeignThingsStay(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		l.Host.Run(t, "sh", "-ec", foreignHost)
		theirs := func() string {
			return l.Host.Run(t, "sh", "-ec", `nft list table inet wgjail; nft list table inet wgjail-veth
				ip rule; ip -6 rule; ip route show table 22343; iptables -t mangle -S WGJAIL-0000000000-in; iptables -t mangle -S OUTPUT
				ip6tables -t nat -S WGJAIL-OTHER; ip -o link show host0; ip -o link show vpn; ip -o link show wgjv0000000000
				ip -n vpn2 -o link; cat /etc/netns/vpn2/resolv.conf`)
		}
		before, had := l.w.Snapshot(t), theirs()
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		m.forward(t, l, "8080:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		mustGreet(t, l.LAN, "["+world.HostLANV6+"]:8080", "app")
		l.do(t, "status")
		if diff := world.Diff(had, theirs()); diff != "" {
			t.Errorf("beside a forward:\n%s", diff)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// What is in the way of veth mode is refused and left alone, also by down; relay
// mode is not in its way.
func TestForeignThingsRefused(t *testing.T) {
	link := veth.HostLink("vpn")
	chain := "WGJAIL-" + strings.TrimPrefix(link, "wgjv")
	for name, x := range map[string]struct{ script, says, hint string }{
		"link":        {"ip link add " + link + " type bridge", "link " + link + ": a bridge that wgjail did not make", "ip link set " + link + " name NAME"},
		"veth pair":   {"ip link add " + link + " type veth peer name theirs", "link " + link + ": a veth that wgjail did not make", "give it another name with: ip link set "},
		"jail's link": {"ip -n vpn link add host0 type bridge", "link host0 in the jail: a bridge that wgjail did not make", "give it another name with: ip -n vpn link set host0 name NAME"},
		"chain": {fmt.Sprintf("iptables -N %s-fwd; iptables -A %[1]s-fwd -j DROP", chain),
			"chain " + chain + "-fwd of table filter: its rules are not wgjail's", "give it another name with: iptables -t filter -E " + chain + "-fwd NAME"},
		"IPv6 chain": {fmt.Sprintf("ip6tables -t mangle -N %s-in; ip6tables -t mangle -A %[1]s-in -j RETURN", chain),
			"chain " + chain + "-in of table mangle: its rules are not wgjail's", "or use relay mode, which needs no rule"},
	} {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				serve(t, l.up(t), "app", "tcp", "[::]:80")
				l.Host.Run(t, "sh", "-ec", x.script)
				settled(t, "vpn")
				inside := w.Open(t, "vpn")
				snapshot := func() string { return without(w.Snapshot(t)+inside.Snapshot(t), "forward.log") }
				before := snapshot()
				for _, args := range [][]string{{"forward", "--mode", "veth", "8080:80"}, {"forward", "-d", "--mode", "veth", "8080:80"}} {
					l.refused(t, 1, []string{x.says, "hint: ", x.hint}, args...)
					if diff := world.Diff(before, snapshot()); diff != "" {
						t.Errorf("changed by wgjail %s:\n%s", strings.Join(args, " "), diff)
					}
				}
				if s := l.status(t); s.State != "up" {
					t.Errorf("the jail is %s: %q", s.State, s.Missing)
				}
				l.forward(t, "8080:80")
				mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
				theirs := func() string {
					return l.Host.Run(t, "sh", "-c", "ip -o link show "+link+"; iptables -S "+chain+"-fwd; ip6tables -t mangle -S "+chain+"-in; true")
				}
				had := theirs()
				l.do(t, "down", "vpn")
				if diff := world.Diff(had, theirs()); diff != "" {
					t.Errorf("changed by down:\n%s", diff)
				}
			})
		})
	}
}

// A link with the name under which the kernel's interface is made is not touched;
// the userspace backend does not need the name.
func TestForeignBirthLink(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.Host.Run(t, "ip", "link", "add", birthLink, "type", "bridge")
		before := w.Snapshot(t)
		if kernelBackend() {
			l.refused(t, 1, []string{"interface " + birthLink + ": a bridge that wgjail did not make", "hint: give it another name with: ip link set "}, "up", l.conf)
		} else {
			l.up(t)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}
