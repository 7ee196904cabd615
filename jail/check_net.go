package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/veth"
)

// fallbackLinks come with their modules into every namespace, unless the host's
// net.core.fb_tunnels_only_for_init_net says otherwise. While they are down
// they lead nowhere.
var fallbackLinks = []string{"erspan0", "gre0", "gretap0", "ip6_vti0", "ip6gre0", "ip6tnl0", "ip_vti0", "sit0", "tunl0"}

// probeInterfaces wants no interface but lo and the tunnel.
func (c *checker) probeInterfaces(context.Context) outcome {
	var strange []string
	err := withJail(c.ns, func(h *netlink.Handle) error {
		links, err := whole(h.LinkList)
		for _, l := range links {
			a := l.Attrs()
			idle := slices.Contains(fallbackLinks, a.Name) && a.Flags&net.FlagUp == 0
			if a.Name != "lo" && a.Name != c.Name && !idle && !c.isPair(l) {
				strange = append(strange, a.Name)
			}
		}
		return err
	})
	switch {
	case err != nil:
		return unknown(err)
	case len(strange) > 0:
		return failed(fmt.Sprintf("ip -n %s link delete %s, and find out what put it there", c.Name, strange[0]),
			"in the jail is another interface: %s", strings.Join(strange, ", "))
	}
	return passed("there are lo and %s, and no other%s", c.Name, c.butPair())
}

// probeTunnel looks at what up gave to lo and to the tunnel.
func (c *checker) probeTunnel(ctx context.Context) outcome {
	if v := c.part(partLoopback, "")(ctx); v.result == Failed {
		return v
	}
	return c.part(partTunnel, fmt.Sprintf("%s is up with its addresses, its routes and MTU %d", c.Name, c.MTU))(ctx)
}

// probeRoutes wants every route of every table to lead into the tunnel or stay
// in the jail, and asks the kernel which way it would take.
func (c *checker) probeRoutes(context.Context) outcome {
	stray := ""
	err := withJail(c.ns, func(h *netlink.Handle) error {
		own, err := c.ownLinks(h)
		if err != nil {
			return err
		}
		pair := c.pairIndex(h)
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := whole(func() ([]netlink.Route, error) { return h.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE) })
			if err != nil {
				return err
			}
			for _, r := range routes {
				paired := r.LinkIndex == pair && (r.Table == veth.RouteTable() || r.Table == unix.RT_TABLE_LOCAL)
				if leaves(&r, own) && !paired {
					stray = r.String()
				}
			}
		}
		for _, to := range nowhere {
			routes, err := h.RouteGet(to.AsSlice())
			if err == nil && leaves(&routes[0], own) {
				stray = fmt.Sprintf("the way to %s", to)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return unknown(err)
	case stray != "":
		return failed(c.anew(), "a route leads neither into the tunnel nor to lo: %s", stray)
	case len(c.Routes) == 0:
		return passed("there is none that leads out")
	}
	return passed("%s and nothing else, into the tunnel", c.routesText())
}

func (c *checker) routesText() string {
	if n := len(c.Routes); n > 4 {
		return fmt.Sprintf("%d routes", n)
	}
	var texts []string
	for _, r := range c.Routes {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}

// nowhere are addresses that nobody has (RFC 5737, RFC 3849).
var nowhere = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}

// ownLinks returns the numbers of lo and of the tunnel. Number 0 is none.
func (c *checker) ownLinks(h *netlink.Handle) (map[int]bool, error) {
	own := map[int]bool{0: true}
	for _, name := range []string{"lo", c.Name} {
		l, err := h.LinkByName(name)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		own[l.Attrs().Index] = true
	}
	return own, nil
}

func leaves(r *netlink.Route, own map[int]bool) bool {
	for _, hop := range r.MultiPath {
		if !own[hop.LinkIndex] {
			return true
		}
	}
	return !own[r.LinkIndex]
}

// addresses returns the addresses in the jail for which keep is true.
func (c *checker) addresses(keep func(netip.Addr) bool) ([]netip.Prefix, error) {
	var list []netip.Prefix
	err := withJail(c.ns, func(h *netlink.Handle) error {
		addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
		pair := c.pairIndex(h)
		for _, a := range addrs {
			if p := prefixOf(a.IPNet); keep(p.Addr()) && !slices.Contains(c.Addresses, p) && (pair == 0 || a.LinkIndex != pair) {
				list = append(list, p)
			}
		}
		return err
	})
	return list, err
}

// probeSysctls looks at what up has set, and at what the tunnel's interface
// has made of it.
func (c *checker) probeSysctls(ctx context.Context) outcome {
	if v := c.part(partSysctls, "")(ctx); v.result == Failed {
		return v
	}
	var own []setting
	for _, s := range settings {
		for _, of := range []string{"/all/", "/default/"} {
			here := setting{strings.Replace(s.path, of, "/"+c.Name+"/", 1), s.value}
			if here != s && !slices.Contains(own, here) {
				own = append(own, here)
			}
		}
	}
	err := c.ns.Do(func() error { return checkSettings(own) })
	if errors.Is(err, os.ErrNotExist) {
		return failed(c.again(), "there is no interface %s", c.Name)
	}
	if err != nil {
		return failed(c.anew(), "%v", err)
	}
	return passed("%d settings are as up made them: nothing is forwarded, redirected or guessed", len(settings)+len(own))
}

// waysOut names the ports that lead out of the jail because the user has opened
// them.
func (c *checker) waysOut() []string {
	forwards, err := forwardsIn(c.Name)
	if err != nil {
		return []string{fmt.Sprintf("the forwards cannot be looked at: %v", err)}
	}
	var list []string
	for _, f := range forwards {
		if f.Reverse {
			list = append(list, fmt.Sprintf("%s/%s in the jail leads to %s on the host's side, by a reverse forward", f.Listen, f.Proto, f.Target))
		}
	}
	return list
}
