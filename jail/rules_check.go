package jail

import (
	"fmt"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/nft"
)

// checkRules reports the first chain of the jail's table, out of those named,
// that is not exactly as it was made.
func checkRules(ns *netnsx.Namespace, s *state, open openPort, chains ...string) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	there, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	found := map[string]*nftables.Chain{}
	for _, chain := range there {
		if chain.Table.Name == tableName {
			found[chain.Name] = chain
		}
	}
	wanted := map[string]*jailChain{}
	for _, chain := range jailChains(s.Name, s.DNS, open) {
		wanted[chain.Name] = chain
	}
	for _, chain := range chains {
		if err := wanted[chain].differs(c, found[chain]); err != nil {
			return fmt.Errorf("firewall rules inside: chain %s of table %s %w", chain, tableName, err)
		}
	}
	return nil
}

// differs says in what the chain that is there, or nil, is not as wanted.
func (want *jailChain) differs(c *nftables.Conn, got *nftables.Chain) error {
	if got == nil {
		return fmt.Errorf("is not there")
	}
	if got.Type != want.Type || !reflect.DeepEqual(got.Hooknum, want.Hooknum) || !reflect.DeepEqual(got.Priority, want.Priority) {
		return fmt.Errorf("is not hooked in where it was")
	}
	rules, err := c.GetRules(got.Table, got)
	if err != nil {
		return err
	}
	if len(rules) != len(want.rules) {
		return fmt.Errorf("has %d rules, not %d", len(rules), len(want.rules))
	}
	for i, r := range rules {
		if !reflect.DeepEqual(uncounted(r.Exprs), uncounted(want.rules[i])) {
			return fmt.Errorf("has another rule number %d", i+1)
		}
	}
	return nil
}

// uncounted is the rule as if nothing had met it yet.
func uncounted(rule []expr.Any) []expr.Any {
	var list []expr.Any
	for _, e := range rule {
		if _, ok := e.(*expr.Counter); ok {
			e = &expr.Counter{}
		}
		list = append(list, e)
	}
	return list
}

// dropped returns how many packets a chain of the jail's rules has counted: they
// count what they drop or refuse. The error is os.ErrNotExist if there is no
// such chain.
func (c *checker) dropped(chain string) (packets uint64, err error) {
	conn, err := nft.Open(c.ns)
	if err != nil {
		return 0, err
	}
	defer conn.CloseLasting()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	rules, err := conn.GetRules(table, &nftables.Chain{Table: table, Name: chain})
	if err != nil {
		return 0, err
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if count, ok := e.(*expr.Counter); ok {
				packets += count.Packets
			}
		}
	}
	return packets, nil
}
