package veth_test

import (
	"net"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// TestForward: both protocols and families, from the LAN and from the host by its
// own addresses; the service sees the client. The client on the host's loopback
// is served by the socket on the host.
func TestForward(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		for _, network := range []string{"tcp", "udp"} {
			serve(t, l.jail, "jail", network, "[::]:8080")
			serve(t, l.host, "host", network, "[::]:8080")
		}
		v := l.open(t)
		must(t, expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "8080"), "host "+l.lan4))
		add(t, v, tcp(8080), udp(8080))
		for _, network := range []string{"tcp", "udp"} {
			must(t,
				expect(l.lan, network, net.JoinHostPort(l.hostLAN4, "8080"), "jail "+l.lan4),
				expect(l.lan, network, net.JoinHostPort(l.hostLAN6, "8080"), "jail "+l.lan6),
				expect(l.host, network, net.JoinHostPort(l.hostLAN4, "8080"), "jail "+l.hostLAN4),
				expect(l.host, network, net.JoinHostPort(l.hostLAN6, "8080"), "jail "+l.hostLAN6),
				expect(l.host, network, "127.0.0.1:8080", "host 127.0.0.1"),
				expect(l.host, network, "[::1]:8080", "host ::1"),
			)
		}
	})
}
