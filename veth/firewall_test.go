package veth_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// TestFirewalls: L19: with other people's firewalls either everything works, or
// Open says which table is in the way, and the command in its hint opens it.
func TestFirewalls(t *testing.T) {
	for _, x := range []struct {
		name   string
		rules  []string // commands
		blocks string   // "": it works
	}{
		{"FORWARD drops", []string{"iptables -P FORWARD DROP", "ip6tables -P FORWARD DROP"}, ""},
		{"Docker", []string{"sh testdata/docker.sh"}, ""},
		{"ufw", []string{"sh testdata/ufw.sh"}, ""},
		{"firewalld", []string{"nft -f testdata/firewalld.nft"}, ""},
		{"nft accepts", []string{"nft add table inet f { chain c { type filter hook forward priority 10; policy accept; counter; }; }"}, ""},
		{"nft drops", []string{"nft add table inet f { chain c { type filter hook forward priority 0; policy drop; }; }"}, "inet f"},
		{"nft drops early", []string{"nft add table inet f { chain c { type filter hook forward priority -300; policy drop; }; }"}, "inet f"},
		{"nft as in the manual", []string{`nft add table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }; iifname "wan0" oifname "lan0" accept; }; }`}, "inet filter"},
		{"nft jumps to a reject", []string{`nft add table inet f { chain others { reject with icmpx admin-prohibited; }; chain c { type filter hook forward priority 0; policy accept; jump others; }; }`}, "inet f"},
		{"nft drops answers only", []string{`nft add table inet f { chain c { type filter hook forward priority 0; policy accept; oifname "lan0" drop; }; }`}, "inet f"},
		{"nft drops IPv6", []string{"nft add table ip6 f { chain c { type filter hook forward priority 0; policy drop; }; }"}, "ip6 f"},
		{"nft lets what is redirected pass", []string{"nft add table inet f { chain c { type filter hook forward priority 0; policy drop; ct state established,related accept; ct status dnat accept; }; }"}, ""},
		{"nft has a set of links", []string{`nft add table inet f { chain c { type filter hook forward priority 0; policy accept; iifname { "eth7", "eth8" } drop; }; }`}, ""},
		{"the other iptables drops", []string{"iptables -A FORWARD -s 192.0.2.9 -j DROP", "iptables-legacy -P FORWARD DROP", "iptables-legacy -A FORWARD -s 192.0.2.8 -j ACCEPT"}, "filter of"},
	} {
		t.Run(x.name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w, tunnel4, tunnel6)
				serve(t, l.jail, "jail", "tcp", "[::]:8080")
				for _, line := range x.rules {
					run(t, l.host, line)
				}
				before := l.host.Snapshot(t)
				v, err := veth.Open(l.opts)
				if x.blocks != "" {
					var blocked *veth.BlockedError
					if !errors.As(err, &blocked) || !strings.HasPrefix(blocked.Table, x.blocks) {
						t.Fatalf("Open: %v, want table %s to be named", err, x.blocks)
					}
					if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
						t.Errorf("after the error, changed:\n%s", d)
					}
					command := strings.TrimPrefix(hint.Of(err), "open it for jails with: ")
					command, _, ok := strings.Cut(command, "; or use relay")
					if !ok {
						t.Fatalf("hint: %q", hint.Of(err))
					}
					l.host.Run(t, "sh", "-c", command)
					v, err = veth.Open(l.opts)
				}
				if err != nil {
					t.Fatalf("Open: %v", err)
				}
				defer v.Close()
				add(t, v, tcp(8080))
				must(t, l.everywhere("tcp", "8080")...)
			})
		})
	}
}

// run runs a line of words; nft's braces are one word.
func run(t *testing.T, n *world.Node, line string) {
	t.Helper()
	command, args, _ := strings.Cut(line, " ")
	words := strings.Fields(args)
	if command == "nft" && !strings.HasPrefix(args, "-f") {
		words = []string{args}
	}
	n.Run(t, command, words...)
}

// TestLateFirewall: a table that comes while forwards run is spoken of.
func TestLateFirewall(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		v, log := l.watched(t)
		add(t, v, tcp(8080))
		run(t, l.host, "nft add table inet late { chain c { type filter hook forward priority 0; policy drop; }; }")
		world.Eventually(t, "a word about it", func() error {
			if !strings.Contains(log.String(), "table inet late") {
				return errors.New("none yet")
			}
			return nil
		})
	})
}

// TestLegacy: with iptables-legacy, if that holds the host's rules.
func TestLegacy(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		for _, network := range []string{"tcp", "udp"} {
			serve(t, l.jail, "jail", network, "[::]:8080")
		}
		for _, command := range []string{"iptables-legacy", "ip6tables-legacy"} {
			for _, table := range []string{"mangle", "nat"} { // tables stay once they are used
				l.host.Run(t, command, "-t", table, "-S")
			}
			l.host.Run(t, command, "-P", "FORWARD", "DROP")
		}
		before := l.host.Snapshot(t)
		v := l.mustOpen(t)
		add(t, v, tcp(8080), udp(8080), veth.Forward{ID: "m", Network: "tcp", First: 100, Last: 109, Target: 8080, Source: veth.SourceJail},
			veth.Forward{ID: "r", Network: "udp", First: 7000, Last: 7009, Target: 8071})
		must(t, l.everywhere("tcp", "8080")...)
		must(t, l.everywhere("udp", "8080")...)
		must(t, expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "100"), "jail "+outerAddr(t, l, false)),
			expect(l.lan, "udp", net.JoinHostPort(l.hostLAN6, "7009"), "jail "+l.lan6))
		if out := l.host.Run(t, "iptables-save"); strings.Contains(out, "WGJAIL") {
			t.Error("there are rules of ours in iptables-nft")
		}
		l.host.Run(t, "iptables-legacy", "-t", "mangle", "-F")
		if r, err := v.Inspect(); err != nil || len(r.Missing) == 0 {
			t.Errorf("Inspect: %v, %v", r, err)
		}
		if err := v.Repair(); err != nil {
			t.Error(err)
		}
		if err := v.Remove("r"); err != nil {
			t.Error(err)
		}
		must(t, expectNone(l.lan, "udp", net.JoinHostPort(l.hostLAN6, "7009")))
		must(t, l.everywhere("udp", "8080")...)
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("left:\n%s", d)
		}
	})
}

// TestNoIPTables: without iptables there is an error that says what needs none.
func TestNoIPTables(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		hideIPTables(t)
		before := l.host.Snapshot(t)
		_, err := veth.Open(l.opts)
		if !errors.Is(err, veth.ErrNoIPTables) || !strings.Contains(hint.Of(err), "relay") {
			t.Errorf("Open: %v (hint: %s)", err, hint.Of(err))
		}
		if err := veth.Teardown("vpn", l.jail.Namespace); err != nil {
			t.Errorf("Teardown: %v", err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("changed:\n%s", d)
		}
	})
}

// hideIPTables puts something that cannot be run over every iptables.
func hideIPTables(t *testing.T) {
	t.Helper()
	nothing := filepath.Join(t.TempDir(), "nothing")
	if err := os.WriteFile(nothing, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iptables", "iptables-nft", "iptables-legacy", "ip6tables", "ip6tables-nft", "ip6tables-legacy"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mount", "--bind", nothing, path).CombinedOutput(); err != nil {
			t.Fatalf("hide %s: %v: %s", path, err, out)
		}
	}
}

// TestOldKernel: before Linux 6.17 IPv6 has one switch for all links. The host
// goes on believing router advertisements, forwards nothing else, and everything
// is put back.
func TestOldKernel(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "tcp", "[::]:8080")
		serve(t, l.inet, "inet", "tcp", "[::]:8080")
		// A default route as a router advertisement brings it.
		l.host.Run(t, "ip", "-6", "route", "add", "default", "via", "fe80::9", "dev", "wan0", "proto", "ra", "metric", "2000", "expires", "1000")
		sysctl(t, l.host, "net/ipv6/conf/wan0/accept_ra", "1")
		before := stable(l.host.Snapshot(t))
		l.opts = veth.OnOldKernel(l.opts)
		v, v2 := l.mustOpen(t), l.mustOpen(t)
		add(t, v, tcp(8080))
		add(t, v2, tcp(8081))
		must(t, l.everywhere("tcp", "8080")...)
		must(t, expectNone(l.lan, "tcp", "["+inet6+"]:8080"), expectNone(l.lan, "tcp", inet4+":8080"))
		if out := l.host.Run(t, "ip", "-6", "route"); !strings.Contains(out, "proto ra") {
			t.Errorf("the advertised route has gone:\n%s", out)
		}
		for _, name := range []string{"forwarding", "accept_ra"} {
			was := regexp.MustCompile(`ipv6/conf/wan0/` + name + ` = \d`)
			if a, b := was.FindString(before), was.FindString(l.host.Snapshot(t)); a != b || a == "" {
				t.Errorf("%s, was %s", b, a)
			}
		}
		if r, err := v.Inspect(); err != nil || len(r.Missing) > 0 {
			t.Errorf("Inspect: %v, %v", r, err)
		}
		for _, x := range []*veth.Veth{v, v2} {
			must(t, expectNone(l.lan, "tcp", "["+inet6+"]:8080"))
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		if d := world.Diff(before, stable(l.host.Snapshot(t))); d != "" {
			t.Errorf("changed:\n%s", d)
		}
	})
}

// stable leaves out how long routes last.
func stable(snapshot string) string {
	return regexp.MustCompile(`(?i)expires \d+sec|Expires: \d+`).ReplaceAllString(snapshot, "")
}
