package veth

import (
	"maps"
	"slices"
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
	ids, indexes, err := v.everyForward()
	if err != nil {
		return nil, err
	}
	var theirs []uint16
	for _, id := range ids {
		if alive(id) {
			continue
		}
		dead = append(dead, id)
		if index, ok := indexes[id]; ok {
			theirs = append(theirs, index)
		}
	}
	if len(dead) == len(ids) {
		return dead, v.tearDown()
	}
	return dead, v.cutOff(dead, theirs)
}

// everyForward returns the IDs of all forwards, of whichever process, that the
// rules tell of, and the indexes that they have in the jail.
func (v *Veth) everyForward() (ids []string, indexes map[string]uint16, err error) {
	if err := v.look(); err != nil {
		return nil, nil, err
	}
	rules, err := v.table.rules()
	if err != nil {
		return nil, nil, err
	}
	if indexes, err = v.table.indexes(setIn); err != nil {
		return nil, nil, err
	}
	ids = slices.AppendSeq(forwardIDs(rules), maps.Keys(indexes))
	for _, have := range v.known {
		ids = append(ids, v.names.forwards(have)...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), indexes, nil
}
