package veth

import (
	"errors"
)

// Close ends this process's forwards and their connections. With the last forward
// of all processes, everything that Open made goes.
func (v *Veth) Close() error {
	defer v.closeHandles()
	return v.locked(v.close)
}

func (v *Veth) close() error {
	ended := append(v.mine(), v.removed...)
	var ids []string
	for _, f := range ended {
		ids = append(ids, f.ID)
	}
	var errs []error
	if len(ids) > 0 {
		errs = append(errs, v.takeAway(true, ids...))
	}
	for _, f := range ended {
		errs = append(errs, forget(v.host, f.redirected(v.pair.sides)))
	}
	v.forwards, v.removed = nil, nil
	if err := v.look(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	rules, err := v.table.rules()
	if err == nil && len(forwardIDs(rules)) > 0 {
		return errors.Join(errs...) // other processes'
	}
	for _, have := range v.known {
		if len(v.names.forwards(have)) > 0 {
			return errors.Join(errs...)
		}
	}
	return errors.Join(append(errs, err, v.tearDown())...)
}
