package veth

import (
	"errors"
	"slices"
)

// Close ends this process's forwards and their connections. With the last forward
// of all processes, everything that Open made goes.
func (v *Veth) Close() error {
	defer v.closeHandles()
	return v.locked(v.close)
}

func (v *Veth) close() error {
	forwards, removed := v.mine(), v.removed
	ended := append(idsOf(v.forwards), idsOf(removed)...)
	v.forwards, v.removed = nil, nil
	ids, err := v.everyForward()
	if err == nil && slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(ended, id) }) {
		return errors.Join(v.end(waysOf(removed)), v.cutOff(ended, func() (map[way]bool, error) { return v.redirectedBy(forwards...) }))
	}
	return errors.Join(err, v.tearDown())
}
