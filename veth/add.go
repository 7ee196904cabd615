package veth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Add redirects the ports of f. A forward that is there already, with the same
// ID, is replaced. UDP clients that were served otherwise are redirected as well;
// TCP connections stay where they are. A forward that no client can use but those
// that are never redirected, on the host's loopback for example, has no rules.
func (v *Veth) Add(f Forward) error {
	if err := f.check(); err != nil {
		return err
	}
	return v.locked(func() error {
		o := &own{Forward: f}
		if i := v.indexOf(f.ID); i >= 0 {
			o.index = v.forwards[i].index
			if err := v.takeAway(true, f.ID); err != nil {
				return err
			}
			v.forwards = slices.Delete(v.forwards, i, i+1)
		}
		if err := v.put(o); err != nil {
			return errors.Join(fmt.Errorf("forward %s: %w", f.ID, err), v.takeAway(true, f.ID))
		}
		v.forwards = append(v.forwards, o)
		return nil
	})
}

// locked calls fn while nobody else, in this process or another, changes pairs
// or rules.
func (v *Veth) locked(fn func() error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}

func (v *Veth) indexOf(id string) int {
	return slices.IndexFunc(v.forwards, func(o *own) bool { return o.ID == id })
}

// put sets the rules of a forward: in the jail first, where they do nothing
// before there are those on the host.
func (v *Veth) put(o *own) (err error) {
	if !v.redirects(o.Forward) {
		return nil
	}
	v.step("open " + o.ID + " in the jail")
	if o.index, err = v.table.add(o.Forward, o.index); err != nil {
		return err
	}
	if err := v.build(o.replyRules(v.jail, v.pair.sides, o.index)); err != nil {
		return err
	}
	err = v.eachBook(func(i int, _ rulebook) error { return v.set(i, v.names.forward(o.Forward, v.pair.sides[i])) })
	if err != nil || o.Network != "udp" {
		return err
	}
	return v.forgetEarlier(o.Forward)
}

// redirects reports whether there are rules for f.
func (v *Veth) redirects(f Forward) bool {
	return slices.ContainsFunc(v.pair.sides, func(s side) bool { return len(v.names.forward(f, s)) > 0 })
}

// forgetEarlier removes UDP clients from the connection table that asked for the
// forward's ports before they were redirected.
func (v *Veth) forgetEarlier(f Forward) error {
	local, err := localAddrs(v.host)
	if err != nil {
		return err
	}
	earlier := f.towards(local)
	return forget(v.host, func(flow *netlink.ConntrackFlow) bool { return earlier(flow) && !isRedirected(flow, v.pair.sides) })
}

// Remove ends the forward called id, if there is one: nobody new is redirected,
// and UDP clients are not any more. TCP connections go on until Cut or Close.
func (v *Veth) Remove(id string) error {
	return v.locked(func() error {
		i := v.indexOf(id)
		if i < 0 || v.forwards[i].Network == "udp" {
			err := v.takeAway(true, id)
			if i < 0 || err != nil {
				return err
			}
			defer func() { v.forwards = slices.Delete(v.forwards, i, i+1) }()
			return forget(v.host, v.forwards[i].redirected(v.pair.sides))
		}
		v.removed = append(v.removed, v.forwards[i].Forward)
		v.forwards = slices.Delete(v.forwards, i, i+1)
		return v.takeAway(false, id)
	})
}

// Cut ends the connections that f has redirected, whether or not it has been
// removed: the host forgets them, and resets what their clients send on.
func (v *Veth) Cut(f Forward) error {
	return v.locked(func() error {
		err := forget(v.host, f.redirected(v.pair.sides))
		if v.indexOf(f.ID) < 0 {
			err = errors.Join(err, v.table.removeForwards([]string{f.ID}, true))
		}
		return err
	})
}

// takeAway removes the rules of forwards, of whichever process, on the host
// first. Without their marks, connections go on.
func (v *Veth) takeAway(withMarks bool, ids ...string) error {
	err := v.look()
	if err == nil {
		err = v.eachBook(func(i int, book rulebook) error {
			if script := v.names.forget(ids, v.known[i]); script != "" {
				return book.restore(script)
			}
			return nil
		})
	}
	v.known = make([]snapshot, len(v.books))
	have, indexErr := v.table.indexes(setIn)
	var rules []int
	for _, id := range ids {
		if index, ok := have[id]; ok {
			rules = append(rules, replyPref+int(index))
		}
	}
	return errors.Join(err, indexErr,
		removeRules(v.jail, func(r netlink.Rule) bool { return slices.Contains(rules, r.Priority) }),
		v.table.removeForwards(ids, withMarks))
}

// Prune removes the forwards of other processes for which alive is false: those
// that were killed. Their connections are cut. It returns their IDs.
func (v *Veth) Prune(alive func(id string) bool) (dead []string, err error) {
	err = v.locked(func() error {
		if err := v.look(); err != nil {
			return err
		}
		rules, err := v.table.rules()
		if err != nil {
			return err
		}
		ids := forwardIDs(rules)
		marked, err := v.table.indexes(setIn)
		if err != nil {
			return err
		}
		ids = slices.AppendSeq(ids, maps.Keys(marked))
		var gone []Forward
		for _, have := range v.known {
			ids = append(ids, v.names.forwards(have)...)
		}
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			if v.indexOf(id) < 0 && !alive(id) {
				dead = append(dead, id)
				gone = append(gone, v.portsOf(id)...)
			}
		}
		if len(dead) == 0 {
			return nil
		}
		return errors.Join(v.takeAway(true, dead...), forget(v.host, func(flow *netlink.ConntrackFlow) bool {
			return slices.ContainsFunc(gone, func(f Forward) bool { return f.redirected(v.pair.sides)(flow) })
		}))
	})
	return dead, err
}

// portsOf reads from the rules which ports a forward of another process has.
func (v *Veth) portsOf(id string) (list []Forward) {
	for _, have := range v.known {
		for name, lines := range have["nat"] {
			if !v.names.isGroup(name) {
				continue
			}
			for _, line := range lines {
				if of, ours := v.names.idOf(line); ours && of == id {
					list = append(list, portsIn(line))
				}
			}
		}
	}
	return list
}

// portsIn reads network and ports of a rule that redirect made.
func portsIn(line string) Forward {
	var f Forward
	words := strings.Fields(line)
	for i, w := range words[:max(len(words)-1, 0)] {
		switch w {
		case "-p":
			f.Network = words[i+1]
		case "--dport":
			first, last, isRange := strings.Cut(words[i+1], ":")
			if !isRange {
				last = first
			}
			a, _ := strconv.ParseUint(first, 10, 16)
			b, _ := strconv.ParseUint(last, 10, 16)
			f.First, f.Last = uint16(a), uint16(b)
		}
	}
	return f
}
