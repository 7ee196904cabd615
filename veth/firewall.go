package veth

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/nft"
)

// A BlockedError tells that somebody else's firewall drops what is redirected
// into a jail. In netfilter every table has its say, and an accept in one does
// not undo a drop in another.
type BlockedError struct {
	Table string // as nft(8) writes it: "inet filter"; or "filter of iptables-legacy"
	Chain string
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("table %s (chain %s) of this host's firewall drops what is forwarded into jails", e.Table, e.Chain)
}

// with attaches the command that would open the table, for all jails.
func (e *BlockedError) with(format string, args ...any) error {
	return hint.Wrap(e, "open it for jails with: %s; or use relay mode, which needs no rule", fmt.Sprintf(format, args...))
}

// blocked looks for chains that would drop redirected packets: base chains of
// nf_tables at the hook forward, whoever made them, and the other variant's
// iptables. The jail's own rules are in place. A firewall that cannot be read, or
// that is too clever to be followed, is not said to block.
func (v *Veth) blocked() error {
	fw, err := readFirewall()
	if err != nil {
		v.log.Debug("the host's nf_tables cannot be read", "error", err)
		return v.blockedByLegacy()
	}
	defer fw.close()
	for i, v6 := range v.families() {
		for _, chain := range fw.base(v6) {
			in := packet{v6: v6, from: v.someLink(i), to: v.names.link, state: expr.CtStateBitNEW}
			out := packet{v6: v6, from: v.names.link, to: in.from, state: expr.CtStateBitESTABLISHED, reply: true}
			if fw.drops(chain, in) || fw.drops(chain, out) {
				e := &BlockedError{fmt.Sprintf("%s %s", tableFamily(chain.Table.Family), chain.Table.Name), chain.Name}
				return e.with(`nft 'insert rule %s %s iifname "%s*" accept; insert rule %[1]s %[2]s oifname "%[3]s*" ct status dnat accept'`,
					e.Table, e.Chain, linkPrefix)
			}
		}
	}
	return v.blockedByLegacy()
}

// someLink is one that clients come from: "" if there is none yet.
func (v *Veth) someLink(i int) string {
	links, err := v.switches.ingress(v.families()[i])
	if err != nil || len(links) == 0 {
		return ""
	}
	return links[0]
}

// blockedByLegacy looks at iptables-legacy when the rules are not there: its
// tables do not show in nf_tables.
func (v *Veth) blockedByLegacy() error {
	for i, v6 := range v.families() {
		book, ok := v.books[i].(*ipt)
		if !ok || book.variant.legacy || !legacyInUse(v6) {
			continue
		}
		t, err := variant{"-legacy", true}.open(v6)
		if err != nil {
			continue
		}
		text, err := t.save()
		if err != nil {
			continue
		}
		_, filter, _ := strings.Cut(text, "*filter\n")
		filter, _, _ = strings.Cut(filter, "COMMIT")
		if strings.Contains(filter, ":FORWARD DROP ") && !strings.Contains(filter, "-A FORWARD -o "+linkPrefix+"+ ") {
			e := &BlockedError{"filter of " + t.command, "FORWARD"}
			return e.with("%s -I FORWARD -i %s+ -j ACCEPT && %[1]s -I FORWARD -o %[2]s+ -m conntrack --ctstate DNAT -j ACCEPT", t.command, linkPrefix)
		}
	}
	return nil
}

func tableFamily(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

// A firewall is what nf_tables holds, read once.
type firewall struct {
	conn   *nftables.Conn
	chains map[string]*nftables.Chain // by chainKey
	rules  map[string][]*nftables.Rule
}

func readFirewall() (*firewall, error) {
	conn, err := nft.Open(nil)
	if err != nil {
		return nil, err
	}
	fw := &firewall{conn: conn, chains: map[string]*nftables.Chain{}, rules: map[string][]*nftables.Rule{}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			fw.close()
			return nil, err
		}
		for _, c := range chains {
			fw.chains[chainKey(c.Table, c.Name)] = c
		}
	}
	return fw, nil
}

func (fw *firewall) close() { fw.conn.CloseLasting() }

func chainKey(t *nftables.Table, chain string) string {
	return fmt.Sprintf("%d %s %s", t.Family, t.Name, chain)
}

// base returns the base chains that a forwarded packet of the family passes and
// that can drop it.
func (fw *firewall) base(v6 bool) []*nftables.Chain {
	other := nftables.TableFamilyIPv6
	if v6 {
		other = nftables.TableFamilyIPv4
	}
	var list []*nftables.Chain
	for _, c := range fw.chains {
		if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter && c.Table.Family != other {
			list = append(list, c)
		}
	}
	return list
}

// rulesOf returns the rules of a chain; nil if they cannot be read.
func (fw *firewall) rulesOf(c *nftables.Chain) []*nftables.Rule {
	key := chainKey(c.Table, c.Name)
	rules, known := fw.rules[key]
	if !known {
		rules, _ = fw.conn.GetRules(c.Table, c)
		fw.rules[key] = rules
	}
	return rules
}

// elementsOf returns the elements of a set, and whether they could be read and
// are single values.
func (fw *firewall) elementsOf(t *nftables.Table, name string) ([]nftables.SetElement, bool) {
	set, err := fw.conn.GetSetByName(t, name)
	if err != nil || set.Interval || set.Dynamic {
		return nil, false
	}
	elements, err := fw.conn.GetSetElements(set)
	return elements, err == nil
}

// A packet is what is known of a redirected one on its way through the host.
type packet struct {
	v6       bool
	from, to string // links; "" if not known
	state    uint32 // of its connection: one bit
	reply    bool
}

// statusDNAT is the bit of a connection whose destination was changed
// (IPS_DST_NAT).
const statusDNAT = 1 << 5

// field returns the value that an expression loads, if it is known.
func (p packet) field(e expr.Any) ([]byte, bool) {
	switch e := e.(type) {
	case *expr.Meta:
		switch e.Key {
		case expr.MetaKeyIIFNAME:
			return linkName16(p.from), p.from != ""
		case expr.MetaKeyOIFNAME:
			return linkName16(p.to), p.to != ""
		case expr.MetaKeyNFPROTO:
			if p.v6 {
				return []byte{unix.NFPROTO_IPV6}, true
			}
			return []byte{unix.NFPROTO_IPV4}, true
		}
	case *expr.Ct:
		switch e.Key {
		case expr.CtKeySTATE:
			return native32(p.state), true
		case expr.CtKeySTATUS:
			return native32(statusDNAT), false // other bits may be set: see masked
		case expr.CtKeyDIRECTION:
			if p.reply {
				return []byte{1}, true
			}
			return []byte{0}, true
		}
	}
	return nil, false
}
