package jail

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// check refuses a configuration that wg accepts and that can never make a
// working jail.
func (p *configParser) check() error {
	c := &p.cfg
	switch {
	case p.line == 0:
		return hint.Wrap(p.errorf("the file is empty"), "save the provider's file again")
	case p.interfaceLine == 0:
		return hint.Wrap(p.errorAt(1, "there is no [Interface] section"), "check that the file is a WireGuard configuration, and whole")
	case p.privateKeyLine == 0:
		return hint.Wrap(p.errorAt(p.interfaceLine, "[Interface] has no PrivateKey"), "add the PrivateKey line of the provider's file")
	case c.PrivateKey.IsZero():
		return hint.Wrap(p.errorAt(p.privateKeyLine, "PrivateKey is all zeros, which stands for no key"), "put in the key that the provider gave")
	case len(c.Addresses) == 0:
		return hint.Wrap(p.errorAt(p.interfaceLine, "[Interface] has no Address"), "add the Address line of the provider's file")
	case len(c.Peers) == 0:
		return hint.Wrap(p.errorf("there is no [Peer] section"), "add the server's [Peer] section of the provider's file")
	}
	// Below 1280 the kernel switches IPv6 off on the interface and drops its
	// addresses, so the file asks for what cannot be. Dropping half of it
	// silently is what wg-quick does; whoever relies on that half notices late.
	const leastIPv6MTU = 1280 // RFC 8200, section 5
	if c.MTU != 0 && c.MTU < leastIPv6MTU {
		for _, a := range c.Addresses {
			if a.Addr().Is6() {
				return hint.Wrap(p.errorAt(p.mtuLine, "MTU %d is too small for the IPv6 Address %s, which needs %d", c.MTU, a, leastIPv6MTU),
					"raise MTU to %d, or remove the IPv6 Address", leastIPv6MTU)
			}
		}
	}
	return nil
}

// advise adds the warnings that take the whole file to know.
func (p *configParser) advise() {
	p.adviseDNS()
	p.advisePeers()
	p.adviseReach()
	if p.muted > 0 {
		p.cfg.Warnings = append(p.cfg.Warnings, fmt.Sprintf("%s: %d more warnings of these kinds", p.file, p.muted))
	}
}

func (p *configParser) adviseDNS() {
	c := &p.cfg
	if len(c.DNS) == 0 {
		if len(c.Search) > 0 {
			c.Search = nil
			p.warnAt(p.interfaceLine, "DNS has search domains and no server: they are ignored")
		}
		p.warnAt(p.interfaceLine, "no DNS server is given: names will not resolve inside the jail")
	}
	if n := len(c.DNS); n > 3 {
		p.warnAt(p.interfaceLine, "%d DNS servers are given: glibc uses the first three", n)
	}
	if n := len(c.Search); n > 6 {
		p.warnAt(p.interfaceLine, "%d search domains are given: glibc before 2.26 uses the first six", n)
	}
}

func (p *configParser) advisePeers() {
	own := p.cfg.PrivateKey.Key().PublicKey()
	if line := p.owner[own]; line != 0 {
		p.warnAt(line, "this PublicKey belongs to the PrivateKey of this file: WireGuard ignores such a peer")
	}
	called := false
	for _, peer := range p.cfg.Peers {
		called = called || !peer.Endpoint.IsZero()
	}
	if !called {
		p.warnAt(p.peerLine, "no peer has an Endpoint: the tunnel stays dark until a peer calls")
	}
	if len(p.cfg.Peers) < 2 {
		return
	}
	owner := map[netip.Prefix]int{}
	for i, peer := range p.cfg.Peers {
		for _, a := range peer.AllowedIPs {
			if before, ok := owner[a]; ok && before != i {
				p.warnAt(p.owner[peer.PublicKey], "AllowedIPs %s belongs to more than one peer: the last one gets it", a)
			}
			owner[a] = i
		}
	}
}

// adviseReach says what the jail cannot reach, unless everything of one family
// is allowed, in one piece or in several.
func (p *configParser) adviseReach() {
	total := 0
	for _, peer := range p.cfg.Peers {
		total += len(peer.AllowedIPs)
	}
	reach := make(map[netip.Prefix]bool, total)
	var list []string // the first few
	for _, peer := range p.cfg.Peers {
		for _, a := range peer.AllowedIPs {
			if len(list) < 4 && !reach[a] {
				list = append(list, a.String())
			}
			reach[a] = true
		}
	}
	full := wholeFamilies(reach)
	p.adviseServers(reach, full)
	switch {
	case full[true] || full[false]:
		return
	case len(reach) == 0:
		p.warnAt(p.peerLine, "no peer has AllowedIPs: the jail reaches nothing")
		return
	}
	if more := len(reach) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	p.warnAt(p.peerLine, "AllowedIPs has no default route: the jail reaches only %s", strings.Join(list, ", "))
}

// wholeFamilies is coversAll, which takes its time, where the prefixes are
// large enough together.
func wholeFamilies(reach map[netip.Prefix]bool) map[bool]bool {
	share := map[bool]float64{}
	for a := range reach {
		share[a.Addr().Is4()] += math.Ldexp(1, -a.Bits())
	}
	if max(share[true], share[false]) < 0.999 { // 1, but for rounding
		return nil
	}
	return coversAll(reach)
}

// adviseServers warns of DNS servers, among those that glibc asks, to which
// the tunnel does not lead.
func (p *configParser) adviseServers(reach map[netip.Prefix]bool, full map[bool]bool) {
	for _, server := range p.cfg.DNS[:min(3, len(p.cfg.DNS))] {
		if full[server.Is4()] || server.IsLoopback() || server.IsUnspecified() || server.Zone() != "" {
			continue
		}
		reached := false
		for bits := range server.BitLen() + 1 {
			network, _ := server.Prefix(bits)
			reached = reached || reach[network]
		}
		if !reached {
			p.warnAt(p.interfaceLine, "DNS server %s is in no AllowedIPs: it cannot be reached from the jail", server)
		}
	}
}
