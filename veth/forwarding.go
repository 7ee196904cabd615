package veth

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Packets from clients arrive on the host's other links, whose forwarding is
// usually off. It is switched on for each of them, never for the whole host, and
// the rule (4) of rules.go sees to it that nothing is forwarded but to jails.
// Which links were switched on is kept with the pair, as the alias of the host's
// end, and in those rules; a link that two jails need is switched off with the
// second one.
//
// IPv4 has net.ipv4.conf.LINK.forwarding, which counts where a packet comes in.
// IPv6 has net.ipv6.conf.LINK.force_forwarding for that, since Linux 6.17.
// Before, net.ipv6.conf.all.forwarding is the only switch: then that is used,
// and the rule guards all links. It would also make the host stop believing in
// router advertisements, and forget its default route, so net.ipv6.conf.LINK
// .forwarding, which only says whether the host is a router there, is kept as it
// was (kernel: Documentation/networking/ip-sysctl).
type forwarding struct {
	h      *netlink.Handle
	global bool // IPv6 has one switch for all links only
}

func newForwarding(h *netlink.Handle) forwarding {
	return forwarding{h, !hasSysctl("ipv6/conf/lo/force_forwarding")}
}

// perLink reports whether the family has a switch for each link.
func (f forwarding) perLink(v6 bool) bool { return !v6 || !f.global }

func switchOf(v6 bool, link string) string {
	if v6 {
		return "ipv6/conf/" + link + "/force_forwarding"
	}
	return "ipv4/conf/" + link + "/forwarding"
}

func allSwitch(v6 bool) string {
	if v6 {
		return "ipv6/conf/all/forwarding"
	}
	return "ipv4/conf/all/forwarding"
}

// wanted returns the links that must be switched on, or have been by us: mine
// are those known to be switched on by this jail, others' by other jails. Links
// that forward anyway are not among them.
func (f forwarding) wanted(v6 bool, mine, others []string) ([]string, error) {
	known := func(link string) bool { return slices.Contains(mine, link) || slices.Contains(others, link) }
	all, err := readSysctl(allSwitch(v6))
	if err != nil {
		return nil, err
	}
	if !f.perLink(v6) {
		if all == "0" || known(everyLink) {
			return []string{everyLink}, nil
		}
		return nil, nil
	}
	if all == "1" {
		return nil, nil // somebody else has made the host a router
	}
	links, err := f.ingress(v6)
	if err != nil {
		return nil, err
	}
	var want []string
	for _, link := range links {
		now, err := readSysctl(switchOf(v6, link))
		if err != nil {
			continue // it has just gone
		}
		if now == "0" || known(link) {
			want = append(want, link)
		}
	}
	return want, nil
}

// ingress returns the links that clients come from: all that have an address
// that can be reached through forwarding.
func (f forwarding) ingress(v6 bool) ([]string, error) {
	links, err := whole(f.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return f.h.AddrList(nil, family(v6)) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var list []string
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || strings.HasPrefix(a.Name, linkPrefix) {
			continue
		}
		if slices.ContainsFunc(addrs, func(x netlink.Addr) bool {
			return x.LinkIndex == a.Index && !(v6 && addrOf(x.IP).IsLinkLocalUnicast())
		}) {
			list = append(list, a.Name)
		}
	}
	slices.Sort(list)
	return list, nil
}

// switchOn makes links forward. Their guards must be in place.
func (f forwarding) switchOn(v6 bool, links []string) error {
	for _, link := range links {
		if link == everyLink {
			if err := allForwarding6("1"); err != nil {
				return err
			}
			continue
		}
		if err := writeSysctl(switchOf(v6, link), "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// switchOff undoes switchOn. Links of a host that has become a router since are
// not ours to switch off.
func (f forwarding) switchOff(v6 bool, links []string) error {
	all, err := readSysctl(allSwitch(v6))
	if err != nil {
		return ignore(err, os.ErrNotExist)
	}
	var errs []error
	for _, link := range links {
		switch {
		case link == everyLink:
			errs = append(errs, allForwarding6("0"))
		case all == "0":
			errs = append(errs, ignore(writeSysctl(switchOf(v6, link), "0"), os.ErrNotExist))
		}
	}
	return errors.Join(errs...)
}

// isOn reports whether the links forward.
func (f forwarding) isOn(v6 bool, links []string) bool {
	for _, link := range links {
		path := switchOf(v6, link)
		if link == everyLink {
			path = allSwitch(true)
		}
		if now, err := readSysctl(path); err == nil && now != "1" {
			return false
		}
	}
	return true
}

// allForwarding6 sets net.ipv6.conf.all.forwarding and nothing else: the kernel
// would change every link's, and on the way to 1 remove the default routes that
// came by router advertisement, unless accept_ra is 2.
func allForwarding6(value string) error {
	if now, err := readSysctl(allSwitch(true)); err != nil || now == value {
		return err
	}
	var errs []error
	dirs, err := filepath.Glob(filepath.Join(sysctls, "ipv6/conf/*"))
	if err != nil {
		return err
	}
	before := map[string]string{} // sysctl, value
	for _, dir := range dirs {
		link := filepath.Base(dir)
		if link == "all" {
			continue
		}
		for _, name := range []string{"forwarding", "accept_ra"} {
			path := filepath.Join("ipv6/conf", link, name)
			if now, err := readSysctl(path); err == nil {
				before[path] = now
			}
		}
	}
	for path, now := range before {
		if value == "1" && filepath.Base(path) == "accept_ra" && now == "1" {
			errs = append(errs, ignore(writeSysctl(path, "2"), os.ErrNotExist))
		}
	}
	errs = append(errs, writeSysctl(allSwitch(true), value))
	for path, now := range before { // a value that is the same is not written: that has effects, too
		if is, err := readSysctl(path); err == nil && is != now {
			errs = append(errs, ignore(writeSysctl(path, now), os.ErrNotExist))
		}
	}
	return errors.Join(errs...)
}
