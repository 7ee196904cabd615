package jail

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// probeIPv6 wants IPv6 to be in the tunnel as IPv4 is, or not to be there.
func (c *checker) probeIPv6(context.Context) outcome {
	if !haveIPv6() {
		return skipped("the kernel has no IPv6")
	}
	strange, err := c.addresses(func(a netip.Addr) bool {
		return a.Is6() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && a != standInIPv6.Addr()
	})
	if err != nil {
		return unknown(err)
	}
	if len(strange) > 0 {
		return failed(fmt.Sprintf("ip -n %s address delete %s dev %s", c.Name, strange[0], c.Name),
			"an address is not from the configuration: %s", strange[0])
	}
	if len(standIns(c.Addresses)) > 0 && !slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return c.probeWithoutIPv6()
	}
	err = c.ns.Do(func() error {
		conf := filepath.Join("ipv6/conf", c.Name)
		return checkSettings([]setting{{filepath.Join(conf, "accept_ra"), "0"}, {filepath.Join(conf, "addr_gen_mode"), "1"}})
	})
	if err != nil {
		return failed(c.anew(), "the tunnel's interface could take an address from outside: %v", err)
	}
	return passed("its addresses are those of the configuration, and no router can add to them")
}

// probeWithoutIPv6 sends an IPv6 packet, which must be refused at once.
func (c *checker) probeWithoutIPv6() outcome {
	err := c.ns.Do(func() error { return sendFrom(nowhere[1], unix.SOCK_DGRAM, 443) })
	if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return failed(c.anew(), "the configuration has no IPv6 address, but a packet was not refused: %v", orSent(err))
	}
	path := filepath.Join("ipv6/conf", c.Name, "disable_ipv6")
	err = c.ns.Do(func() error {
		if missing(filepath.Join(sysctlDir, path)) {
			return nil // an MTU below 1280 leaves none
		}
		return checkSettings([]setting{{path, "1"}})
	})
	if err != nil {
		return failed(c.again(), "the configuration has no IPv6 address, but the interface has IPv6: %v", err)
	}
	return passed("the configuration has none, so it is off: programs are told at once")
}

func orSent(err error) string {
	if err == nil {
		return "it was sent"
	}
	return err.Error()
}

// probeLinkLocal wants no address that a link gives itself: it would be one
// that the provider did not give.
func (c *checker) probeLinkLocal(context.Context) outcome {
	strange, err := c.addresses(netip.Addr.IsLinkLocalUnicast)
	if err != nil {
		return unknown(err)
	}
	if len(strange) > 0 {
		return failed(fmt.Sprintf("ip -n %s address delete %s dev %s", c.Name, strange[0], c.Name),
			"there is one that is not from the configuration: %s", strange[0])
	}
	return passed("there is none that is not from the configuration")
}
