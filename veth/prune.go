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
	whole, err := v.find()
	if err != nil {
		return nil, err
	}
	if !whole {
		return nil, v.tearDown() // the living ones make it anew
	}
	if err := v.openTable(v.pair.sides); err != nil {
		return nil, err
	}
	ids, err := v.everyForward()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !alive(id) {
			dead = append(dead, id)
		}
	}
	if len(dead) == len(ids) {
		return dead, v.tearDown()
	}
	claims, err := v.table.claims(setIn) // cutOff removes them
	if err != nil {
		return nil, err
	}
	return dead, v.cutOff(dead, func() (map[way]bool, error) { return v.orphans(claims, dead) })
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
