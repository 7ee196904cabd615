package jail

import (
	"strconv"
	"strings"
	"time"

	"github.com/wgjail/wgjail/internal/hint"
)

// A configKey is a name that may stand before "=", in any case.
type configKey struct {
	name    string
	section configSection
	// Exactly one is set: wg gets a value without any white space, never empty;
	// quick gets one without comment, and the same with it, both trimmed.
	wg    func(p *configParser, value string) error
	quick func(p *configParser, k *configKey, value, verbatim string) error
}

// findConfigKey returns the key called name, or nil.
func findConfigKey(name string) *configKey {
	for i := range configKeys {
		if k := &configKeys[i]; len(k.name) == len(name) && strings.EqualFold(k.name, name) {
			return k
		}
	}
	return nil
}

// configKeys are those of wg(8), then those that wg-quick(8) takes for itself.
var configKeys = [...]configKey{
	{name: "PrivateKey", section: interfaceSection, wg: (*configParser).setPrivateKey},
	{name: "ListenPort", section: interfaceSection, wg: (*configParser).setListenPort},
	{name: "FwMark", section: interfaceSection, wg: (*configParser).setFirewallMark},
	{name: "PublicKey", section: peerSection, wg: (*configParser).setPublicKey},
	{name: "PresharedKey", section: peerSection, wg: (*configParser).setPresharedKey},
	{name: "Endpoint", section: peerSection, wg: (*configParser).setEndpoint},
	{name: "AllowedIPs", section: peerSection, wg: (*configParser).addAllowedIPs},
	{name: "PersistentKeepalive", section: peerSection, wg: (*configParser).setKeepalive},

	{name: "Address", section: interfaceSection, quick: (*configParser).addAddressList},
	{name: "DNS", section: interfaceSection, quick: (*configParser).addDNS},
	{name: "MTU", section: interfaceSection, quick: (*configParser).setMTU},
	{name: "Table", section: interfaceSection, quick: (*configParser).ignoreTable},
	{name: "SaveConfig", section: interfaceSection, quick: (*configParser).ignoreSaveConfig},
	{name: "PreUp", section: interfaceSection, quick: (*configParser).addHook},
	{name: "PostUp", section: interfaceSection, quick: (*configParser).addHook},
	{name: "PreDown", section: interfaceSection, quick: (*configParser).addHook},
	{name: "PostDown", section: interfaceSection, quick: (*configParser).addHook},
}

const keyHint = "a key is 44 characters of base64, the last one =: copy it whole from the provider's file"

func (p *configParser) setPrivateKey(value string) error {
	k, ok := parseKey(value)
	if !ok {
		return hint.Wrap(p.errorf("PrivateKey is not a key"), keyHint)
	}
	p.cfg.PrivateKey, p.privateKeyLine = NewSecret(k), p.line
	return nil
}

func (p *configParser) setPublicKey(value string) error {
	k, ok := parseKey(value)
	if !ok {
		return hint.Wrap(p.errorf("PublicKey is not a key"), keyHint)
	}
	p.peer().PublicKey, p.publicKeyLine = k, p.line
	return nil
}

func (p *configParser) setPresharedKey(value string) error {
	k, ok := parseKey(value)
	if !ok {
		return hint.Wrap(p.errorf("PresharedKey is not a key"), keyHint+"; remove the line if there is none")
	}
	p.peer().PresharedKey = NewSecret(k)
	return nil
}

func (p *configParser) setListenPort(value string) error {
	port, ok := parsePort(value)
	if !ok {
		return hint.Wrap(p.errorf("ListenPort%s is no port", quoted(value)), portHint)
	}
	p.cfg.ListenPort = int(port)
	return nil
}

// setFirewallMark takes off, decimal (never octal) and 0x, in small letters
// only, as wg does.
func (p *configParser) setFirewallMark(value string) error {
	digits, base := value, 10
	if strings.EqualFold(value, "off") {
		digits = "0"
	} else if rest, ok := strings.CutPrefix(value, "0x"); ok {
		digits, base = rest, 16
	}
	mark, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return hint.Wrap(p.errorf("FwMark%s is no mark", quoted(value)),
			"write off, a number up to 4294967295, or one in hexadecimal such as 0xca6c")
	}
	p.cfg.FirewallMark = int(mark)
	return nil
}

func (p *configParser) setKeepalive(value string) error {
	if strings.EqualFold(value, "off") {
		value = "0"
	}
	seconds, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return hint.Wrap(p.errorf("PersistentKeepalive%s is no number of seconds", quoted(value)),
			"write off or a number from 0 to 65535 without a unit, such as 25")
	}
	p.peer().Keepalive = time.Duration(seconds) * time.Second
	return nil
}

// addAllowedIPs adds a line's prefixes. A list is whole or the file is refused,
// so there is nothing that + and - could add to or take from.
func (p *configParser) addAllowedIPs(value string) error {
	peer := p.peer()
	for element := range strings.SplitSeq(value, ",") {
		if element == "" {
			return hint.Wrap(p.errorf("AllowedIPs has a comma too many"), "write it as in AllowedIPs = 0.0.0.0/0, ::/0")
		}
		if element[0] == '+' || element[0] == '-' {
			return hint.Wrap(p.errorf("AllowedIPs%s: + and - change the list of a running tunnel, and a jail starts without one", quoted(element)),
				"write all networks of the peer without + or -")
		}
		prefix, problem := parseCIDR(element)
		if problem != "" {
			return hint.Wrap(p.errorf("AllowedIPs%s: %s", quoted(element), problem),
				"write networks with commas between them, as in AllowedIPs = 0.0.0.0/0, ::/0")
		}
		masked := prefix.Masked()
		if masked != prefix {
			p.warnf("AllowedIPs %s has host bits set: %s is used", prefix, masked)
		}
		peer.AllowedIPs = append(peer.AllowedIPs, masked)
	}
	return nil
}

func (p *configParser) setEndpoint(value string) error {
	e, advice, err := parseEndpoint(value)
	if err != nil {
		return hint.Wrap(p.errorf("Endpoint%s: %v", quoted(value), err), "%s", hint.Of(err))
	}
	if advice != "" {
		p.warnf("Endpoint%s: %s", quoted(value), advice)
	}
	p.peer().Endpoint = e
	return nil
}
