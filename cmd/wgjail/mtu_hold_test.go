package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// silence makes the other end of the tunnel answer to no echo requests.
func (l *lab) silence(t *testing.T) {
	t.Helper()
	l.Exit.Run(t, "nft", `table inet silence {
		chain input { type filter hook prerouting priority 0; icmp type echo-request drop; icmpv6 type echo-request drop; }
	}`)
}

// held waits until the jail's routes hold packets to so many bytes, or to none
// but the interface's if that is 0.
func (l *lab) held(t *testing.T, inside *world.Node, to int) {
	t.Helper()
	world.Eventually(t, fmt.Sprintf("packets held to %d", to), func() error {
		for _, family := range []string{"-4", "-6"} {
			routes := inside.Run(t, "ip", family, "route", "show", "default")
			if got := strings.Contains(routes, fmt.Sprintf(" mtu %d ", to)); got != (to != 0) || to == 0 && strings.Contains(routes, " mtu ") {
				return fmt.Errorf("the route is %s", routes)
			}
		}
		return nil
	})
}

// As long as nobody says what the path lets through, no transfer stalls, in
// neither direction: the path loses packets of the size that the interface has.
func TestTransfersOnAnUnknownPath(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.narrow(t, outer+1300)
		l.silence(t)
		inside := l.up(t)
		l.hasMTU(t, inside, 1420)
		l.held(t, inside, 1280)
		for _, network := range []string{world.InternetV4 + ":7", "[" + world.InternetV6 + "]:7"} {
			c, err := inside.Dial("tcp", network)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			transfer(t, c, 1<<20)
		}
		f := l.check(t, "--timeout", "300ms").find(t, "mtu")
		if f.Result != string(jail.NotApplicable) || !strings.Contains(f.Why, "held to 1280 bytes, unless the configuration has a line MTU") {
			t.Errorf("check says %+v", f)
		}
	})
}

// What has been shown to pass is used from the first connection on, and so is
// what the configuration says. On a new path nothing is known.
func TestWhatIsHeld(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		if routes := inside.Run(t, "ip", "route") + inside.Run(t, "ip", "-6", "route"); strings.Contains(routes, "mtu 1280") {
			t.Errorf("on a path that lets everything through the routes are %s", routes)
		}
		l.silence(t)
		chatter(t, inside)
		l.Host.Run(t, "ip", "route", "add", world.EndpointsV4[0], "dev", "wan0", "src", "192.168.77.1")
		l.Inet.Run(t, "ip", "route", "replace", "192.168.77.0/24", "via", world.HostV4)
		l.held(t, inside, 1280)
		l.Exit.Run(t, "nft", "delete table inet silence")
		l.held(t, inside, 0)
		l.do(t, "down", "vpn")

		l.silence(t)
		text := strings.Replace(l.Client.Config(), "[Peer]", "MTU = 1400\n[Peer]", 1)
		if err := os.WriteFile(l.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		inside = l.up(t)
		l.hasMTU(t, inside, 1400)
		l.held(t, inside, 0)
	})
}

// A path that lets more through again is noticed, although it is the same one.
func TestKeeperRaisesTheMTU(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.narrow(t, outer+1350)
		inside := l.upInHaste(t, 100)
		chatter(t, inside)
		l.hasMTU(t, inside, 1344)
		l.held(t, inside, 0)
		l.narrow(t, outer+1400)
		l.hasMTU(t, inside, 1392)
		l.did(t, "the path loses packets of more than 1392 bytes; MTU raised from 1344 to 1392")
		l.narrow(t, 0)
		l.hasMTU(t, inside, 1420)
		l.did(t, "the path lets packets of 1420 bytes through; MTU raised from 1392 to 1420")
		l.held(t, inside, 0)
		l.usable(t, "after all that")
	})
}
