package veth

import (
	"fmt"
	"slices"
	"strings"
)

// ensure makes everything be there, in an order in which nothing is open that is
// not yet guarded. The caller holds the lock.
func (v *Veth) ensure() error {
	v.step("set the rules in the jail")
	if err := v.table.ensure(); err != nil {
		return err
	}
	if err := v.look(); err != nil {
		return err
	}
	for _, have := range v.known {
		if err := v.names.foreign(have); err != nil {
			return err
		}
	}
	guards, err := v.guards()
	if err != nil {
		return err
	}
	if err := v.noteAbsent(); err != nil {
		return err
	}
	if err := v.fixRules(guards); err != nil {
		return err
	}
	if err := v.build(v.pieces()); err != nil {
		return err
	}
	m := memory{forwards: map[bool][]string{}, absent: v.absent}
	for i, v6 := range v.families() {
		m.forwards[v6] = guards[i]
	}
	if err := v.remember(m); err != nil {
		return err
	}
	for i, v6 := range v.families() {
		v.step("forward, " + familyName(v6))
		if err := v.switches.switchOn(v6, guards[i]); err != nil {
			return err
		}
	}
	for _, o := range v.forwards {
		if err := v.put(o); err != nil {
			return fmt.Errorf("forward %s: %w", o.ID, err)
		}
	}
	return nil
}

// build makes the pieces that are missing.
func (v *Veth) build(pieces []piece) error {
	for _, p := range pieces {
		there, err := p.there()
		if err == nil && !there {
			v.step("make " + p.what)
			err = p.make()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	return nil
}

// noteAbsent notes which chains are about to be made, in addition to those that
// were before, for this jail or another.
func (v *Veth) noteAbsent() error {
	mine, others, err := remembered(v.host, v.names)
	if err != nil {
		return err
	}
	v.absent = slices.Concat(v.absent, mine.absent, others.absent)
	if !v.isLegacy() {
		now, err := absentChains()
		if err != nil {
			return err
		}
		v.absent = append(v.absent, now...)
	}
	v.absent = joinAbsent(v.absent)
	return nil
}

// pieces are those of the pair, and that the host forwards what comes from it.
func (v *Veth) pieces() []piece {
	list := v.pair.pieces(v.services)
	for _, v6 := range v.families() {
		if v.switches.perLink(v6) {
			list = append(list, sysctl(nil, switchOf(v6, v.names.link), "1"))
		}
	}
	return list
}

// fixRules makes the fixed rules of each family be there, with guards for the
// links that are switched on.
func (v *Veth) fixRules(guards [][]string) error {
	return v.eachBook(func(i int, _ rulebook) error {
		chains := v.names.fixed(v.pair.sides[i], guards[i], v.known[i])
		chains[0].rules[0].note = memory{absent: v.absent}.text()
		return v.set(i, chains)
	})
}

// guards returns, for each family, the links whose forwarding is this jail's
// business. The tables have been looked at.
func (v *Veth) guards() ([][]string, error) {
	mine, others, err := remembered(v.host, v.names)
	if err != nil {
		return nil, err
	}
	var lists [][]string
	for i, v6 := range v.families() {
		mine := append(mine.forwards[v6], v.names.guarded(v.known[i])...)
		want, err := v.switches.wanted(v6, mine, others.forwards[v6])
		if err != nil {
			return nil, err
		}
		lists = append(lists, want)
	}
	return lists, nil
}

// guarded returns the links that the rules guard.
func (n names) guarded(have snapshot) []string {
	var links []string
	for _, id := range n.ids(have["mangle"][n.chain("guard")]) {
		if link, ok := strings.CutPrefix(id, "guard "); ok {
			links = append(links, link)
		}
	}
	return links
}

// Restore puts back what is missing of a jail's pair and of forwards that other
// processes have.
func Restore(opts Options, forwards []Forward) error {
	v, err := prepare(opts)
	if err != nil {
		return err
	}
	defer v.closeHandles()
	v.hold(forwards)
	return v.named(v.Repair())
}
