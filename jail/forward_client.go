package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// How a service that sees the client's address answers it. Its answers would go
// into the tunnel, by the jail's default route; a mark keeps them inside:
//
//	client 192.168.1.7 ──► host ──► relay
//	   │  dials from 192.168.1.7 (IP_TRANSPARENT), with the mark
//	   ▼
//	  lo ──► service at 127.0.0.1    its socket takes the mark over from the
//	   ▲      │                      client's first packet (tcp_fwmark_accept)
//	   │      ▼ answers 192.168.1.7, with the mark
//	   └── rule 101: packets with the mark ──► table 22344: everything is local
//
// The rule and the table are there while such a forward is. For as long as the
// jail lives, its firewall drops what has the mark and would leave lo.
const (
	clientMark  = 0x57480001 // veth's marks begin with 0x5747
	clientTable = 22344
	clientPref  = 101 // before the table main
)

var families = []int{unix.AF_INET, unix.AF_INET6}

// clientWay is that rule and table, for as long as the lock of any process is on
// its file. What the lock of a killed one leaves is forgotten by whoever looks
// next: see forgetClientWay.
type clientWay struct {
	lock *os.File
	h    *netlink.Handle // on the jail; made while it could be entered
}

func clientWayPath(name string) string { return filepath.Join(stateDir(name), "client-source") }

// openClientWay makes the way for answers to clients, or shares it.
func openClientWay(name string, ns *netnsx.Namespace) (*clientWay, error) {
	h, err := jailHandle(ns)
	if err != nil {
		return nil, err
	}
	w := &clientWay{h: h}
	if w.lock, err = lockClientWay(name, unix.LOCK_SH); err != nil {
		h.Close()
		return nil, err
	}
	if err := makeClientWay(h); err != nil {
		return nil, errors.Join(fmt.Errorf("let services answer clients under their own addresses: %w", err), w.close())
	}
	return w, nil
}

// lockClientWay locks the file, which is made if need be.
func lockClientWay(name string, how int) (*os.File, error) {
	path := clientWayPath(name)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if filelock.Names(path, f) {
			return f, nil
		}
		f.Close() // the last holder has just removed it
	}
}

// close removes the way if no other forward needs it.
func (w *clientWay) close() error {
	defer w.h.Close()
	defer w.lock.Close()
	if unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return errors.Join(removeClientWay(w.h), removeFile(w.lock.Name()))
}

// forgetClientWay removes the way that killed forwards have left. It does
// nothing while a living one uses it.
func forgetClientWay(name string, ns *netnsx.Namespace) error {
	if missing(clientWayPath(name)) {
		return nil
	}
	lock, err := lockClientWay(name, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) { // in use, or the jail has just been removed
		return nil
	}
	if err != nil {
		return err
	}
	h, err := jailHandle(ns)
	if err != nil {
		lock.Close()
		return err
	}
	return (&clientWay{lock, h}).close()
}

func makeClientWay(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, family := range clientFamilies() {
		if err := h.RouteReplace(clientRoute(lo, family)); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
		if err := h.RuleAdd(clientRule(family)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add routing rule: %w", err)
		}
	}
	return nil
}

// removeClientWay is idempotent.
func removeClientWay(h *netlink.Handle) error {
	var errs []error
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, family := range clientFamilies() {
		for _, err := range []error{h.RuleDel(clientRule(family)), h.RouteDel(clientRoute(lo, family))} {
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func clientFamilies() []int {
	if haveIPv6() {
		return families
	}
	return families[:1]
}

func clientRule(family int) *netlink.Rule {
	mask := ^uint32(0)
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Mark, r.Mask = family, clientPref, clientTable, clientMark, &mask
	return r
}

func clientRoute(lo netlink.Link, family int) *netlink.Route {
	all := ipNet(defaultIPv6)
	if family == unix.AF_INET {
		all = ipNet(defaultIPv4)
	}
	return &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &all, Family: family, Table: clientTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}
}

// showClients prepares that services see the clients of this forward.
func (f *Forwarder) showClients(dial dialPlan) (err error) {
	if f.opts.Source != SourceClient || f.opts.Mode == ModeVeth {
		return nil
	}
	if f.opts.Into.Jail == "" {
		return hint.Wrap(fmt.Errorf("%s is no jail: services in it cannot see the address of the client", f.opts.Into),
			"that takes routes inside, and wgjail changes no namespace that it did not make; --proxy-protocol tells services as well")
	}
	if own, err := globalAddrs(f.ns); err != nil {
		return err
	} else if to := dial.addrs[0]; !to.IsLoopback() && !slices.Contains(own, to) {
		return hint.Wrap(fmt.Errorf("--to %s is no address of %s: a client's address must not enter the tunnel", to, f.opts.Into),
			"leave --source client out, or tell the service with --proxy-protocol")
	}
	f.client, err = openClientWay(f.opts.Into.Jail, f.ns)
	return err
}
