package veth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/filelock"
)

// A memory is what a pair's alias says that was changed on the host for it:
//
//	wgjail NAME absent 4mPFT forwards 4/LINK 6/LINK
//
// The pair goes with the jail's namespace, and the alias with it: then the rules
// tell what was. Those that guard them name the links, and the first one of all
// has a note about what was absent.
type memory struct {
	forwards map[bool][]string // links whose forwarding was switched on, for IPv6 or not
	absent   []string          // chains that were not there before; see emptytable.go
}

// parse adds what an alias says.
func (m *memory) parse(alias string) {
	section := ""
	for _, word := range strings.Fields(alias) {
		version, link, isLink := strings.Cut(word, "/")
		switch {
		case word == "forwards" || word == "absent":
			section = word
		case section == "forwards" && isLink:
			if m.forwards == nil {
				m.forwards = map[bool][]string{}
			}
			m.forwards[version == "6"] = append(m.forwards[version == "6"], link)
		case section == "absent" && len(word) > 2:
			m.absent = append(m.absent, word)
		}
	}
}

// add adds another memory.
func (m *memory) add(o memory) {
	if m.forwards == nil {
		m.forwards = map[bool][]string{}
	}
	for v6, links := range o.forwards {
		m.forwards[v6] = append(m.forwards[v6], links...)
	}
	m.absent = append(m.absent, o.absent...)
}

// maxMemory keeps an alias below the length that the kernel takes, 255 (IFALIASZ).
const maxMemory = 220

// alias returns the alias.
func (m memory) alias(n names) string { return strings.TrimSpace(n.alias() + " " + m.text()) }

// text returns as much of the memory as there is room for.
func (m memory) text() string {
	text := ""
	add := func(section string, words []string) {
		for i, word := range words {
			if i == 0 {
				word = section + " " + word
			}
			if len(text)+1+len(word) > maxMemory {
				return
			}
			text = strings.TrimSpace(text + " " + word)
		}
	}
	var links []string
	for _, v6 := range []bool{false, true} {
		for _, link := range m.forwards[v6] {
			links = append(links, map[bool]string{false: "4/", true: "6/"}[v6]+link)
		}
	}
	add("absent", m.absent) // first: links are known otherwise, too
	add("forwards", links)
	return text
}

// remembered returns what the aliases of the host's ends say: this jail's, and all
// others' together.
func remembered(h *netlink.Handle, n names) (mine, others memory, err error) {
	links, err := whole(h.LinkList)
	if err != nil {
		return mine, others, fmt.Errorf("list the host's links: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		switch {
		case a.Name == n.link:
			mine.parse(a.Alias)
		case strings.HasPrefix(a.Name, linkPrefix):
			others.parse(a.Alias)
		}
	}
	return mine, others, nil
}

// lastNote is where the memory is kept while the rules and the pair, which hold it
// otherwise, are removed: without it, a kill would leave empty tables for good.
func (n names) lastNote() string { return filepath.Join(filelock.RunDir, "."+n.jail+".veth") }

// keepNote writes the memory down until dropNote, if there is room for it.
func (d *demolition) keepNote() {
	if text := (memory{d.mine.forwards, joinAbsent(d.mine.absent)}).text(); text != "" {
		os.WriteFile(d.names.lastNote(), []byte(text+"\n"), 0o600)
	}
}

// readNote adds what an earlier demolition wrote down and did not get to the end with.
func (d *demolition) readNote() error {
	text, err := os.ReadFile(d.names.lastNote())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	d.mine.parse(string(text))
	return err
}

func (d *demolition) dropNote() error {
	if err := os.Remove(d.names.lastNote()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// remember writes the alias.
func (v *Veth) remember(m memory) error {
	link, err := v.host.LinkByIndex(v.pair.outer.link.Attrs().Index)
	if err != nil {
		return err
	}
	if alias := m.alias(v.names); link.Attrs().Alias != alias {
		return v.host.LinkSetAlias(link, alias)
	}
	return nil
}
