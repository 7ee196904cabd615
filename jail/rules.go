package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// tableName is the one table in the jail. All of it is ours.
const tableName = "wgjail"

// The rules inside a jail, in nft(8)'s words; they are set over netlink in one
// transaction:
//
//	table inet wgjail {
//	  chain input {                                # who reaches the jail
//	    type filter hook input priority filter
//	    iifname NAME ct state established,related accept
//	    iifname NAME drop                          # the provider, other peers
//	  }
//	  chain output {                               # whom names are asked of
//	    type filter hook output priority filter
//	    oifname lo accept
//	    meta l4proto {tcp,udp} th dport {53,853} goto names
//	  }
//	  chain names {
//	    ip daddr SERVER accept                     # one rule a server
//	    ip6 daddr SERVER accept
//	    reject with icmpx admin-prohibited
//	  }
//	}
func applyRules(ns *netnsx.Namespace, name string, servers []netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()))
	if err != nil {
		return noRules(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	addInput(c, table, name)
	addOutput(c, table, servers)
	if err := c.Flush(); err != nil {
		return noRules(err)
	}
	return nil
}

func noRules(err error) error {
	err = fmt.Errorf("set the firewall rules inside the jail: %w", err)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, os.ErrNotExist) {
		return hint.Wrap(err, "the kernel needs nf_tables and nf_conntrack (modules nf_tables, nft_ct, nft_reject_inet)")
	}
	return err
}

func addInput(c *nftables.Conn, t *nftables.Table, name string) {
	input := c.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	established := []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: native32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native32(0)},
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: input,
		Exprs: concat(link(expr.MetaKeyIIFNAME, name), established, verdict(expr.VerdictAccept))})
	c.AddRule(&nftables.Rule{Table: t, Chain: input,
		Exprs: concat(link(expr.MetaKeyIIFNAME, name), counter(), verdict(expr.VerdictDrop))})
}

func addOutput(c *nftables.Conn, t *nftables.Table, servers []netip.Addr) {
	names := c.AddChain(&nftables.Chain{Name: "names", Table: t})
	output := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: t, Chain: output,
		Exprs: concat(link(expr.MetaKeyOIFNAME, "lo"), verdict(expr.VerdictAccept))})
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, port := range []uint16{53, 853} {
			c.AddRule(&nftables.Rule{Table: t, Chain: output, Exprs: concat(toPort(proto, port),
				[]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: names.Name}})})
		}
	}
	for _, s := range servers {
		c.AddRule(&nftables.Rule{Table: t, Chain: names, Exprs: concat(toAddr(s), verdict(expr.VerdictAccept))})
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: names, Exprs: concat(counter(),
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})})
}

// checkRules reports whether the jail's table is there with all its rules.
func checkRules(ns *netnsx.Namespace, servers []netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()))
	if err != nil {
		return err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	want := map[string]int{"input": 2, "output": 5, "names": len(servers) + 1}
	for _, chain := range chains {
		if chain.Table.Name != tableName {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return err
		}
		if len(rules) == want[chain.Name] {
			delete(want, chain.Name)
		}
	}
	for name := range want {
		return fmt.Errorf("firewall rules inside: chain %s of table %s is not complete", name, tableName)
	}
	return nil
}
