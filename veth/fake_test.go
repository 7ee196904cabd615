package veth

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A fakeBook is iptables in memory.
type fakeBook struct{ have snapshot }

// The rules of others that every fakeBook has; one is of a jail whose name begins
// like that of the tests' jail.
const canaries = `*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A PREROUTING -i eth7 -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "wgjail vpn2" -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:WGJAIL-0000000000-to - [0:0]
-A PREROUTING -m comment --comment "wgjail vpn2" -j WGJAIL-0000000000-to
COMMIT
`

func newFake() *fakeBook { return &fakeBook{parseSave(canaries)} }

func (f *fakeBook) snapshot() (snapshot, error) { return parseSave(f.save()), nil }

func (f *fakeBook) counters(table, chain string) ([]string, error) {
	var list []string
	for _, line := range f.have[table][chain] {
		list = append(list, line+" -c 1 60")
	}
	return list, nil
}

// save is iptables-save.
func (f *fakeBook) save() string {
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(f.have)) {
		fmt.Fprintf(&b, "*%s\n", table)
		names := slices.Sorted(maps.Keys(f.have[table]))
		for _, name := range names {
			fmt.Fprintf(&b, ":%s - [0:0]\n", name)
		}
		for _, name := range names {
			for _, line := range f.have[table][name] {
				fmt.Fprintln(&b, line)
			}
		}
		fmt.Fprintln(&b, "COMMIT")
	}
	return b.String()
}

// restore is iptables-restore --noflush: each table changes whole or not at all.
func (f *fakeBook) restore(script string) error {
	if script == "" {
		return nil
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(script, "COMMIT\n"), "COMMIT\n") {
		head, body, _ := strings.Cut(part, "\n")
		table := strings.TrimPrefix(head, "*")
		chains := map[string][]string{}
		for name, lines := range f.have[table] {
			chains[name] = slices.Clone(lines)
		}
		for line := range strings.Lines(body) {
			if err := change(chains, strings.TrimSpace(line)); err != nil {
				return fmt.Errorf("%s: %q: %w", table, line, err)
			}
		}
		f.have[table] = chains
	}
	return nil
}

func change(chains map[string][]string, line string) error {
	if name, ok := strings.CutPrefix(line, ":"); ok {
		name, _, _ = strings.Cut(name, " ")
		chains[name] = nil
		return nil
	}
	verb, rest, _ := strings.Cut(line, " ")
	name, spec, _ := strings.Cut(rest, " ")
	lines, exists := chains[name]
	if !exists {
		return fmt.Errorf("no chain %s", name)
	}
	if _, to, ok := strings.Cut(spec, " -j WGJAIL"); ok {
		if to, _, _ = strings.Cut("WGJAIL"+to, " "); verb != "-D" {
			if _, exists := chains[to]; !exists {
				return fmt.Errorf("no chain %s", to)
			}
		}
	}
	switch verb {
	case "-A":
		chains[name] = append(lines, "-A "+name+" "+spec)
	case "-I":
		chains[name] = slices.Insert(lines, 0, "-A "+name+" "+strings.TrimPrefix(spec, "1 "))
	case "-D":
		i := slices.Index(lines, "-A "+name+" "+spec)
		if n, err := strconv.Atoi(spec); err == nil {
			i = n - 1
		}
		if i < 0 || i >= len(lines) {
			return fmt.Errorf("no such rule")
		}
		chains[name] = slices.Delete(lines, i, i+1)
	case "-F":
		chains[name] = nil
	case "-X":
		for _, others := range chains {
			if slices.ContainsFunc(others, func(l string) bool { return target(l) == name }) {
				return fmt.Errorf("chain %s is in use", name)
			}
		}
		if len(lines) > 0 {
			return fmt.Errorf("chain %s is not empty", name)
		}
		delete(chains, name)
	default:
		return fmt.Errorf("what is %s", verb)
	}
	return nil
}
