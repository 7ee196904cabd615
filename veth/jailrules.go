package veth

import (
	"net/netip"
	"time"

	"github.com/google/nftables"
)

// The rules in the jail, in nft(8)'s words, for a pair whose jail's end is
// 169.254.9.1, a tunnel with the address 10.64.0.2, and the forwards tcp 8080
// and udp 53. IPv6 has the same rules with its own addresses and set of clients.
// They are set over netlink in one transaction, before the pair is up.
//
//	table inet wgjail-veth {
//	  set in { type mark; counter }        # of each forward, from the clients
//	  set out { type mark; counter }       # and to them
//	  set clients4 { type ipv4_addr . inet_service; size 65535; flags dynamic,timeout; timeout 1d; }
//	  chain raw {                          # whose address is asked for where
//	    type filter hook prerouting priority raw
//	    iifname "host0" ip daddr 169.254.9.1 accept
//	    iifname "host0" counter drop       # (1)
//	    iifname != "lo" ip daddr 169.254.9.1 counter drop                  # (2)
//	  }
//	  chain arrive {
//	    type filter hook prerouting priority mangle
//	    iifname != "host0" accept
//	    ct state new jump new
//	    ct mark @in meta mark set ct mark accept                           # (3)
//	    counter drop
//	  }
//	  chain new {                          # which ports are open: one or two rules a forward
//	    tcp dport 8080 ct mark set 0x57470001
//	    meta nfproto ipv4 meta l4proto udp udp dport 53 update @clients4 { ip saddr . udp dport } ct mark set 0x57470002
//	  }
//	  chain service {
//	    type nat hook prerouting priority dstnat
//	    iifname "host0" meta nfproto ipv4 dnat ip to 10.64.0.2             # (4)
//	  }
//	  chain answer {
//	    type route hook output priority mangle
//	    ct mark & 0xffff0000 == 0x57470000 meta mark set ct mark           # (5)
//	  }
//	  chain leave {
//	    type filter hook postrouting priority filter
//	    oifname "host0" ct mark @out accept                                # (6)
//	    oifname "host0" counter drop
//	    ip daddr . udp sport @clients4 counter drop                        # (7)
//	  }
//	}
//
//	(1) the host and the LAN reach no other address of the jail: not the
//	    tunnel's (CVE-2019-14899), no broadcast, no multicast
//	(2) only where that is an address of the jail (isLocal): the tunnel does not reach the pair's address, and so no connection of a
//	    client whose address its other end pretends to have
//	(3) the mark makes the way back a known one: rp_filter asks with it
//	    (src_valid_mark), and accepted TCP sockets keep it (tcp_fwmark_accept)
//	(4) the service sees itself addressed where it would answer from: a UDP
//	    socket that is bound to no address answers from the one that the route to
//	    the client has, the tunnel's. Services that listen at that address only
//	    are reached as well
//	(5) and answers take the way that the mark tells: the routing table 22343
//	(6) nothing else leaves for the host: no new connection, whoever opens it and
//	    whatever socket options and routes it has
//	(7) a UDP service that speaks to a client again when the connection is long
//	    forgotten would speak through the tunnel, and tell the provider the
//	    client's address; TCP sockets have the mark

const (
	setIn  = "in"
	setOut = "out"

	// clientMemory is how long a UDP client is remembered, and maxClients how
	// many are: when there are too many, new ones are not let in.
	clientMemory = 24 * time.Hour
	maxClients   = 65535
)

func clientSet(v6 bool) string {
	if v6 {
		return "clients6"
	}
	return "clients4"
}

// A jailChain is a chain of the table in the jail.
type jailChain struct {
	name  string
	kind  nftables.ChainType // "": entered from other chains only
	hook  *nftables.ChainHook
	prio  *nftables.ChainPriority
	rules []phrase
}

// jailChains returns the chains that a pair has whatever is forwarded. services
// are the addresses of (4), one of each family; an invalid one stands for the
// pair's own.
func jailChains(sides []side, services []netip.Addr) []jailChain {
	raw := jailChain{name: "raw", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityRaw}
	service := jailChain{name: "service", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityNATDest}
	leave := jailChain{name: "leave", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, prio: nftables.ChainPriorityFilter, rules: []phrase{
		say(toLink(innerLink), connectionMarkIn(setOut), accept()),
		say(toLink(innerLink), counter(), drop()),
	}}
	for _, s := range sides {
		raw.rules = append(raw.rules, say(fromLink(innerLink), toAddr(s.inner), accept()))
	}
	raw.rules = append(raw.rules, say(fromLink(innerLink), counter(), drop()))
	for i, s := range sides {
		if isLocal(s, services[i]) {
			raw.rules = append(raw.rules, say(notFromLink("lo"), toAddr(s.inner), counter(), drop()))
		}
		if services[i] != s.inner {
			service.rules = append(service.rules, say(fromLink(innerLink), ofFamily(s.v6), redirectTo(services[i])))
		}
		leave.rules = append(leave.rules, say(toClient(s.v6), counter(), drop()))
	}
	return []jailChain{
		{name: "new"},
		raw,
		{name: "arrive", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityMangle, rules: []phrase{
			say(notFromLink(innerLink), accept()),
			say(newConnection(), jump("new")),
			say(connectionMarkIn(setIn), markPacket(), accept()),
			say(counter(), drop()),
		}},
		service,
		{name: "answer", kind: nftables.ChainTypeRoute, hook: nftables.ChainHookOutput, prio: nftables.ChainPriorityMangle, rules: []phrase{
			say(connectionMarked(), markPacket()),
		}},
		leave,
	}
}

// newRules are the rules of the chain "new" for a forward.
func (f Forward) newRules(sides []side, index uint16) []phrase {
	mark := markConnection(markBase | uint32(index))
	ports := toPorts(f.Network, f.Target, f.targetLast())
	if f.Network == "tcp" {
		return []phrase{say(ports, mark)}
	}
	var rules []phrase
	for _, s := range sides {
		rules = append(rules, say(ofFamily(s.v6), ports, rememberClient(s.v6), mark))
	}
	return rules
}
