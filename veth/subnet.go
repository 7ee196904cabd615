package veth

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
)

// pools are where pairs get their addresses from, in order of preference: IPv4
// link-local addresses (RFC 3927), which no LAN and no tunnel routes, then
// shared and private ones; unique local IPv6 ones (RFC 4193) with a global ID
// that is wgjail's own, then others.
func pools(v6 bool) []netip.Prefix {
	if !v6 {
		return prefixes("169.254.0.0/16", "100.64.0.0/10", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
	}
	var list []netip.Prefix
	for i := range byte(4) {
		sum := sha256.Sum256([]byte{'v', 'e', 't', 'h', i})
		a := [16]byte{0: 0xfd}
		copy(a[1:6], sum[:])
		list = append(list, netip.PrefixFrom(netip.AddrFrom16(a), 48))
	}
	return list
}

// reserved are parts of pools that are never taken: the ends of the link-local
// range (RFC 3927) and the addresses of cloud providers' metadata services.
var reserved = prefixes("169.254.0.0/24", "169.254.255.0/24", "169.254.169.0/24", "169.254.170.0/24", "192.168.0.0/24", "192.168.1.0/24")

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// tries is how many places in a pool are looked at before the next pool is.
const tries = 4096

var errNoAddresses = errors.New("no free addresses for the pair")

// chooseSide returns the addresses for a jail's pair in one family: an even one
// for the host and the next one for the jail. Where to look first depends on the
// jail's name only, so a jail usually gets the same ones again. None of taken
// overlaps with them.
func chooseSide(jail string, v6 bool, taken []netip.Prefix) (side, error) {
	sum := sha256.Sum256([]byte("wgjail veth addresses\x00" + jail))
	start := binary.BigEndian.Uint64(sum[:])
	for _, pool := range pools(v6) {
		if slices.ContainsFunc(taken, func(p netip.Prefix) bool { return p.Bits() <= pool.Bits() && p.Overlaps(pool) }) {
			continue
		}
		pairs := uint64(1) << (min(pool.Addr().BitLen()-pool.Bits(), 64) - 1)
		for i := range uint64(tries) {
			outer := nth(pool.Addr(), 2*((start+i)%pairs))
			couple := netip.PrefixFrom(outer, outer.BitLen()-1)
			if !slices.ContainsFunc(taken, couple.Overlaps) && !slices.ContainsFunc(reserved, couple.Overlaps) {
				return sideOf(outer), nil
			}
		}
	}
	return side{}, hint.Wrap(fmt.Errorf("%w (%s)", errNoAddresses, familyName(v6)),
		"the routes of the host and the tunnel leave no private addresses; relay mode needs none")
}

// nth returns the address that is n after a.
func nth(a netip.Addr, n uint64) netip.Addr {
	sum := new(big.Int).SetBytes(a.AsSlice())
	sum.Add(sum, new(big.Int).SetUint64(n))
	out, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, a.BitLen()/8)))
	return out
}

// takenOnHost returns the networks that the host has addresses in or routes to,
// in any table, except by default routes.
func takenOnHost(h *netlink.Handle) ([]netip.Prefix, error) {
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addrs {
		taken = append(taken, prefixOf(a.IPNet).Masked())
		if a.Peer != nil {
			taken = append(taken, prefixOf(a.Peer).Masked())
		}
	}
	for _, v6 := range []bool{false, true} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family(v6), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list the host's routes: %w", err)
		}
		for _, r := range routes {
			if p := prefixOf(r.Dst); p.IsValid() && !isDefault(p) {
				taken = append(taken, p.Masked())
			}
		}
	}
	return taken, nil
}

// isDefault reports whether a route to p is a default route, whole or in two
// halves, as VPN clients write it.
func isDefault(p netip.Prefix) bool { return p.Bits() <= 1 }
