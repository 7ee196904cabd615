package veth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// Options say which jail is joined to the host.
type Options struct {
	Name      string            // the jail's: everything in the kernel is named after it
	Namespace *netnsx.Namespace // the jail's; it must stay open

	// TunnelAddrs are the addresses of the jail's tunnel. Services see themselves
	// addressed at the first one of each family. Avoid are further networks that
	// the pair's addresses must not be in: DNS servers and what the tunnel routes.
	// Default routes among them do not count.
	TunnelAddrs []netip.Prefix
	Avoid       []netip.Prefix

	Log *slog.Logger // nil is silent

	oldKernel bool // as before Linux 6.17; see forwarding.go. For tests
}

// A Veth is one process's hold on the pair of a jail. Several processes may have
// one: the pair lasts as long as there is a forward of any of them. It is safe
// for concurrent use.
type Veth struct {
	opts     Options
	log      *slog.Logger
	names    names
	host     *netlink.Handle // of the host's namespace
	jail     *netlink.Handle
	v6       bool
	books    []rulebook // by family, as sides
	pair     *pair
	services []netip.Addr // by family
	table    *jailTable
	switches forwarding

	mu       sync.Mutex // before the lock on filelock.RunDir
	forwards []*own     // in the order of Add
	removed  []*own     // but connections may go on
	absent   []string   // chains that were not there before; see emptytable.go
	known    []snapshot // by family: what the tables held when this process last looked; nil: look
	looked   bool       // known is no older than the lock that is held
	settled  bool       // the families are chosen
	noIPv6   error      // why there are no IPv6 rules on this host
}

// own is a forward of this process.
type own struct {
	Forward
	index uint16
	ways  map[way]bool // once removed: the connections that go on
}

// Open joins the jail to the host, or finds that it is, and redirects the ports
// of forwards as Add does. It must be called, as all functions of this package, in
// the host's namespace. If it fails, everything is as before.
//
// The error is ErrNoIPTables if the host has no iptables, and a *BlockedError if
// somebody else's firewall would drop what is redirected; both have a hint.
func Open(opts Options, forwards ...Forward) (*Veth, error) {
	for _, f := range forwards {
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	v, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	if err := v.locked(func() error { return v.join(forwards) }); err != nil {
		v.closeHandles()
		return nil, v.named(err)
	}
	return v, nil
}

// named adds whose pair an error is about.
func (v *Veth) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("veth of jail %s: %w", v.opts.Name, err)
}

// prepare does what changes nothing.
func prepare(opts Options) (*Veth, error) {
	v := &Veth{opts: opts, log: opts.Log, names: namesOf(opts.Name)}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if v.books, v.v6, err = openBooks(v.log); err != nil {
		return nil, err
	}
	if v.host, err = openNetlink(nil, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return nil, err
	}
	if v.jail, err = openNetlink(opts.Namespace, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		v.host.Close()
		return nil, err
	}
	v.switches = newForwarding(v.host)
	v.switches.global = v.switches.global || opts.oldKernel
	return v, nil
}

func (v *Veth) closeHandles() {
	v.host.Close()
	v.jail.Close()
	v.table.close()
}

// join makes the pair, or finds it, and then redirects. What drops is in place
// before the pair is up. The caller holds the lock.
func (v *Veth) join(forwards []Forward) (err error) {
	whole, err := v.find()
	if err != nil {
		return err
	}
	for _, have := range v.known {
		if err := v.names.foreign(have); err != nil {
			return err
		}
	}
	fresh := !whole
	if fresh {
		err = v.makeAnew()
	} else {
		err = v.openTable(v.pair.sides)
	}
	if err == nil {
		err = v.ensure()
	}
	if err == nil {
		err = v.blocked()
	}
	var ids []string
	for _, f := range forwards {
		if err == nil {
			ids = append(ids, f.ID)
			err = v.add(f)
		}
	}
	switch {
	case err != nil && fresh:
		return errors.Join(err, v.tearDown())
	case len(ids) > 0 && err != nil:
		return errors.Join(err, v.takeAway(true, ids...))
	}
	return err
}

// find reads the tables and looks for the pair. It reports whether there is one for
// the families that the host has.
func (v *Veth) find() (whole bool, err error) {
	if err := v.look(); err != nil {
		return false, err
	}
	pair, err := findPair(v.names, v.opts.Namespace, v.host, v.jail)
	switch {
	case err != nil || pair == nil:
		return false, err
	case pair.hasIPv6() && v.noIPv6 != nil:
		return false, v.noIPv6 // there were rules when the pair was made
	case pair.hasIPv6() != v.v6:
		return false, nil
	}
	v.pair = pair
	return true, nil
}

// makeAnew removes what there may be of an earlier pair, chooses addresses, and
// makes the links, down, with what must be remembered about the host. ensure does
// the rest.
func (v *Veth) makeAnew() error {
	if v.names.trace(v.host, v.opts.Namespace) {
		if err := v.tearDown(); err != nil {
			return err
		}
	}
	sides, err := v.chooseSides()
	if err != nil {
		return err
	}
	v.step("make the pair of links " + v.names.link)
	if v.pair, err = makePair(v.names, v.opts.Namespace, v.host, v.jail, sides); err != nil {
		return err
	}
	if err := v.noteAbsent(); err != nil {
		return err
	}
	if err := v.remember(memory{absent: v.absent}); err != nil {
		return err
	}
	return v.openTable(sides)
}

// step tells what is done next.
func (v *Veth) step(what string) { v.log.Debug("step", "do", what, "jail", v.opts.Name) }

// chooseSides finds free addresses for a new pair.
func (v *Veth) chooseSides() ([]side, error) {
	taken, err := takenOnHost(v.host)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Concat(v.opts.TunnelAddrs, v.opts.Avoid) {
		if !isDefault(p) {
			taken = append(taken, p.Masked())
		}
	}
	var sides []side
	for _, v6 := range v.families() {
		s, err := chooseSide(v.opts.Name, v6, taken)
		if err != nil {
			return nil, err
		}
		sides = append(sides, s)
	}
	return sides, nil
}

// openTable settles which addresses services answer from, and opens the jail's
// table.
func (v *Veth) openTable(sides []side) (err error) {
	v.services = nil
	for _, s := range sides {
		at := s.inner
		for _, a := range v.opts.TunnelAddrs {
			if a.Addr().Is6() == s.v6 {
				at = a.Addr()
				break
			}
		}
		v.services = append(v.services, at)
	}
	v.table.close()
	v.table, err = openJailTable(v.opts.Namespace, sides, v.services)
	return err
}
