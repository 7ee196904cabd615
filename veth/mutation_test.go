package veth_test

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// TestMutations: each rule, switch, address and route that Open and Add make is
// taken away, alone. Then a probe must fail, in one of the states that a host can
// be in; the pair must be reported as broken; and Repair must put it back. So
// nothing is installed that nothing depends on, and every probe for leaks has
// found something once.
func TestMutations(t *testing.T) {
	for _, part := range []struct {
		name   string
		tunnel []string
		list   func(*target) []mutation
	}{
		{"IPv4", tunnel46[:], func(x *target) []mutation { return x.hostRules("iptables") }},
		{"IPv6", tunnel46[:], func(x *target) []mutation { return x.hostRules("ip6tables") }},
		{"Jail", tunnel46[:], func(x *target) []mutation { return x.jailRules() }},
		{"Pair", tunnel46[:], func(x *target) []mutation { return x.pairParts() }},
		{"OnlyIPv4", []string{tunnel4}, func(x *target) []mutation { return x.withoutTunnel() }},
	} {
		t.Run(part.name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				patience = time.Second // what is broken does not answer later either
				x := newTarget(t, w, part.tunnel...)
				x.mutate(part.list(x), catches[part.name])
			})
		})
	}
}

// catches are the probes for leaks that find something in each part of
// TestMutations.
var catches = map[string][]string{
	"IPv4": {"L10 L12 L25", "L12 jail root speaks", "L15 the LAN", "L18 the LAN", "L18 the internet"},
	"IPv6": {"L10 L12 L25", "L12 jail root speaks", "L15 the LAN", "L18 the LAN", "L18 the internet"},
	"Jail": {"L11 L33", "L15 L21 the host asks", "L21 the host reaches", "L21 the exit", "L13 a UDP"},
	"Pair": {"L9", "L21 each end", "L13 a TCP"},
}

type mutation struct {
	name string
	do   func() string // returns a message if it cannot be done
	in   string        // the state that it can be done in; "": any
}

const dockerCameLater = "Docker came later"

// hostStates are what other people's rules can be.
var hostStates = []struct {
	name         string
	enter, leave func(*target)
	spared       string // a probe that cannot succeed
}{
	{"nothing else", func(*target) {}, func(*target) {}, ""},
	{"FORWARD drops", func(x *target) { x.iptables("-P", "FORWARD", "DROP") }, func(x *target) { x.iptables("-P", "FORWARD", "ACCEPT") }, ""},
	{dockerCameLater, (*target).dockerCame, (*target).dockerWent, ""},
	{"no routes in the jail", func(x *target) { x.tunnelRoutes("del") }, func(x *target) { x.tunnelRoutes("add") }, "the tunnel"},
}

// iptables runs a command for both families.
func (x *target) iptables(args ...string) {
	x.host.Run(x.t, "iptables", args...)
	x.host.Run(x.t, "ip6tables", args...)
}

func (x *target) tunnelRoutes(verb string) {
	for _, a := range x.opts.TunnelAddrs {
		x.jail.Run(x.t, "ip", map[bool]string{false: "-4", true: "-6"}[a.Addr().Is6()], "route", verb, "default", "dev", "vpn")
	}
}

// dockerCame is what Docker leaves when it starts, with the kind of rule that its
// manual advises.
func (x *target) dockerCame() {
	x.iptables("-N", "DOCKER-USER")
	x.iptables("-I", "FORWARD", "1", "-j", "DOCKER-USER")
	x.iptables("-A", "DOCKER-USER", "-i", "lan0", "-j", "DROP")
	if err := x.v.Repair(); err != nil {
		x.t.Fatal(err)
	}
	// It puts itself first again with each start.
	x.iptables("-D", "FORWARD", "-j", "DOCKER-USER")
	x.iptables("-I", "FORWARD", "1", "-j", "DOCKER-USER")
}

func (x *target) dockerWent() {
	x.iptables("-D", "FORWARD", "-j", "DOCKER-USER")
	x.iptables("-F", "DOCKER-USER")
	x.iptables("-X", "DOCKER-USER")
}

// firstFailing returns the first probe that fails, and how.
func (x *target) firstFailing(spared string) (probe, error) {
	for _, p := range append(works, never...) {
		if p.name == spared {
			continue
		}
		if err := p.run(x); err != nil {
			return p, err
		}
	}
	return probe{}, nil
}

func (x *target) mutate(list []mutation, catches []string) {
	t := x.t
	if len(list) == 0 {
		t.Fatal("there is nothing to take away")
	}
	caught := map[string]bool{}
	left := list
	for _, s := range hostStates {
		s.enter(x)
		if p, err := x.firstFailing(s.spared); err != nil {
			t.Fatalf("%s: %s: %v", s.name, p.name, err)
		}
		var survived []mutation
		for _, m := range left {
			if m.in != "" && m.in != s.name {
				survived = append(survived, m)
				continue
			}
			if trouble := m.do(); trouble != "" {
				t.Fatalf("%s: %s", m.name, trouble)
			}
			p, err := x.firstFailing(s.spared)
			if err == nil {
				survived = append(survived, m)
			} else {
				caught[p.name] = true
				t.Logf("%s: without %s: %s: %v", s.name, m.name, p.name, err)
			}
			x.mend(m)
		}
		s.leave(x)
		left = survived
	}
	for _, m := range left {
		t.Errorf("without %s nothing is different: why is it there?", m.name)
	}
	for _, name := range catches {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(caught)), func(p string) bool { return strings.HasPrefix(p, name) }) {
			t.Errorf("the probe %q has never found anything", name)
		}
	}
}

// mend wants the mutation to be noticed and repaired.
func (x *target) mend(m mutation) {
	t := x.t
	t.Helper()
	broken, err := x.v.Inspect()
	if err != nil {
		t.Errorf("without %s: Inspect: %v", m.name, err)
	} else if len(broken.Missing) == 0 {
		t.Errorf("without %s nothing is reported as missing", m.name)
	}
	if err := x.v.Repair(); err != nil {
		t.Fatalf("without %s: Repair: %v", m.name, err)
	}
	// Nothing of this mutation is to be found in the next one.
	if err := errors.Join(x.forgetIn(x.host), x.forgetIn(x.jail)); err != nil {
		t.Fatal(err)
	}
	whole, err := x.v.Inspect()
	if err != nil || len(whole.Missing) > 0 {
		t.Fatalf("Repair has not put %s back: %v, %v", m.name, whole, err)
	}
}

// hostRules are the jail's rules in iptables of one family, in the chains of
// others as well. They are found again by what they say: others move.
func (x *target) hostRules(command string) []mutation {
	var list []mutation
	for _, r := range x.savedRules(command) {
		list = append(list, mutation{command + " " + r, func() string {
			table, rule, _ := strings.Cut(r, ": ")
			chain := strings.Fields(rule)[1]
			n := 0
			for _, other := range x.savedRules(command, "all") {
				if !strings.HasPrefix(other, table+": -A "+chain+" ") {
					continue
				}
				n++
				if other == r {
					x.host.Run(x.t, command, "-t", table, "-D", chain, fmt.Sprint(n))
					return ""
				}
			}
			return "there is no such rule"
		}, ""})
	}
	return append(list, mutation{command + " DOCKER-USER", func() string {
		out, err := x.host.Try(x.t, command, "-D", "DOCKER-USER", "1") // ours is the first one
		if err != nil {
			return out
		}
		return ""
	}, dockerCameLater})
}

// savedRules returns "TABLE: -A …" for each rule of the jail, or all rules.
func (x *target) savedRules(command string, all ...string) []string {
	var list []string
	table := ""
	for line := range strings.Lines(quietly(x, x.host, command+"-save")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "*") {
			table = line[1:]
		}
		if strings.HasPrefix(line, "-A ") && (len(all) > 0 || strings.Contains(line, `--comment "wgjail vpn`)) {
			list = append(list, table+": "+line)
		}
	}
	return list
}

var (
	chainLine = regexp.MustCompile(`^\tchain (\w+) \{`)
	ruleLine  = regexp.MustCompile(`^\t\t(.*) # handle (\d+)`)
	markValue = regexp.MustCompile(`0x[0-9a-f]{8}`)
)

// jailRules are the rules in the jail, and the elements of its sets.
func (x *target) jailRules() []mutation {
	var list []mutation
	for _, r := range x.nftRules() {
		list = append(list, mutation{"rule in the jail: " + r[0] + ": " + r[1], func() string {
			for _, now := range x.nftRules() {
				if now[0] == r[0] && now[1] == r[1] {
					x.jail.Run(x.t, "nft", "delete", "rule", "inet", "wgjail-veth", now[0], "handle", now[2])
					return ""
				}
			}
			return "there is no such rule"
		}, ""})
	}
	for _, set := range []string{"in", "out"} {
		for _, mark := range markValue.FindAllString(x.jail.Run(x.t, "nft", "list", "set", "inet", "wgjail-veth", set), -1) {
			list = append(list, mutation{"mark " + mark + " in set " + set, func() string {
				x.jail.Run(x.t, "nft", "delete", "element", "inet", "wgjail-veth", set, "{ "+mark+" }")
				return ""
			}, ""})
		}
	}
	return list
}

// withoutTunnel is what a pair has only where the tunnel lacks a family: IPv6.
func (x *target) withoutTunnel() []mutation {
	sysctl(x.t, x.jail, "net/ipv6/conf/vpn/disable_ipv6", "0") // the pair does not rely on it
	inner := x.sides[1].inner.String()
	list := slices.DeleteFunc(x.jailRules(), func(m mutation) bool { return !strings.Contains(m.name, "!= \"lo\" ip6 daddr "+inner) })
	if len(list) != 1 {
		x.t.Fatalf("%d rules about %s", len(list), inner)
	}
	return append(list, x.run(x.jail, "ip -6 addr del "+inner+"/128 dev host0"))
}

// nftRules returns chain, rule and handle of each rule of the table in the jail.
func (x *target) nftRules() [][3]string {
	var list [][3]string
	chain := ""
	for line := range strings.Lines(quietly(x, x.jail, "nft", "-a", "list", "table", "inet", "wgjail-veth")) {
		if m := chainLine.FindStringSubmatch(line); m != nil {
			chain = m[1]
		} else if m := ruleLine.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[1], "type ") {
			list = append(list, [3]string{chain, counters.ReplaceAllString(m[1], "counter"), m[2]})
		}
	}
	return list
}

var counters = regexp.MustCompile(`counter packets \d+ bytes \d+`)

// run is the mutation that a command makes.
func (x *target) run(n *world.Node, line string) mutation {
	return mutation{n.Name + ": " + line, func() string {
		words := strings.Fields(line)
		if out, err := n.Try(x.t, words[0], words[1:]...); err != nil {
			return out
		}
		return ""
	}, ""}
}

// pairParts are links, addresses, routes and switches.
func (x *target) pairParts() []mutation {
	set := func(n *world.Node, name, value string) mutation {
		return mutation{n.Name + ": " + name + " = " + value, func() string {
			sysctl(x.t, n, name, value)
			return ""
		}, ""}
	}
	list := []mutation{
		set(x.jail, "net/ipv4/tcp_fwmark_accept", "0"),
		set(x.jail, "net/ipv4/conf/host0/src_valid_mark", "0"),
	}
	for _, e := range []struct {
		n    *world.Node
		link string
	}{{x.host, x.outer}, {x.jail, "host0"}} {
		list = append(list,
			mutation{e.n.Name + ": ARP on " + e.link, func() string {
				e.n.Run(x.t, "ip", "link", "set", e.link, "arp", "on")
				for _, s := range x.sides { // they went with it
					addr, mac := s.inner, macOf(x.t, x.jail, "host0")
					if e.n == x.jail {
						addr, mac = s.outer, macOf(x.t, x.host, x.outer)
					}
					e.n.Run(x.t, "ip", "neigh", "replace", addr.String(), "lladdr", mac.String(), "dev", e.link, "nud", "permanent")
				}
				return ""
			}, ""},
			x.run(e.n, "ip link set "+e.link+" down"),
			set(e.n, "net/ipv6/conf/"+e.link+"/disable_ipv6", "1"),
			set(e.n, "net/ipv6/conf/"+e.link+"/addr_gen_mode", "0"))
	}
	for i, s := range x.sides {
		v := []string{"-4", "-6"}[i]
		bits := []string{"/32", "/128"}[i]
		list = append(list,
			x.run(x.host, fmt.Sprintf("ip %s addr del %s%s dev %s", v, s.outer, bits, x.outer)),
			x.run(x.host, fmt.Sprintf("ip %s route del %s dev %s", v, s.inner, x.outer)),
			x.run(x.host, fmt.Sprintf("ip neigh del %s dev %s", s.inner, x.outer)),
			x.run(x.jail, fmt.Sprintf("ip neigh del %s dev host0", s.outer)),
			x.run(x.jail, fmt.Sprintf("ip %s route del default table 22343", v)),
			x.run(x.jail, fmt.Sprintf("ip %s rule del pref 100", v)),
			x.run(x.jail, fmt.Sprintf("ip %s rule del ipproto udp sport 8080 lookup 22343", v)),
		)
		if s.inner.Is4() {
			list = append(list, x.run(x.jail, fmt.Sprintf("ip addr del %s%s dev host0", s.inner, bits)))
		}
		for _, link := range []string{x.outer, "lan0", "wan0"} {
			list = append(list, set(x.host, []string{"net/ipv4/conf/" + link + "/forwarding", "net/ipv6/conf/" + link + "/force_forwarding"}[i], "0"))
		}
	}
	return list
}

// quietly runs a command in the node without logging what it prints.
func quietly(x *target, n *world.Node, name string, args ...string) string {
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.Command(name, args...).Output()
		return err
	})
	if err != nil {
		x.t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}
