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
	ended := slices.Concat(v.forwards, v.removed)
	v.forwards, v.removed = nil, nil
	ids, _, err := v.everyForward()
	if err == nil {
		mine := idsOf(ended)
		if slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(mine, id) }) {
			return v.cutOff(mine, indexesOf(ended))
		}
	}
	return errors.Join(err, v.tearDown())
}
