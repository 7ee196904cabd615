package veth

import (
	"errors"
	"slices"

	"github.com/vishvananda/netlink"
)

// Remove ends the forwards with these IDs, if there are such: nobody new is
// redirected, and UDP clients are not any more. TCP connections go on until Cut or
// Close.
func (v *Veth) Remove(ids ...string) error {
	return v.locked(func() error {
		var lasting, ended []string
		var indexes []uint16
		for _, id := range ids {
			if slices.ContainsFunc(v.removed, func(o *own) bool { return o.ID == id }) {
				continue
			}
			i := v.indexOf(id)
			if i < 0 {
				ended = append(ended, id)
				continue
			}
			o := v.forwards[i]
			v.forwards = slices.Delete(v.forwards, i, i+1)
			if o.Network == "tcp" {
				lasting = append(lasting, id)
				v.removed = append(v.removed, o)
				continue
			}
			ended, indexes = append(ended, id), append(indexes, o.index)
		}
		return errors.Join(v.takeAway(false, lasting...), v.cutOff(ended, indexes))
	})
}

// Active returns how many connections of removed forwards go on.
func (v *Veth) Active() (n uint64, err error) {
	err = v.locked(func() error {
		flows, err := v.flowsOf(indexesOf(v.removed)...)
		for _, flow := range flows {
			if isOpen(flow) {
				n++
			}
		}
		return err
	})
	return n, err
}

// Cut ends the connections of forwards that were removed: the host forgets them,
// and resets what their clients send on.
func (v *Veth) Cut(ids ...string) error {
	return v.locked(func() error {
		var cut []*own
		v.removed = slices.DeleteFunc(v.removed, func(o *own) bool {
			mine := slices.Contains(ids, o.ID)
			if mine {
				cut = append(cut, o)
			}
			return mine
		})
		flows, err := v.flowsOf(indexesOf(cut)...)
		return errors.Join(err, v.end(flows), v.table.removeForwards(idsOf(cut), true))
	})
}

func indexesOf(list []*own) (indexes []uint16) {
	for _, o := range list {
		indexes = append(indexes, o.index)
	}
	return indexes
}

func idsOf(list []*own) (ids []string) {
	for _, o := range list {
		ids = append(ids, o.ID)
	}
	return ids
}

// takeAway removes the rules of forwards, of whichever process, on the host
// first. Without their marks, connections go on.
func (v *Veth) takeAway(withMarks bool, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
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
