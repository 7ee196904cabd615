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
	"github.com/wgjail/wgjail/internal/nft"
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
//	    iifname NAME meta nfproto FAMILY meta l4proto {udp,tcp} th dport PORT accept
//	                                               # the provider's port, if there is one
//	    iifname NAME drop                          # the provider, other peers
//	  }
//	  chain output {                               # whom names are asked of
//	    type filter hook output priority filter
//	    oifname lo accept
//	    meta mark 0x57480001 drop                  # see forward_client.go
//	    meta l4proto {tcp,udp} th dport {53,853} goto names
//	  }
//	  chain names {
//	    ip daddr SERVER accept                     # one rule a server
//	    ip6 daddr SERVER accept
//	    meta l4proto tcp reject with tcp reset     # connect(2) takes an ICMP error for a passing one
//	    reject with icmpx admin-prohibited
//	  }
//	}
func applyRules(ns *netnsx.Namespace, s *state, open openPort) error {
	c, err := nft.Open(ns)
	if err != nil {
		return noRules(err)
	}
	defer c.CloseLasting()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	chains := jailChains(s.Name, s.DNS, open)
	for _, chain := range chains { // all first: some rules lead to others
		chain.Table = table
		c.AddChain(&chain.Chain)
	}
	for _, chain := range chains {
		for _, exprs := range chain.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: &chain.Chain, Exprs: exprs})
		}
	}
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

// A jailChain is a chain with its rules in order.
type jailChain struct {
	nftables.Chain
	rules [][]expr.Any
}

// The names of the jail's chains.
const (
	inputChain  = "input"
	outputChain = "output"
	namesChain  = "names"
)

func jailChains(name string, servers []netip.Addr, open openPort) []*jailChain {
	input := jailChain{Chain: hooked(inputChain, nftables.ChainHookInput), rules: [][]expr.Any{
		concat(link(expr.MetaKeyIIFNAME, name), established(), verdict(expr.VerdictAccept)),
	}}
	if open.port != 0 {
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			input.rules = append(input.rules, concat(link(expr.MetaKeyIIFNAME, name), family(open.v6),
				toPort(proto, open.port), verdict(expr.VerdictAccept)))
		}
	}
	input.rules = append(input.rules, concat(link(expr.MetaKeyIIFNAME, name), counter(), verdict(expr.VerdictDrop)))
	output := jailChain{Chain: hooked(outputChain, nftables.ChainHookOutput), rules: [][]expr.Any{
		concat(link(expr.MetaKeyOIFNAME, "lo"), verdict(expr.VerdictAccept)),
		concat(marked(clientMark), counter(), verdict(expr.VerdictDrop)),
	}}
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, port := range namePorts {
			output.rules = append(output.rules, concat(toPort(proto, port),
				[]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: namesChain}}))
		}
	}
	names := jailChain{Chain: nftables.Chain{Name: namesChain}}
	for _, s := range servers {
		names.rules = append(names.rules, concat(toAddr(s), verdict(expr.VerdictAccept)))
	}
	names.rules = append(names.rules,
		concat(over(unix.IPPROTO_TCP), counter(), reset()),
		concat(counter(), reject()))
	return []*jailChain{&input, &output, &names}
}

// namePorts are where name servers listen: plain (RFC 1035), and over TLS, DTLS
// or QUIC (RFC 7858, 8094, 9250).
var namePorts = []uint16{53, 853}

func hooked(name string, hook *nftables.ChainHook) nftables.Chain {
	return nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter}
}
