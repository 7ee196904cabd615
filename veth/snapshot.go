package veth

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// A snapshot is what the tables hold: table, chain, and its rules in the form
// "-A CHAIN …". It has all of the jail's own chains, and of the others those
// that rules may lead from.
type snapshot map[string]map[string][]string

// idOf returns the ID in a rule's comment, and whether the rule is the jail's.
func (n names) idOf(line string) (id string, ours bool) {
	_, rest, found := strings.Cut(line, n.mark)
	if !found {
		return "", false
	}
	id, _, closed := strings.Cut(rest, `"`)
	if id == "" {
		return "", closed
	}
	id, _, _ = strings.Cut(id, noteMark)
	return strings.CutPrefix(id, " ")
}

// noteOf returns the note in a rule's comment, or "".
func (n names) noteOf(line string) string {
	if _, ours := n.idOf(line); !ours {
		return ""
	}
	_, note, _ := strings.Cut(line, noteMark)
	note, _, _ = strings.Cut(note, `"`)
	return note
}

// ids returns the IDs of the jail's rules in a chain.
func (n names) ids(lines []string) []string {
	var list []string
	for _, line := range lines {
		if id, ours := n.idOf(line); ours {
			list = append(list, id)
		}
	}
	return list
}

// enters counts the rules among lines that lead into the chain called name.
func (n names) enters(lines []string, name string) int {
	count := 0
	for _, line := range lines {
		if _, ours := n.idOf(line); ours && target(line) == name {
			count++
		}
	}
	return count
}

// target returns the target of a rule.
func target(line string) string {
	_, after, _ := strings.Cut(line, " -j ")
	name, _, _ := strings.Cut(after, " ")
	return name
}

// isForeign reports whether a chain has a name as the jail's have, and rules, but
// none of ours: somebody else made it.
func (n names) isForeign(name string, lines []string) bool {
	return strings.HasPrefix(name, n.chains) && len(lines) > 0 && len(n.ids(lines)) == 0
}

// foreign returns an error about a chain of somebody else's that is in the way.
func (n names) foreign(have snapshot) error {
	for _, table := range tables {
		for _, name := range slices.Sorted(maps.Keys(have[table])) {
			if n.isForeign(name, have[table][name]) {
				return hint.Wrap(fmt.Errorf("chain %s of table %s: its rules are not wgjail's", name, table),
					"give it another name with: iptables -t %s -E %s NAME; or use relay mode, which needs no rule", table, name)
			}
		}
	}
	return nil
}

// isGroup reports whether the chain holds the forwards of one list of clients.
func (n names) isGroup(name string) bool { return strings.HasPrefix(name, n.chain("d")) }

// forwards returns the IDs of the forwards in the tables.
func (n names) forwards(have snapshot) []string {
	var list []string
	for name, lines := range have["nat"] {
		if n.isGroup(name) {
			list = append(list, n.ids(lines)...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// counted is "-c PACKETS BYTES" in a listing.
var counted = regexp.MustCompile(` -c (\d+) (\d+)`)

// packets returns how many packets a listed rule has matched.
func packets(line string) uint64 {
	m := counted.FindStringSubmatch(line)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseUint(m[1], 10, 64)
	return n
}
