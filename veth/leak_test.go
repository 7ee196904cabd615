package veth_test

import (
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// TestLeaks: what should work does, what should not does not, in every state. That
// the probes for leaks find what they look for, TestMutations shows.
func TestLeaks(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		x := newTarget(t, w, tunnel4, tunnel6)
		for _, p := range append(works, never...) {
			if err := p.run(x); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		}
		for _, s := range darkStates {
			s.enter(x)
			for _, p := range never {
				if s.spares(p) {
					continue
				}
				if err := p.run(x); err != nil {
					t.Errorf("%s: %s: %v", s.name, p.name, err)
				}
			}
		}
	})
}

// A darkState is a jail whose tunnel, or whose own rules, are gone.
type darkState struct {
	name   string
	enter  func(*target)
	spared []string // beginnings of the names of probes that say nothing in it
}

func (s darkState) spares(p probe) bool {
	for _, name := range s.spared {
		if strings.HasPrefix(p.name, name) {
			return true
		}
	}
	return false
}

// What only the jail's rules hold back, it is for the jail's root to allow: its
// own frames on the pair, and what its own services say where.
var insideOnly = []string{"L11", "L13", "L15 L21", "L21"}

var darkStates = []darkState{
	{"the tunnel is down", func(x *target) { x.jail.Run(x.t, "ip", "link", "set", "vpn", "down") }, []string{"L13"}},
	{"the tunnel is gone", func(x *target) { x.jail.Run(x.t, "ip", "link", "del", "vpn") }, []string{"L13", "L21 the exit"}},
	{"root in the jail has removed all rules and added routes", func(x *target) {
		x.jail.Run(x.t, "nft", "flush", "ruleset")
		for _, s := range x.sides {
			x.jail.Run(x.t, "ip", "route", "replace", "default", "via", s.outer.String(), "dev", "host0", "onlink")
		}
	}, append([]string{"L8"}, insideOnly...)},
}
