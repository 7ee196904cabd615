package veth

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/filelock"
)

// Add redirects the ports of f. A forward that is there already, with the same
// ID, is replaced. UDP clients that were served otherwise are redirected as well;
// TCP connections stay where they are. A forward that no client can use but those
// that are never redirected, on the host's loopback for example, has no rules.
func (v *Veth) Add(f Forward) error {
	if err := f.check(); err != nil {
		return err
	}
	return v.locked(func() error { return v.add(f) })
}

// add is Add for those who hold the lock.
func (v *Veth) add(f Forward) error {
	o := &own{Forward: f}
	i := v.indexOf(f.ID)
	if i >= 0 || v.knows(f.ID) {
		if err := v.takeAway(true, f.ID); err != nil {
			return err
		}
	}
	if i >= 0 {
		o.index = v.forwards[i].index
		v.forwards = slices.Delete(v.forwards, i, i+1)
	}
	if err := v.put(o); err != nil {
		return errors.Join(fmt.Errorf("forward %s: %w", f.ID, err), v.takeAway(true, f.ID))
	}
	v.forwards = append(v.forwards, o)
	return nil
}

// knows reports whether there was a forward called id when the tables were looked
// at: somebody else's.
func (v *Veth) knows(id string) bool {
	return slices.ContainsFunc(v.known, func(have snapshot) bool { return slices.Contains(v.names.forwards(have), id) })
}

// locked calls fn while nobody else, in this process or another, changes pairs or
// rules, chooses addresses, or sees a jail's rules half changed. It lasts for
// milliseconds, and fn waits for no other lock.
func (v *Veth) locked(fn func() error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	shared, err := lockShared()
	if err != nil {
		return err
	}
	defer shared.Release()
	v.looked = false
	return fn()
}

// lockShared takes the lock that locked holds.
func lockShared() (l *filelock.Lock, err error) {
	err = twice(func() (err error) {
		l, err = filelock.Folder(filelock.RunDir)
		return err
	})
	return l, err
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
