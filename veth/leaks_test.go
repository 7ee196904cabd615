package veth_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// never are the probes of what must not happen.
var never = []probe{
	leaks("L9 no link-local addresses on the pair", func(x *target) error {
		for _, end := range []struct {
			n    *world.Node
			link string
		}{{x.host, x.outer}, {x.jail, "host0"}} {
			if a := linkLocal(x.t, end.n, end.link); a != "" {
				return fmt.Errorf("%s of %s has %s", end.link, end.n.Name, a)
			}
		}
		return nil
	}),
	leaks("L8 no route over the pair in the jail", func(x *target) error {
		for _, v := range []string{"-4", "-6"} {
			if out := x.jail.Run(x.t, "ip", v, "route", "show", "dev", "host0"); out != "" {
				return fmt.Errorf("there is: %s", out)
			}
		}
		return nil
	}),
	attack("L10 L12 L25 jail root begins connections: to the host, through the host", func(x *target, i int, canary []byte) error {
		s := x.sides[i]
		for _, to := range []netip.AddrPort{
			netip.AddrPortFrom(s.outer, 7777), at(x.host46()[i], 7777), at(inet46[i], 7777), at(x.lan46()[i], 7777),
		} {
			if err := x.fromJail(udpPacket(netip.AddrPortFrom(s.inner, 8080), to, canary)); err != nil {
				return err
			}
			if err := x.fromJail(tcpPacket(netip.AddrPortFrom(s.inner, 9), to, flagSYN, canary)); err != nil {
				return err
			}
		}
		return nil
	}, func(x *target, i int, canary []byte) error {
		if x.onHost.heard(canary) {
			return errors.New("the host's service heard it")
		}
		if begun, err := conntracked(x.host, x.sides[i].inner, i == 1); begun || err != nil {
			return errors.Join(err, errors.New("it is in the host's connection table"))
		}
		return errors.Join(x.unseen(x.inet, "eth0", canary), x.unseen(x.lan, "eth0", canary))
	}),
	leaks("L12 jail root speaks for somebody else's connection", func(x *target) error {
		return each(func(i int, _ bool) error {
			client := x.hostUDP[i]
			if err := exchange(client, at(elsewhere46[i], 53), "inet"); err != nil {
				return fmt.Errorf("somebody else's redirection: %w", err)
			}
			canary := world.Canary()
			to, _ := netip.ParseAddrPort(client.LocalAddr().String())
			if err := x.fromJail(udpPacket(at([]string{inet4, inet6}[i], 8080), to, canary)); err != nil {
				return err
			}
			if err := exchange(client, at(elsewhere46[i], 53), "inet", canary); err != nil {
				return err
			}
			return nil
		})
	}),
	attack("L11 L33 a socket bound to the pair", func(x *target, i int, canary []byte) error {
		to := []netip.AddrPort{netip.AddrPortFrom(x.sides[i].outer, 7777), at(x.host46()[i], 7777), at(inet46[i], 7777), at(x.lan46()[i], 7777)}
		if i == 1 {
			to = append(to, at("ff02::fb%host0", 5353), at("2001:db8:ffff::77", 9))
		} else {
			to = append(to, at("224.0.0.251", 5353), at("255.255.255.255", 67), at("192.0.2.77", 9))
		}
		for _, t := range to {
			sendBound(x.jail, "host0", t, canary)
		}
		return nil
	}, func(x *target, _ int, canary []byte) error { return x.unseen(x.host, x.outer, canary) }),
	attack("L15 the LAN routes to the pair's address", func(x *target, i int, canary []byte) error {
		to := x.sides[i].inner
		x.lan.Run(x.t, "ip", "route", "replace", to.String(), "via", x.host46()[i])
		return send(x.lan, netip.AddrPortFrom(to, 8080), canary)
	}, func(x *target, _ int, canary []byte) error { return x.unseen(x.jail, "host0", canary) }),
	attack("L15 L21 the host asks the pair's address for a port that is not forwarded", func(x *target, i int, canary []byte) error {
		return send(x.host, netip.AddrPortFrom(x.sides[i].inner, 9999), canary)
	}, notHeard((*target).hiddenService)),
	attack("L18 the LAN goes through the host", func(x *target, i int, canary []byte) error {
		return send(x.lan, at(inet46[i], 8080), canary)
	}, func(x *target, _ int, canary []byte) error { return x.unseen(x.inet, "eth0", canary) }),
	attack("L18 the internet goes through the host", func(x *target, i int, canary []byte) error {
		return send(x.inet, at(x.lan46()[i], 8080), canary)
	}, func(x *target, _ int, canary []byte) error { return x.unseen(x.lan, "eth0", canary) }),
	attack("L21 the host reaches the tunnel's address over the pair", func(x *target, i int, canary []byte) error {
		to := at(tunnel46[i], 8080)
		if i == 0 {
			x.before = len(x.captures[x.host].Frames())
		}
		for _, packet := range [][]byte{
			udpPacket(netip.AddrPortFrom(x.sides[i].outer, 9), to, canary),
			tcpPacket(at(exit46[i], 9), to, flagSYN|flagACK, canary),
			tcpPacket(netip.AddrPortFrom(x.sides[i].outer, 9), to, flagSYN|flagACK, canary),
		} {
			if err := inject(x.host, x.outer, macOf(x.t, x.jail, "host0"), packet); err != nil {
				return err
			}
		}
		return nil
	}, func(x *target, i int, canary []byte) error {
		if x.inJail["udp"].heard(canary) {
			return errors.New("the service heard it")
		}
		return x.noReset(tunnel46[i], x.before)
	}),
	leaks("L21 each end answers questions for addresses", func(x *target) error {
		var errs []error
		for _, q := range []struct {
			from, at *world.Node
			link     string
			who      []string
		}{
			{x.jail, x.host, "host0", []string{x.hostLAN4, "198.51.100.2", x.sides[0].outer.String()}},
			{x.host, x.jail, x.outer, []string{tunnel4, x.sides[0].inner.String()}},
		} {
			l, err := q.from.Netlink.LinkByName(q.link)
			if err != nil {
				return err
			}
			before := len(x.captures[q.from].Frames())
			for _, who := range q.who {
				injectFrame(q.from, l.Attrs().Index, arpRequest(l.Attrs().HardwareAddr, netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr(who)))
			}
			x.settle()
			for _, f := range x.captures[q.from].Frames()[before:] {
				if f.Link == q.link && !f.Out && f.Protocol == unix.ETH_P_ARP {
					errs = append(errs, fmt.Errorf("%s got an answer: % x", q.from.Name, f.Data))
				}
			}
		}
		return errors.Join(errs...)
	}),
	attack("L21 the exit reaches the pair's address through the tunnel", func(x *target, i int, canary []byte) error {
		// As a client of the LAN would: the rules that let it in say so.
		packet := udpPacket(at(x.lan46()[i], 99), netip.AddrPortFrom(x.sides[i].inner, 8080), canary)
		return inject(x.exit, "vpnvpn", macOf(x.t, x.jail, "vpn"), packet)
	}, notHeard((*target).udpService)),
	leaks("L13 a TCP connection that the jail has forgotten", func(x *target) error {
		return each(func(i int, _ bool) error {
			var c net.Conn
			err := x.lan.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", net.JoinHostPort(x.host46()[i], "8080"), patience)
				return err
			})
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := talk(c, patience); err != nil {
				return err
			}
			defer x.inJail["tcp"].drop(c.LocalAddr())
			return x.toldExit(i, func() error {
				if err := x.forgetIn(x.jail); err != nil {
					return err
				}
				// What the service sends now begins, for the jail, a connection.
				return x.inJail["tcp"].sayTo(c.LocalAddr(), "once more")
			})
		})
	}),
	leaks("L13 a UDP client that the jail has forgotten", func(x *target) error {
		return each(func(i int, _ bool) error {
			client := x.lanUDP[i]
			if err := exchange(client, at(x.host46()[i], 8080), "jail"); err != nil {
				return err
			}
			return x.toldExit(i, func() error {
				if err := x.forgetIn(x.jail); err != nil {
					return err
				}
				return x.inJail["udp"].sayTo(client.LocalAddr(), "once more")
			})
		})
	}),
}

// notHeard finds what a service in the jail has heard.
func notHeard(of func(*target) *service) func(*target, int, []byte) error {
	return func(x *target, _ int, canary []byte) error {
		if of(x).heard(canary) {
			return errors.New("the service heard it")
		}
		return nil
	}
}

func (x *target) hiddenService() *service { return x.hidden }
func (x *target) udpService() *service    { return x.inJail["udp"] }

// fromJail puts a packet on the pair as root in the jail can.
func (x *target) fromJail(packet []byte) error {
	return inject(x.jail, "host0", macOf(x.t, x.host, x.outer), packet)
}

// noReset is an error if the jail has answered for an address on the pair, in
// frames that came after the first so many.
func (x *target) noReset(addr string, before int) error {
	a := netip.MustParseAddr(addr)
	for _, f := range x.captures[x.host].Frames()[before:] {
		if h, ok := f.Header(); ok && f.Link == x.outer && !f.Out && h.Src.Addr() == a {
			return fmt.Errorf("%v came out of the jail", f)
		}
	}
	return nil
}

// toldExit does something that makes a service send to a client on the LAN, and
// is an error if the exit saw the client's address.
func (x *target) toldExit(i int, do func() error) error {
	before := len(x.captures[x.exit].Frames())
	if err := do(); err != nil {
		return err
	}
	x.settle()
	client := netip.MustParseAddr(x.lan46()[i]).AsSlice()
	for _, f := range x.captures[x.exit].Frames()[before:] {
		if bytes.Contains(f.Raw, client) {
			return fmt.Errorf("the exit saw %v", f)
		}
	}
	return nil
}

// forgetIn empties a node's connection table.
func (x *target) forgetIn(n *world.Node) error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		return h.ConntrackTableFlush(netlink.ConntrackTable)
	})
}

// exchange sends a datagram and wants an answer of who; what came before must not
// have any of these canaries.
func exchange(c net.PacketConn, to netip.AddrPort, who string, canaries ...[]byte) error {
	mine := world.Canary()
	deadline(c)
	if _, err := c.WriteTo(mine, net.UDPAddrFromAddrPort(to)); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		for _, canary := range canaries {
			if bytes.Contains(buf[:n], canary) {
				return fmt.Errorf("%s was told something in the name of %s", c.LocalAddr(), from)
			}
		}
		if bytes.HasPrefix(buf[:n], []byte(who+" ")) && bytes.Contains(buf[:n], mine) {
			return nil
		}
	}
}
