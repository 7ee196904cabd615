package jail

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// addAddressList adds the elements of an Address line, which commas, spaces or
// both may separate.
func (p *configParser) addAddressList(_ *configKey, value, _ string) error {
	elements := splitList(value)
	if len(elements) == 0 {
		return hint.Wrap(p.errorf("Address has no value"), "write the address that the provider gave, as in Address = 10.64.1.2/32")
	}
	for _, element := range elements {
		prefix, problem := parseInterfaceAddress(element)
		if problem != "" {
			return hint.Wrap(p.errorf("Address%s: %s", quoted(element), problem),
				"write addresses with commas between them, as in Address = 10.64.1.2/32, fd00::2/128")
		}
		if p.seen[prefix] {
			p.warnf("Address %s is there twice: once is enough", prefix)
			continue
		}
		p.seen[prefix] = true
		p.cfg.Addresses = append(p.cfg.Addresses, prefix)
	}
	return nil
}

// parseInterfaceAddress takes what ip-address(8) takes after wg-quick's split,
// without the shorthands that it completes or reads as octal.
func parseInterfaceAddress(s string) (prefix netip.Prefix, problem string) {
	if host, mask, ok := strings.Cut(s, "/"); ok && strings.Contains(mask, ".") {
		bits, ok := maskBits(mask)
		if !ok {
			return netip.Prefix{}, "what follows / is neither a length nor a netmask"
		}
		s = host + "/" + strconv.Itoa(bits)
	}
	prefix, problem = parseCIDR(s)
	if problem != "" {
		return prefix, problem
	}
	switch a := prefix.Addr(); {
	case a.IsUnspecified():
		return prefix, "this is no address of an interface"
	case a.IsLoopback():
		return prefix, "a loopback address cannot be the tunnel's"
	case a.IsMulticast():
		return prefix, "a multicast address cannot be the tunnel's"
	}
	return prefix, ""
}

// maskBits returns the length that an IPv4 netmask stands for.
func maskBits(mask string) (int, bool) {
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() {
		return 0, false
	}
	for bits := range 33 {
		if p, _ := netip.MustParseAddr("255.255.255.255").Prefix(bits); p.Addr() == m {
			return bits, true
		}
	}
	return 0, false
}

// addDNS adds the elements of a DNS line. To wg-quick, what has only digits
// and dots, or a colon, is a server, and all else is a search domain.
func (p *configParser) addDNS(k *configKey, value, _ string) error {
	elements := splitList(value)
	if len(elements) == 0 {
		p.warnEmpty(k)
	}
	for _, element := range elements {
		if !strings.Contains(element, ":") && strings.Trim(element, "0123456789.") != "" {
			if !isDomain(element) {
				return p.badDomain(element)
			}
			p.cfg.Search = append(p.cfg.Search, element)
			continue
		}
		server, err := netip.ParseAddr(element)
		if err != nil {
			return hint.Wrap(p.errorf("DNS%s is no IP address", quoted(element)),
				"write servers by their addresses, without a port, as in DNS = 10.64.0.1, fd00::53")
		}
		if zone := server.Zone(); zone != "" && zone != p.cfg.Name {
			return hint.Wrap(p.errorf("DNS%s is on an interface that is not in the jail", quoted(element)),
				"the only interface that leads out of this jail is %s: write the address without %%", p.cfg.Name)
		}
		if server.IsLoopback() || server.IsUnspecified() {
			p.warnf("DNS %s: in the jail this is the jail itself, not this host", server)
		}
		p.cfg.DNS = append(p.cfg.DNS, server)
	}
	return nil
}

func (p *configParser) badDomain(element string) error {
	err := p.errorf("DNS%s is neither an IP address nor a domain name", quoted(element))
	if strings.HasPrefix(element, "~") {
		return hint.Wrap(err, "remove it: it is for systemd-resolved, and in a jail all names go to the jail's servers anyway")
	}
	return hint.Wrap(err, "write servers by their addresses and search domains by their names, as in DNS = 10.64.0.1, corp.example")
}

// setMTU takes what IPv4 can work with at all (RFC 791) and a packet can have.
func (p *configParser) setMTU(k *configKey, value, _ string) error {
	if value == "" {
		p.cfg.MTU, p.mtuLine = 0, 0
		p.warnEmpty(k)
		return nil
	}
	mtu, err := strconv.ParseUint(value, 10, 16)
	if err != nil || mtu < 68 {
		return hint.Wrap(p.errorf("MTU%s is no number of bytes from 68 to 65535", quoted(value)),
			"write the provider's number, or remove the line: then it is found out")
	}
	p.cfg.MTU, p.mtuLine = int(mtu), p.line
	return nil
}

// ignoreTable: a jail has one routing table, and all of it is the tunnel's.
func (p *configParser) ignoreTable(_ *configKey, _, _ string) error {
	p.warnf("Table has no effect in a jail")
	return nil
}

// ignoreSaveConfig: wgjail never writes into a configuration.
func (p *configParser) ignoreSaveConfig(_ *configKey, value, _ string) error {
	if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
		return hint.Wrap(p.errorf("SaveConfig%s is neither true nor false", quoted(value)), "remove the line: it has no effect in a jail")
	}
	p.warnf("SaveConfig has no effect in a jail")
	return nil
}

// addHook keeps a hook with its comments, as wg-quick does since 1.0.20250521:
// a # may be part of the command, and the shell knows which.
func (p *configParser) addHook(k *configKey, value, verbatim string) error {
	if value == "" && verbatim == "" {
		p.warnEmpty(k)
		return nil
	}
	list := map[string]*[]string{
		"PreUp": &p.cfg.Hooks.PreUp, "PostUp": &p.cfg.Hooks.PostUp,
		"PreDown": &p.cfg.Hooks.PreDown, "PostDown": &p.cfg.Hooks.PostDown,
	}[k.name]
	*list = append(*list, verbatim)
	p.warnf("%s would run a command: "+hookWarning, k.name)
	return nil
}

// warnEmpty: wg-quick takes its own keys without a value, and then does nothing.
func (p *configParser) warnEmpty(k *configKey) {
	p.warnf("%s has no value: the line has no effect", k.name)
}

// splitList splits as bash does after commas became spaces.
func splitList(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// isDomain reports whether s can be looked up in the DNS: labels of letters,
// digits, - and _ (which real zones have), the last one not a number, since
// that is how wrong IPv4 addresses end.
func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	last := labels[len(labels)-1]
	if rest, ok := strings.CutPrefix(strings.ToLower(last), "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") != ""
	}
	return strings.Trim(last, "0123456789") != ""
}

func notInLabel(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
