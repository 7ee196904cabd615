package veth

import (
	"errors"
	"slices"

	"github.com/vishvananda/netlink"
)

// Close ends this process's forwards and their connections. With the last forward
// of all processes, everything that Open made goes.
func (v *Veth) Close() error {
	defer v.closeHandles()
	return v.locked(v.close)
}

func (v *Veth) close() error {
	ended := append(v.mine(), v.removed...)
	v.forwards, v.removed = nil, nil
	last, err := v.isLast(ended)
	if err != nil || last {
		return errors.Join(err, v.tearDown())
	}
	var ids []string
	for _, f := range ended {
		ids = append(ids, f.ID)
	}
	return errors.Join(v.takeAway(true, ids...), forget(v.host, func(flow *netlink.ConntrackFlow) bool {
		return slices.ContainsFunc(ended, func(f Forward) bool { return f.redirected(v.pair.sides)(flow) })
	}))
}

// isLast reports whether there are no forwards but these.
func (v *Veth) isLast(ended []Forward) (bool, error) {
	if err := v.look(); err != nil {
		return false, err
	}
	mine := map[string]bool{}
	for _, f := range ended {
		mine[f.ID] = true
	}
	for _, have := range v.known {
		for _, id := range v.names.forwards(have) {
			if !mine[id] {
				return false, nil
			}
		}
	}
	return true, nil
}
