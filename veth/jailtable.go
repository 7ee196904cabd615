package veth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/nft"
)

// A jailTable is the table in a jail's namespace.
type jailTable struct {
	conn  *nftables.Conn
	sides []side
	fixed []jailChain
}

// openJailTable opens the table in ns; the caller closes it.
func openJailTable(ns *netnsx.Namespace, sides []side, services []netip.Addr) (*jailTable, error) {
	conn, err := nft.Open(ns)
	if err != nil {
		return nil, rulesError(err)
	}
	return &jailTable{conn, sides, jailChains(sides, services)}, nil
}

func (t *jailTable) close() {
	if t != nil {
		t.conn.CloseLasting()
	}
}

var innerNFT = &nftables.Table{Family: nftables.TableFamilyINet, Name: innerTable}

func marks(name string) *nftables.Set {
	return &nftables.Set{Table: innerNFT, Name: name, KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian, Counter: true}
}

func clients(v6 bool) *nftables.Set {
	addr := nftables.TypeIPAddr
	if v6 {
		addr = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: innerNFT, Name: clientSet(v6), KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetService),
		Concatenation: true, Dynamic: true, HasTimeout: true, Timeout: clientMemory, Size: maxClients}
}

// ensure makes the table, or puts back those of its chains that have been
// changed. Forwards are left as they are.
func (t *jailTable) ensure() error {
	have, err := t.rules()
	if err != nil {
		return err
	}
	if len(t.lacks(have)) == 0 {
		return nil
	}
	c := t.conn
	c.AddTable(innerNFT)
	sets := []*nftables.Set{marks(setIn), marks(setOut)}
	for _, s := range t.sides {
		sets = append(sets, clients(s.v6))
	}
	for _, set := range sets {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	for _, chain := range t.fixed {
		at := c.AddChain(&nftables.Chain{Name: chain.name, Table: innerNFT, Type: chain.kind, Hooknum: chain.hook, Priority: chain.prio})
		if chain.hook == nil {
			continue // its rules are forwards
		}
		if len(have[chain.name]) > 0 {
			c.FlushChain(at)
		}
		for _, r := range chain.rules {
			c.AddRule(&nftables.Rule{Table: innerNFT, Chain: at, Exprs: r.exprs})
		}
	}
	return rulesError(c.Flush())
}

// rules returns the rules of each chain; a chain that is not there has no entry.
func (t *jailTable) rules() (map[string][]*nftables.Rule, error) {
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, rulesError(err)
	}
	have := map[string][]*nftables.Rule{}
	for _, chain := range chains {
		if chain.Table.Name != innerTable {
			continue
		}
		rules, err := t.conn.GetRules(innerNFT, chain)
		if err != nil {
			return nil, rulesError(err)
		}
		have[chain.Name] = rules
	}
	return have, nil
}

// lacks names the chains that are not as they should be. It counts rules: those
// who can change one could also change this process's view.
func (t *jailTable) lacks(have map[string][]*nftables.Rule) []string {
	var list []string
	for _, chain := range t.fixed {
		rules, exists := have[chain.name]
		if !exists || chain.hook != nil && len(rules) != len(chain.rules) {
			list = append(list, fmt.Sprintf("chain %s of table %s in the jail", chain.name, innerTable))
		}
	}
	return list
}

// remove removes the table.
func (t *jailTable) remove() error {
	t.conn.AddTable(innerNFT) // so that there is one to remove
	t.conn.DelTable(innerNFT)
	return rulesError(t.conn.Flush())
}

func rulesError(err error) error {
	if err != nil {
		return fmt.Errorf("firewall rules in the jail: %w", err)
	}
	return nil
}

// ruleID returns the ID of the forward that a rule is for.
func ruleID(r *nftables.Rule) string {
	id, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return strings.TrimRight(id, "\x00")
}

// forwardIDs returns the IDs of the forwards in the table.
func forwardIDs(have map[string][]*nftables.Rule) []string {
	var list []string
	for _, r := range have["new"] {
		list = append(list, ruleID(r))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// rulesOf counts the rules of a forward.
func rulesOf(id string, have map[string][]*nftables.Rule) int {
	count := 0
	for _, r := range have["new"] {
		if ruleID(r) == id {
			count++
		}
	}
	return count
}
