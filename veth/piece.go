package veth

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A piece is one thing that a pair is made of. To check a pair is to ask for its
// pieces; to make or repair it is to make those that are not there, in order.
type piece struct {
	what  string
	there func() (bool, error)
	make  func() error
}

// missing says which pieces are not there.
func missing(pieces []piece) (list []string) {
	for _, p := range pieces {
		there, err := p.there()
		if err != nil {
			list = append(list, fmt.Sprintf("%s: %v", p.what, err))
		} else if !there {
			list = append(list, p.what)
		}
	}
	return list
}

// sysctl is a value below /proc/sys/net in ns, or where the caller is if ns is
// nil.
func sysctl(ns *netnsx.Namespace, path, value string) piece {
	return piece{
		what: "sysctl net." + strings.ReplaceAll(path, "/", "."),
		there: func() (ok bool, err error) {
			err = in(ns, func() error {
				var now string
				now, err := readSysctl(path)
				ok = now == value
				return err
			})
			return ok, err
		},
		make: func() error { return in(ns, func() error { return writeSysctl(path, value) }) },
	}
}

const sysctls = "/proc/sys/net"

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(filepath.Join(sysctls, path))
	return strings.TrimSpace(string(data)), err
}

func writeSysctl(path, value string) error {
	return os.WriteFile(filepath.Join(sysctls, path), []byte(value), 0)
}

func hasSysctl(path string) bool {
	_, err := os.Stat(filepath.Join(sysctls, path))
	return err == nil
}

// An end is one end of a pair.
type end struct {
	h    *netlink.Handle
	name string
	link netlink.Link
}

// flagged is a flag of a link, such as net.FlagUp.
func (e end) flagged(what string, flag uint32, on bool, set func(netlink.Link) error) piece {
	return piece{
		what: e.name + " " + what,
		there: func() (bool, error) {
			link, err := e.h.LinkByIndex(e.link.Attrs().Index)
			if err != nil {
				return false, err
			}
			return link.Attrs().RawFlags&flag != 0 == on, nil
		},
		make: func() error { return set(e.link) },
	}
}

// address is an address that is usable at once and brings no route with it.
func (e end) address(a netip.Addr) piece {
	addr := &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NOPREFIXROUTE}
	if a.Is6() {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return piece{
		what: fmt.Sprintf("address %s of %s", a, e.name),
		there: func() (bool, error) {
			list, err := whole(func() ([]netlink.Addr, error) { return e.h.AddrList(e.link, family(a.Is6())) })
			return slices.ContainsFunc(list, func(x netlink.Addr) bool { return addrOf(x.IP) == a }), err
		},
		make: func() error { return ignore(e.h.AddrAdd(e.link, addr), os.ErrExist) },
	}
}

// route is a route over this end, in a table.
func (e end) route(r netlink.Route) piece {
	r.LinkIndex = e.link.Attrs().Index
	to := "default"
	if r.Dst != nil {
		to = r.Dst.String()
	}
	return piece{
		what: fmt.Sprintf("route to %s over %s", to, e.name),
		there: func() (bool, error) {
			const mask = netlink.RT_FILTER_TABLE | netlink.RT_FILTER_OIF
			list, err := whole(func() ([]netlink.Route, error) { return e.h.RouteListFiltered(r.Family, &r, mask) })
			return slices.ContainsFunc(list, func(x netlink.Route) bool {
				return sameDst(x.Dst, r.Dst) && x.Gw.Equal(r.Gw) && (r.Src == nil || x.Src.Equal(r.Src))
			}), err
		},
		make: func() error { return e.h.RouteReplace(&r) },
	}
}

// sameDst compares destinations; a default route may come without one.
func sameDst(a, b *net.IPNet) bool {
	def := func(n *net.IPNet) bool { return n == nil || prefixOf(n).Bits() == 0 }
	return def(a) && def(b) || !def(a) && !def(b) && prefixOf(a) == prefixOf(b)
}

// neighbour is the other end's address on the link, known without asking.
func (e end) neighbour(a netip.Addr, mac net.HardwareAddr) piece {
	n := &netlink.Neigh{LinkIndex: e.link.Attrs().Index, Family: family(a.Is6()), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
	return piece{
		what: fmt.Sprintf("neighbour %s of %s", a, e.name),
		there: func() (bool, error) {
			list, err := whole(func() ([]netlink.Neigh, error) { return e.h.NeighList(n.LinkIndex, n.Family) })
			return slices.ContainsFunc(list, func(x netlink.Neigh) bool {
				return addrOf(x.IP) == a && x.State == netlink.NUD_PERMANENT && bytes.Equal(x.HardwareAddr, mac)
			}), err
		},
		make: func() error { return e.h.NeighSet(n) },
	}
}

// policyRule is a rule of the routing policy (ip-rule(8)).
func policyRule(h *netlink.Handle, what string, r *netlink.Rule) piece {
	return piece{
		what: what,
		there: func() (bool, error) {
			list, err := policyRules(h, r.Family)
			return slices.ContainsFunc(list, func(x netlink.Rule) bool { return x.Priority == r.Priority }), err
		},
		make: func() error { return ignore(h.RuleAdd(r), os.ErrExist) },
	}
}

// policyRules returns the rules that lead to the table of marked packets.
func policyRules(h *netlink.Handle, family int) ([]netlink.Rule, error) {
	return whole(func() ([]netlink.Rule, error) {
		return h.RuleListFiltered(family, &netlink.Rule{Table: routeTab}, netlink.RT_FILTER_TABLE)
	})
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
