package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// What a jail sends from the ports that the host has published, or that
// WireGuard has, leaves no entry in the host's connection tracking that others
// could be caught in (Port Shadow, CVE-2021-3773).
func TestPortShadow(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.Host.Run(t, "nft", "add table inet tracked; add chain inet tracked out { type filter hook output priority 0; }; add rule inet tracked out ct state new counter")
		jail := l.up(t)
		l.do(t, "forward", "-d", "8080/udp", "8080/tcp")
		var wireguard uint16
		fmt.Sscan(jail.Run(t, "wg", "show", "vpn", "listen-port"), &wireguard)
		for _, port := range []uint16{8080, wireguard} {
			for _, to := range []string{world.HostV4, world.LANV4, world.EndpointsV4[0], world.InternetV4} {
				if err := sendAs(jail, port, to); err != nil {
					t.Errorf("from port %d to %s: %v", port, to, err)
				}
			}
		}
		if err := sendAs(l.Host, 40404, world.LANV4); err != nil { // the control
			t.Fatal(err)
		}
		if err := echo(jail, "udp", "10.64.0.1:7", "so that all of it has been sent"); err != nil {
			t.Fatal(err)
		}
		text := l.Host.Run(t, "conntrack", "-L", "-o", "extended")
		if !strings.Contains(text, "sport=40404") {
			t.Errorf("the control is not tracked:\n%s", text)
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, "10.64.0.2") || strings.Contains(line, "sport=8080 ") {
				t.Errorf("the jail has made an entry on the host: %s", line)
			}
		}
	})
}

// sendAs sends a datagram to port 4000 of an address, from a port of one's own.
func sendAs(n *world.Node, port uint16, to string) error {
	c, err := n.ListenPacket("udp4", fmt.Sprint("0.0.0.0:", port))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteTo([]byte("shadow"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 4000)))
	return err
}
