package veth

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Prune removes the forwards of a jail for which alive is false: those whose
// process was killed. Their connections are cut. With the last forward everything
// goes, as with Close. It returns their IDs.
func Prune(opts Options, alive func(id string) bool) (dead []string, err error) {
	v, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	defer v.closeHandles()
	err = v.locked(func() (err error) {
		dead, err = v.prune(alive)
		return err
	})
	return dead, v.named(err)
}

func (v *Veth) prune(alive func(id string) bool) (dead []string, err error) {
	if v.pair, err = findPair(v.names, v.opts.Namespace, v.host, v.jail); err != nil {
		return nil, err
	}
	if v.pair == nil || v.pair.hasIPv6() != v.v6 {
		return nil, v.tearDown() // the living ones make it anew
	}
	if err := v.openTable(v.pair.sides); err != nil {
		return nil, err
	}
	ids, err := v.everyForward()
	if err != nil {
		return nil, err
	}
	var theirs []Forward
	for _, id := range ids {
		if !alive(id) {
			dead = append(dead, id)
			theirs = append(theirs, v.portsOf(id)...)
		}
	}
	if len(dead) == len(ids) {
		return dead, v.tearDown()
	}
	return dead, v.cutOff(theirs, dead)
}

// everyForward returns the IDs of all forwards, of whichever process, that the
// rules tell of, and of those that were removed and have connections.
func (v *Veth) everyForward() (ids []string, err error) {
	if err := v.look(); err != nil {
		return nil, err
	}
	rules, err := v.table.rules()
	if err != nil {
		return nil, err
	}
	indexes, err := v.table.indexes(setIn)
	if err != nil {
		return nil, err
	}
	ids = slices.AppendSeq(forwardIDs(rules), maps.Keys(indexes))
	for _, have := range v.known {
		ids = append(ids, v.names.forwards(have)...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
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
