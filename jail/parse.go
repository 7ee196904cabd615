package jail

import (
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
)

// maxConfigSize is more than any configuration needs: 65,000 AllowedIPs lines
// take 2 MiB.
const maxConfigSize = 16 << 20

// ParseConfig reads a configuration file as providers hand them out for
// wg-quick(8). The name stands in messages, and its base without ".conf" names
// the jail. Only r is read: no other file, no network, no clock.
//
// The verdict and the meaning are those of wg-quick(8) and of `wg setconf`,
// version 1.0.20260223, except where the file is ambiguous, cannot make a
// working jail or would run commands; the manual lists these cases. As in that
// version, and unlike 1.0.20210914, a hook keeps its # and what follows.
//
// An error names the first line that is wrong, as in "vpn.conf:7: …", and
// carries a hint. Neither errors nor Config.Warnings ever show a key, nor text
// that could be a piece of one.
func ParseConfig(name string, r io.Reader) (*Config, error) {
	p := newConfigParser(name)
	p.cfg.Name = strings.TrimSuffix(filepath.Base(name), ".conf")
	if err := CheckName(p.cfg.Name); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > maxConfigSize {
		return nil, hint.Wrap(fmt.Errorf("%s: larger than %d MiB", name, maxConfigSize>>20),
			"a WireGuard configuration is a page of text: check that this is the right file")
	}
	if err := p.parse(string(data)); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	p.advise()
	return &p.cfg, nil
}

// A configSection is where wg(8) takes a line to stand.
type configSection int

const (
	noSection configSection = iota
	interfaceSection
	peerSection
)

func (s configSection) String() string { return [...]string{"no section", "[Interface]", "[Peer]"}[s] }

// A configParser holds one pass over one file.
type configParser struct {
	file string
	line int // being parsed, from 1
	cfg  Config
	seen map[netip.Prefix]bool // in cfg.Addresses

	section configSection
	// quick: wg-quick(8) takes the line to stand in [Interface]. It is stricter
	// than wg(8) about spaces in the header, and then leaves its keys to wg,
	// which knows none of them.
	quick   bool
	scratch []byte // of clean

	// Lines that later messages point to; 0: there is none.
	interfaceLine, privateKeyLine, mtuLine int
	peerLine, publicKeyLine                int // of the last peer

	owner map[wgtypes.Key]int // line of the public key of each peer
	alike map[string]int      // warnings by their format
	muted int                 // warnings not shown
}

func newConfigParser(file string) *configParser {
	return &configParser{
		file:  file,
		seen:  map[netip.Prefix]bool{},
		owner: map[wgtypes.Key]int{},
		alike: map[string]int{},
	}
}

func (p *configParser) parse(text string) error {
	for line := range strings.Lines(text) {
		p.line++
		if err := p.parseLine(strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
	return p.endPeer()
}

func (p *configParser) parseLine(line string) error {
	if err := p.checkBytes(line); err != nil {
		return err
	}
	text, _, _ := strings.Cut(line, "#")
	clean := p.clean(text)
	switch {
	case clean == "":
		return nil
	case clean[0] == '[':
		return p.header(trimSpace(text), clean)
	}
	// wg-quick looks first. It only trims, so that `Ad dress` is none of its
	// keys; wg deletes all white space, so that `Private Key` is one of its.
	if p.quick {
		name, value, ok := strings.Cut(text, "=")
		if k := findConfigKey(trimSpace(name)); k != nil && k.quick != nil {
			if !ok {
				return p.valueMissing(k)
			}
			_, verbatim, _ := strings.Cut(line, "=")
			return k.quick(p, k, trimSpace(value), trimSpace(verbatim))
		}
	}
	name, value, ok := strings.Cut(clean, "=")
	k := findConfigKey(name)
	switch {
	case k == nil || !ok || k.wg == nil || k.section != p.section:
		return p.unrecognised(k, text, clean)
	case value == "":
		return p.valueMissing(k)
	}
	return k.wg(p, value)
}

// checkBytes refuses what no text file has. wg ends a line at a NUL and
// ignores the rest, so what is seen would not be what is meant.
func (p *configParser) checkBytes(line string) error {
	for i := range len(line) {
		switch c := line[i]; {
		case c == 0:
			return hint.Wrap(p.errorf("the line has a NUL byte"),
				"this is no plain text, or text saved as UTF-16: save it as UTF-8")
		case c == 0x7f || c < ' ' && !isSpace(c):
			return hint.Wrap(p.errorf("the line has the control character %#02x", c),
				"remove it, or save the provider's file again")
		}
	}
	return nil
}

// header starts a section. To wg-quick, `[ Interface ]` is none.
func (p *configParser) header(trimmed, clean string) error {
	var next configSection
	switch {
	case strings.EqualFold(clean, "[Interface]"):
		next = interfaceSection
	case strings.EqualFold(clean, "[Peer]"):
		next = peerSection
	default:
		if name := strings.Trim(clean, "[]"); isPlainWord(name) {
			return hint.Wrap(p.errorf("the section [%s] is unknown", name), "sections are [Interface] and [Peer]")
		}
		return hint.Wrap(p.errorf("the line is no section"), "sections are [Interface] and [Peer]")
	}
	if err := p.endPeer(); err != nil {
		return err
	}
	p.section, p.quick = next, strings.EqualFold(trimmed, "[Interface]")
	if next == interfaceSection && p.interfaceLine == 0 {
		p.interfaceLine = p.line
	}
	if next == peerSection {
		p.cfg.Peers = append(p.cfg.Peers, Peer{})
		p.peerLine, p.publicKeyLine = p.line, 0
	}
	return nil
}

// endPeer checks what can be known about a peer only when its section ends.
func (p *configParser) endPeer() error {
	if p.section != peerSection {
		return nil
	}
	p.section = noSection
	key := p.peer().PublicKey
	switch {
	case p.publicKeyLine == 0:
		return hint.Wrap(p.errorAt(p.peerLine, "this [Peer] has no PublicKey"),
			"add the PublicKey line of the provider's file, or remove the section")
	case key == wgtypes.Key{}:
		return hint.Wrap(p.errorAt(p.publicKeyLine, "PublicKey is all zeros, which stands for no key"),
			"put in the key that the provider gave for this peer")
	case p.owner[key] != 0:
		return hint.Wrap(p.errorAt(p.publicKeyLine, "PublicKey is the same as in line %d: WireGuard would forget the AllowedIPs of the first of the two", p.owner[key]),
			"join both [Peer] sections into one")
	}
	p.owner[key] = p.publicKeyLine
	return nil
}

func (p *configParser) peer() *Peer { return &p.cfg.Peers[len(p.cfg.Peers)-1] }
