package veth

import (
	"errors"
	"maps"
	"slices"

	"github.com/vishvananda/netlink"
)

// Remove ends the forwards with these IDs, if there are such: nobody new is
// redirected, and UDP clients are not any more. TCP connections go on until Cut or
// Close.
func (v *Veth) Remove(ids ...string) error {
	return v.locked(func() error {
		var lasting []*own
		var ended []string
		var cut []Forward
		for _, id := range ids {
			i := v.indexOf(id)
			switch {
			case slices.ContainsFunc(v.removed, func(o *own) bool { return o.ID == id }):
				continue
			case i >= 0 && v.forwards[i].Network == "tcp":
				lasting = append(lasting, v.forwards[i])
			default:
				ended = append(ended, id)
			}
			if i >= 0 {
				cut = append(cut, v.forwards[i].Forward)
				v.forwards = slices.Delete(v.forwards, i, i+1)
			}
		}
		cut = slices.DeleteFunc(cut, func(f Forward) bool { return f.Network == "tcp" })
		errs := []error{v.takeAway(false, idsOf(lasting)...), v.cutOff(ended, func() (map[way]bool, error) { return v.redirectedBy(cut...) })}
		for _, o := range lasting {
			ways, err := v.redirectedBy(o.Forward)
			o.ways = ways
			errs = append(errs, err)
		}
		v.removed = append(v.removed, lasting...)
		return errors.Join(errs...)
	})
}

// Active returns how many connections of removed forwards go on.
func (v *Veth) Active() (n uint64, err error) {
	err = v.locked(func() error {
		ways := waysOf(v.removed)
		if len(ways) == 0 {
			return nil
		}
		open, err := openSockets(v.opts.Namespace)
		for w := range ways {
			if open[w.serviceEnd()] != nil {
				n++
			}
		}
		return err
	})
	return n, err
}

// Cut ends the connections of forwards that were removed.
func (v *Veth) Cut(ids ...string) error {
	return v.locked(func() error {
		isCut := func(o *own) bool { return slices.Contains(ids, o.ID) }
		cut := slices.DeleteFunc(slices.Clone(v.removed), func(o *own) bool { return !isCut(o) })
		v.removed = slices.DeleteFunc(v.removed, isCut)
		return errors.Join(v.end(waysOf(cut)), v.table.removeForwards(idsOf(cut), true))
	})
}

// waysOf are the connections that removed forwards had.
func waysOf(removed []*own) map[way]bool {
	ways := map[way]bool{}
	for _, o := range removed {
		maps.Copy(ways, o.ways)
	}
	return ways
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
	err := twice(func() error {
		return v.eachBook(func(_ int, book rulebook) error {
			have, err := surely(book)
			if err != nil {
				return err
			}
			if script := v.names.forget(ids, have); script != "" {
				return book.restore(script)
			}
			return nil
		})
	})
	v.forget()
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
