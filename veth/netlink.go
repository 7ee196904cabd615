package veth

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// openNetlink returns a handle that works in ns, or where the caller is if ns is
// nil, from any thread.
func openNetlink(ns *netnsx.Namespace, families ...int) (h *netlink.Handle, err error) {
	err = in(ns, func() (err error) {
		h, err = netlink.NewHandle(families...)
		return err
	})
	return h, err
}

// in calls fn in ns, or where the caller is if ns is nil.
func in(ns *netnsx.Namespace, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return ns.Do(fn)
}

// whole repeats a dump that was interrupted by a change until it was not.
func whole[T any](dump func() (T, error)) (T, error) {
	for {
		list, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// linkNamed returns the link, or nil if there is none.
func linkNamed(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if isNotFound(err) {
		return nil, nil
	}
	return link, err
}

func family(v6 bool) int {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// single is the prefix of one address.
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, size := n.Mask.Size()
	a, _ := netip.AddrFromSlice(n.IP)
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
