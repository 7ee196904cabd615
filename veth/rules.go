package veth

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// The rules on the host, as iptables-save(8) shows them for a jail "vpn" whose
// pair is wgjvH (169.254.9.0) to host0 (169.254.9.1), with two forwards: 8080
// for the local network, and 53/udp at one address for everyone, behind the
// host's own address. H stands for ten hexadecimal digits. Every rule has a
// comment "wgjail vpn …". IPv6 has the same rules with the pair's IPv6 addresses.
//
//	*mangle
//	-A PREROUTING -i wgjvH ! -s 169.254.9.1/32 -j WGJAIL-H-own
//	-A WGJAIL-H-own -i wgjvH ! -s 169.254.9.1/32 -j DROP               # (1)
//	-A PREROUTING -i wgjvH -m conntrack ! --ctstate DNAT -j WGJAIL-H-in
//	-A WGJAIL-H-in -i wgjvH -m conntrack ! --ctstate DNAT -j DROP     # (2)
//	-A PREROUTING ! -i wgjvH -d 169.254.9.1/32 -j WGJAIL-H-past
//	-A WGJAIL-H-past ! -i wgjvH -d 169.254.9.1/32 -j DROP             # (3)
//	-A FORWARD ! -i wgjv+ ! -o wgjv+ -j WGJAIL-H-guard
//	-A WGJAIL-H-guard -i eth0 ! -o wgjv+ -j DROP                      # (4)
//	*filter
//	-A FORWARD -j WGJAIL-H-fwd                                        # (5)
//	-A DOCKER-USER -j WGJAIL-H-fwd
//	-A WGJAIL-H-fwd -i wgjvH -m conntrack --ctstate DNAT -j ACCEPT
//	-A WGJAIL-H-fwd -o wgjvH -m conntrack --ctstate DNAT -j ACCEPT
//	*nat
//	-A PREROUTING -m addrtype --dst-type LOCAL -j WGJAIL-H-to         # (6)
//	-A OUTPUT -m addrtype --dst-type LOCAL -j WGJAIL-H-to
//	-A WGJAIL-H-to -s 127.0.0.0/8 -j RETURN                           # (7)
//	-A WGJAIL-H-to -j WGJAIL-H-allow
//	-A WGJAIL-H-allow -s 192.168.0.0/16 -j WGJAIL-H-d1b2c3d4e         # (8)
//	-A WGJAIL-H-allow -j WGJAIL-H-d5f6a7b8c
//	-A WGJAIL-H-d1b2c3d4e -p tcp --dport 8080 -j DNAT --to-destination 169.254.9.1
//	-A WGJAIL-H-d5f6a7b8c -d 192.168.1.2/32 -p udp --dport 53 -j DNAT --to-destination 169.254.9.1
//	-A POSTROUTING -o wgjvH -j WGJAIL-H-from
//	-A WGJAIL-H-from -p udp -m conntrack --ctorigdstport 53 --ctorigdst 192.168.1.2/32 -j MASQUERADE
//
// Drops are in mangle, before other people's accepts in filter could take
// effect; accepts are in filter, first, before other people's drops. Only
// packets for a chain of mangle enter it: a jump and its comment would cost each
// forwarded packet more than comparisons that fail.
//
//	(1) no other address comes out of the jail: not another connection's, no
//	    link-local one, no other host's
//	(2) nothing comes out of the jail but answers of redirected connections: no
//	    new connection to the host, through the host, or into its connection
//	    table; ICMP errors about those connections pass
//	(3) nobody reaches the jail past the redirection, whatever routes they set
//	(4) eth0 forwards into jails and nowhere else; only for links whose
//	    forwarding was off before (forwarding.go)
//	(5) DOCKER-USER, where there is one, because Docker puts it first in
//	    FORWARD again whenever it starts
//	(6) LOCAL: traffic through the host to others' ports is none of ours
//	(7) IPv6: also -s fe80::/10, which is never forwarded. They reach the
//	    caller's socket, as does who is not allowed
//	(8) a chain for each list of allowed clients, so that a forward is one rule

// A chain is a chain of iptables, with the rules that lead into it.
type chain struct {
	table, name string
	entries     []entry
	rules       []rule // in this order
	open        bool   // there may be more rules, and in any order
}

// An entry is a rule in somebody else's chain, in the first place, that leads
// into ours.
type entry struct {
	chain    string
	match    string
	optional bool // the chain need not exist
}

// A rule is what follows "-A CHAIN", in two parts: the comment goes between.
type rule struct {
	id     string // what its comment says; unique in its chain
	match  string
	target string
	note   string // what its comment says besides
}

// spec returns the rule as iptables-restore(8) reads it.
func (r rule) spec(n names) string {
	comment := n.comment(r.id)
	if r.note != "" {
		comment += noteMark + r.note
	}
	return strings.TrimSpace(fmt.Sprintf("%s -m comment --comment %q -j %s", r.match, comment, r.target))
}

// noteMark is between an ID and a note.
const noteMark = "; "

// A side is the pair as one family sees it.
type side struct {
	v6           bool
	outer, inner netip.Addr // the host's end and the jail's
}

// fixed returns the chains that a pair has whatever is forwarded. guards are
// the links that rule (4) is for; see guardRule. Without any there is no chain for
// them, or, if have has one, an empty one.
func (n names) fixed(s side, guards []string, have snapshot) []chain {
	chains := []chain{
		gate(n.chain("in"), "only answers", fmt.Sprintf("-i %s -m conntrack ! --ctstate DNAT", n.link)),
		gate(n.chain("own"), "own address", fmt.Sprintf("-i %s ! -s %s", n.link, host(s.inner))),
		gate(n.chain("past"), "no way around", fmt.Sprintf("! -i %s -d %s", n.link, host(s.inner))),
	}
	fwd := chain{table: "filter", name: n.chain("fwd"), entries: []entry{{chain: "FORWARD"}, {chain: "DOCKER-USER", optional: true}}, rules: []rule{
		{id: "answers out", match: fmt.Sprintf("-i %s -m conntrack --ctstate DNAT", n.link), target: "ACCEPT"},
		{id: "clients in", match: fmt.Sprintf("-o %s -m conntrack --ctstate DNAT", n.link), target: "ACCEPT"},
	}}
	to := chain{table: "nat", name: n.chain("to"), rules: []rule{
		{id: "not loopback", match: "-s " + loopbackOf(s.v6), target: "RETURN"},
	}}
	for _, hook := range []string{"PREROUTING", "OUTPUT"} {
		to.entries = append(to.entries, entry{chain: hook, match: "-m addrtype --dst-type LOCAL"})
	}
	if s.v6 {
		to.rules = append(to.rules, rule{id: "not link-local", match: "-s fe80::/10", target: "RETURN"})
	}
	to.rules = append(to.rules, rule{id: "who may", target: n.chain("allow")})
	if _, exists := have["mangle"][n.chain("guard")]; exists || len(guards) > 0 {
		guard := chain{table: "mangle", name: n.chain("guard"), entries: []entry{{chain: "FORWARD", match: betweenOthers}}}
		for _, g := range guards {
			guard.rules = append(guard.rules, guardRule(g))
		}
		chains = append(chains, guard)
	}
	return append(chains, fwd, chain{table: "nat", name: n.chain("allow"), open: true}, to)
}

// gate is a chain that packets with the match enter, and are dropped in. Its rule
// asks for the match again: were the way into it ever without, the host would have
// no network left.
func gate(name, id, match string) chain {
	return chain{table: "mangle", name: name, entries: []entry{{chain: "PREROUTING", match: match}},
		rules: []rule{{id: id, match: match, target: "DROP"}}}
}

// everyLink stands for all links in a list of guards.
const everyLink = "*"

// betweenOthers matches what is forwarded neither from nor into a jail.
const betweenOthers = "! -i " + linkPrefix + "+ ! -o " + linkPrefix + "+"

// guardRule is the rule that keeps a link from forwarding to anywhere but jails.
func guardRule(link string) rule {
	if link == everyLink {
		return rule{id: "guard " + link, match: betweenOthers, target: "DROP"}
	}
	return rule{id: "guard " + link, match: fmt.Sprintf("-i %s ! -o %s+", link, linkPrefix), target: "DROP"}
}

// forward returns the chains that f needs in the family of s, with f's rules.
func (n names) forward(f Forward, s side) []chain {
	if !f.in(s.v6) {
		return nil
	}
	sources := f.sources(s.v6)
	if len(sources) == 0 {
		return nil
	}
	group := n.chain("d" + digest(sources))
	allow := chain{table: "nat", name: n.chain("allow"), open: true}
	for _, p := range sources {
		r := rule{id: "from " + p.String(), match: "-s " + p.String(), target: group}
		if p.Bits() == 0 {
			r.match = ""
		}
		allow.rules = append(allow.rules, r.within(group))
	}
	chains := []chain{
		{table: "nat", name: group, open: true, rules: []rule{f.redirect(s)}},
		allow,
	}
	if f.Source == SourceJail {
		chains = append(chains, chain{table: "nat", name: n.chain("from"), open: true,
			entries: []entry{{chain: "POSTROUTING", match: "-o " + n.link}}, rules: []rule{f.masquerade()}})
	}
	return chains
}

// within makes the ID of a jump unique: a source may be in several lists.
func (r rule) within(group string) rule {
	r.id += " to " + group[len(group)-8:]
	return r
}

// redirect is the one rule of a forward: "1,000 ports" are one, too. Where the
// ports differ, those in the jail follow those on the host, so a range has
// iptables' form FIRST-LAST/BASE.
func (f Forward) redirect(s side) rule {
	r := rule{id: f.ID, match: fmt.Sprintf("-p %s -m %[1]s --dport %s", f.Network, ports(f.First, f.Last))}
	if !f.everywhere() {
		r.match = fmt.Sprintf("-d %s %s", host(f.Listen), r.match)
	}
	to := s.inner.String()
	switch {
	case f.Target == f.First:
		// The port stays.
	case f.First == f.Last:
		to = netip.AddrPortFrom(s.inner, f.Target).String()
	default:
		to = fmt.Sprintf("%s-%d/%d", netip.AddrPortFrom(s.inner, f.Target), f.targetLast(), f.First)
	}
	r.target = "DNAT --to-destination " + to
	return r
}

// masquerade hides the clients of a forward behind the host's end of the pair.
func (f Forward) masquerade() rule {
	r := rule{id: f.ID, match: fmt.Sprintf("-p %s -m conntrack --ctorigdstport %s", f.Network, ports(f.First, f.Last)), target: "MASQUERADE"}
	if !f.everywhere() {
		r.match += " --ctorigdst " + host(f.Listen)
	}
	return r
}

func ports(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d:%d", first, last)
}

func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

func loopbackOf(v6 bool) string {
	if v6 {
		return "::1/128"
	}
	return "127.0.0.0/8"
}

// digest names a list of sources.
func digest(sources []netip.Prefix) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(sources)))
	return hex.EncodeToString(sum[:4])
}
