package veth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// tables are the tables that have rules of ours, in the order in which those
// are set: what drops comes before what redirects.
var tables = []string{"mangle", "filter", "nat"}

// A script is input for iptables-restore --noflush: all of it takes effect or,
// within a table, none.
type script struct {
	n     names
	lines map[string][]string // by table
}

func (s *script) add(table, format string, args ...any) {
	if s.lines == nil {
		s.lines = map[string][]string{}
	}
	s.lines[table] = append(s.lines[table], fmt.Sprintf(format, args...))
}

// text returns the input, with the tables in the given order, or "".
func (s *script) text(order []string) string {
	var b strings.Builder
	for _, table := range order {
		if len(s.lines[table]) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", table, strings.Join(s.lines[table], "\n"))
		}
	}
	return b.String()
}

// setup returns the input that turns have into want, or "" if it is so already.
// Chains and rules that are there are left alone, with their counters.
func (n names) setup(want []chain, have snapshot) string {
	s := &script{n: n}
	for _, c := range want {
		if n.incomplete(c, have) {
			s.add(c.table, ":%s - [0:0]", c.name) // makes it, or empties it
		}
	}
	for _, c := range want {
		there := n.ids(have[c.table][c.name])
		if n.incomplete(c, have) {
			there = nil
		}
		for _, r := range c.rules {
			if !slices.Contains(there, r.id) {
				s.add(c.table, "-A %s %s", c.name, r.spec(n))
			}
		}
		for _, e := range c.entries {
			lines, exists := have[c.table][e.chain]
			if !exists && e.optional || n.enters(lines, c.name) > 0 {
				continue
			}
			s.add(c.table, "-I %s 1 %s", e.chain, rule{match: e.match, target: c.name}.spec(n))
		}
	}
	return s.text(tables)
}

// note changes have as the input of setup changes the tables.
func (n names) note(want []chain, have snapshot) {
	for _, c := range want {
		if have[c.table] == nil {
			have[c.table] = map[string][]string{}
		}
		chains := have[c.table]
		if n.incomplete(c, have) {
			chains[c.name] = nil
		}
		for _, r := range c.rules {
			if !slices.Contains(n.ids(chains[c.name]), r.id) {
				chains[c.name] = append(chains[c.name], fmt.Sprintf("-A %s %s", c.name, r.spec(n)))
			}
		}
		for _, e := range c.entries {
			if lines, exists := chains[e.chain]; (exists || !e.optional) && n.enters(lines, c.name) == 0 {
				chains[e.chain] = append([]string{fmt.Sprintf("-A %s %s", e.chain, rule{match: e.match, target: c.name}.spec(n))}, lines...)
			}
		}
	}
}

// incomplete reports whether the chain must be made, or made anew: only a chain
// whose rules are all known may be emptied.
func (n names) incomplete(c chain, have snapshot) bool {
	lines, exists := have[c.table][c.name]
	if !exists || c.open {
		return !exists
	}
	var want []string
	for _, r := range c.rules {
		want = append(want, r.id)
	}
	return len(lines) != len(want) || !slices.Equal(n.ids(lines), want)
}

// check says what have lacks of want.
func (n names) check(want []chain, have snapshot) []string {
	var lacks []string
	said := map[string]bool{}
	there := map[string]map[string]bool{} // by chain: a list of forwards has the same ones again and again
	say := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !said[text] {
			said[text] = true
			lacks = append(lacks, text)
		}
	}
	for _, c := range want {
		lines, exists := have[c.table][c.name]
		if !exists {
			say("chain %s of table %s", c.name, c.table)
			continue
		}
		key := c.table + " " + c.name
		if there[key] == nil {
			there[key] = map[string]bool{}
			for _, id := range n.ids(lines) {
				there[key][id] = true
			}
		}
		for _, r := range c.rules {
			if !there[key][r.id] {
				say("rule %q in chain %s of table %s", r.id, c.name, c.table)
			}
		}
		if !c.open && n.incomplete(c, have) {
			say("the order of chain %s of table %s", c.name, c.table)
		}
		for _, e := range c.entries {
			if l, exists := have[c.table][e.chain]; n.enters(l, c.name) == 0 && (exists || !e.optional) {
				say("the way from chain %s to %s in table %s", e.chain, c.name, c.table)
			}
		}
	}
	return lacks
}

// teardown returns the input that removes all that is the jail's from some
// tables, or "".
func (n names) teardown(have snapshot, from ...string) string {
	s := &script{n: n}
	for _, table := range from {
		chains := have[table]
		names := slices.Sorted(maps.Keys(chains))
		for _, name := range names {
			for _, line := range chains[name] {
				if _, ours := n.idOf(line); ours && !strings.HasPrefix(name, n.chains) {
					s.add(table, "%s", strings.Replace(line, "-A ", "-D ", 1))
				}
			}
		}
		for _, verb := range []string{"-F", "-X"} { // they lead into each other
			for _, name := range names {
				if strings.HasPrefix(name, n.chains) && !n.isForeign(name, chains[name]) {
					s.add(table, "%s %s", verb, name)
				}
			}
		}
	}
	return s.text(from)
}

// forget returns the input that removes the forwards with these IDs. A list of
// clients that no forward uses any more goes with the last one. Rules are named
// by their number: iptables does not always know its own spelling again.
func (n names) forget(ids []string, have snapshot) string {
	s := &script{n: n}
	nat := have["nat"]
	remove := func(chain string, which func(line string) bool) (left int) {
		lines := nat[chain]
		left = len(lines)
		for i := len(lines) - 1; i >= 0; i-- { // backwards: numbers move up
			if which(lines[i]) {
				s.add("nat", "-D %s %d", chain, i+1)
				left--
			}
		}
		return left
	}
	var empty []string
	for _, name := range slices.Sorted(maps.Keys(nat)) {
		if !n.isGroup(name) && name != n.chain("from") {
			continue
		}
		left := remove(name, func(line string) bool {
			id, ours := n.idOf(line)
			return ours && slices.Contains(ids, id)
		})
		if left == 0 && n.isGroup(name) {
			empty = append(empty, name)
		}
	}
	remove(n.chain("allow"), func(line string) bool { return slices.Contains(empty, target(line)) })
	for _, name := range empty {
		s.add("nat", "-X %s", name)
	}
	return s.text(tables)
}
