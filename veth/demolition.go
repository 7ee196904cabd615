package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/nft"
)

// Teardown removes the pair of the jail called name, its rules, and whatever else
// Open and Add have made, by whichever process. It needs nothing but the name, is
// not surprised by anything that is missing, and goes on past errors. ns is the
// jail's namespace, if it goes on without the pair; else nil.
func Teardown(name string, ns *netnsx.Namespace) error {
	host, err := openNetlink(nil, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer host.Close()
	shared, err := lockShared()
	if err != nil {
		return err
	}
	defer shared.Release()
	n := namesOf(name)
	if !n.trace(host, ns) {
		return nil
	}
	if err := (&demolition{names: n, host: host, ns: ns, step: func(string) {}}).run(); err != nil {
		return fmt.Errorf("veth of jail %s: %w", name, err)
	}
	return nil
}

// trace reports whether anything of the jail's is there, as far as that is to be
// seen without starting iptables. What legacy tables hold is not.
func (n names) trace(host *netlink.Handle, ns *netnsx.Namespace) bool {
	if link, err := linkNamed(host, n.link); link != nil || err != nil || legacyInUse(false) || legacyInUse(true) {
		return true
	}
	if _, err := os.Lstat(n.lastNote()); err == nil {
		return true
	}
	conn, err := nft.Open(nil)
	if err != nil {
		return true
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil || slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return strings.HasPrefix(c.Name, n.chains) }) {
		return true
	}
	if ns == nil {
		return false
	}
	inside, err := nft.Open(ns)
	if err != nil {
		return true
	}
	defer inside.CloseLasting()
	tables, err := inside.ListTablesOfFamily(nftables.TableFamilyINet)
	return err != nil || slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == innerTable })
}

// tearDown removes everything of the jail's, by its name: see Teardown. The
// caller holds the lock.
func (v *Veth) tearDown() error {
	v.forget()
	return (&demolition{names: v.names, host: v.host, ns: v.opts.Namespace, step: v.step}).run()
}

// A demolition removes everything of a jail's, by its name.
type demolition struct {
	names names
	host  *netlink.Handle
	ns    *netnsx.Namespace // nil: there is no jail any more
	step  func(string)

	mine memory       // what was changed on the host
	ends []netip.Addr // the jail's, of pairs that there are rules for
}

// run removes it, and tries again if something is in the way for a moment: what was
// to be remembered for that may have gone with the rest by then.
func (d *demolition) run() error { return twice(d.once) }

// once goes on past errors. Its order is one in which nothing is open that is not
// guarded any more, no client's packet is sent where it does not belong, and what
// must be known for the rest is removed last: redirections end, then the
// connections, then the link is down; its rules go, and at the end itself with
// what its alias remembers.
func (d *demolition) once() error {
	var errs []error
	try := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	books, err := everyBook()
	try(err)
	have := make([]snapshot, len(books))
	mine, others, othersErr := remembered(d.host, d.names)
	try(othersErr)
	d.mine.add(mine)
	try(d.readNote())
	for i, book := range books {
		if have[i], err = surely(book); err != nil {
			try(err)
			continue
		}
		d.mine.add(memory{forwards: map[bool][]string{book.v6: d.names.guarded(have[i])}})
		d.mine.parse(d.names.noted(have[i]))
		d.ends = append(d.ends, d.names.innerEnds(have[i])...)
		try(d.restore(book, d.names.teardown(have[i], "nat")))
	}
	if d.ns != nil {
		d.step("reset connections")
		try(resetAll(d.ns))
	}
	if len(d.ends) > 0 {
		d.step("end connections")
		try(forget(d.host, func(flow *netlink.ConntrackFlow) bool { return slices.Contains(d.ends, addrOf(flow.Reverse.SrcIP)) }))
	}
	d.step("set the pair down")
	try(downPair(d.names, d.host))
	switches := newForwarding(d.host)
	for _, v6 := range []bool{false, true} {
		if othersErr != nil {
			break // which links other jails need is not known
		}
		d.step("forward no more, " + familyName(v6))
		off := slices.DeleteFunc(slices.Clone(d.mine.forwards[v6]), func(link string) bool { return slices.Contains(others.forwards[v6], link) })
		try(switches.switchOff(v6, off))
	}
	d.keepNote()
	for i, book := range books {
		try(d.restore(book, d.names.teardown(have[i], "filter", "mangle")))
	}
	d.step("remove empty chains")
	try(removeEmpty(d.mine.absent))
	if d.ns != nil {
		d.step("remove rules in the jail")
		try(tearDownInside(d.ns))
	}
	d.step("remove the pair")
	try(removePair(d.names, d.host))
	if len(errs) == 0 {
		try(d.dropNote())
	}
	return errors.Join(errs...)
}

func (d *demolition) restore(book *ipt, script string) error {
	if script == "" {
		return nil
	}
	d.step("remove rules, " + familyName(book.v6))
	return book.restore(script)
}

// innerEnds returns the jail's ends of the pair that the rules are for.
func (n names) innerEnds(have snapshot) (list []netip.Addr) {
	for _, line := range have["mangle"][n.chain("past")] {
		if m := destination.FindStringSubmatch(line); m != nil {
			if p, err := netip.ParsePrefix(m[1]); err == nil {
				list = append(list, p.Addr())
			}
		}
	}
	return list
}

// noted returns what the rules' notes tell of the host; see memory.
func (n names) noted(have snapshot) string {
	for _, line := range have["mangle"][n.chain("in")] {
		if note := n.noteOf(line); note != "" {
			return note
		}
	}
	return ""
}

var destination = regexp.MustCompile(` -d (\S+)`)

// resetAll resets all connections that came into the jail by forwards.
func resetAll(ns *netnsx.Namespace) error {
	jail, err := openNetlink(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer jail.Close()
	all, err := flows(jail)
	ways := map[way]bool{}
	for _, f := range all {
		if isMarked(f) {
			ways[inside(f)] = true
		}
	}
	return errors.Join(err, abort(ns, ways))
}

// tearDownInside removes what the jail has of the pair besides the link.
func tearDownInside(ns *netnsx.Namespace) error {
	jail, err := openNetlink(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer jail.Close()
	table, err := openJailTable(ns, nil, nil)
	if err != nil {
		return err
	}
	defer table.close()
	return errors.Join(removeRules(jail, func(netlink.Rule) bool { return true }), table.remove())
}
