package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// haste is how much faster keepers are in these tests: a handshake is overdue
// after 4.5 s instead of 135.
const haste = 30

// upHasty makes the jail vpn, whose endpoint is the name vpn.test, with a keeper
// that does not wait for long.
func (l *lab) upHasty(t *testing.T) *world.Node {
	t.Helper()
	return l.upInHaste(t, haste)
}

func (l *lab) upInHaste(t *testing.T, haste int) *world.Node {
	t.Helper()
	l.Client.Endpoint = "vpn.test:" + world.EndpointPort
	l.conf = l.Conf(t, "vpn")
	if r := l.runCmd(t, withEnv([]string{fmt.Sprintf("%s=%d", hasteVariable, haste)}, "up", l.conf)); r.status != 0 {
		t.Fatalf("up: exit status %d", r.status)
	}
	keeperBegun(t)
	return l.w.Open(t, "vpn")
}

func keeperBegun(t *testing.T) {
	t.Helper()
	world.Eventually(t, "the keeper to begin", func() error {
		if log := keeperLog(t); !strings.Contains(log, "keeper started") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
}

func keeperLog(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile("/run/wgjail/vpn/keeper.log")
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// move moves the provider, and its name with it.
func (l *lab) move(t *testing.T, to string) {
	t.Helper()
	at := netip.MustParseAddr(to)
	l.Sink.SetName("vpn.test", at)
	if err := l.Provider.SetEndpoint(netip.AddrPortFrom(at, 0)); err != nil {
		t.Fatal(err)
	}
}

// chatter sends datagrams from the jail until the test ends, as programs do
// that know nothing of tunnels.
func chatter(t *testing.T, inside *world.Node) {
	t.Helper()
	c, err := inside.Dial("udp4", world.InternetV4+":7")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); c.Close() })
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				c.Write([]byte("hello"))
			}
		}
	}()
}

// repairs returns what status says that the keeper has done.
func (l *lab) repairs(t *testing.T) string {
	t.Helper()
	s, err := jail.ReadStatus("vpn")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, r := range s.Repairs {
		if age := time.Since(r.At); age < 0 || age > time.Hour {
			t.Errorf("it was done at %v", r.At)
		}
		fmt.Fprintln(&text, r.What)
	}
	return text.String()
}

// did waits until the keeper has done something.
func (l *lab) did(t *testing.T, what string) {
	t.Helper()
	world.Eventually(t, "keeper: "+what, func() error {
		if done := l.repairs(t); !strings.Contains(done, what) {
			return fmt.Errorf("it has done:\n%s", done)
		}
		return nil
	})
}

func endpoint(t *testing.T, inside *world.Node) string {
	t.Helper()
	return strings.Fields(inside.Run(t, "wg", "show", "vpn", "endpoints"))[1]
}

// The server moves, its name with it, and connections go on: to another address,
// to another family and back. Nothing but the endpoint changes.
func TestKeeperFollowsTheServer(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		c := connect(t, inside)
		c.goesOn(t, "up")
		chatter(t, inside)
		look := func() string {
			return inside.Snapshot(t) + inside.Run(t, "wg", "show", "vpn", "listen-port") + fmt.Sprint(keeperPid(t))
		}
		before, from := look(), netip.MustParseAddrPort(world.EndpointsV4[0]+":51820")
		for _, to := range []string{world.EndpointsV4[1], world.EndpointsV6[0], world.EndpointsV4[0]} {
			l.move(t, to)
			at := netip.AddrPortFrom(netip.MustParseAddr(to), 51820)
			moved := fmt.Sprintf("handshake overdue; moved vpn.test from %s to %s", from, at)
			l.did(t, moved)
			c.goesOn(t, "the move to "+at.String())
			if got := endpoint(t, inside); got != at.String() {
				t.Errorf("the endpoint is %s, want %s", got, at)
			}
			l.did(t, "the tunnel goes on at "+at.String())
			if log := keeperLog(t); !strings.Contains(log, moved) {
				t.Errorf("the log says:\n%s", log)
			}
			from = at
		}
		world.Eventually(t, "nothing else to have changed", func() error { // on a new path the MTU is probed first
			if diff := world.Diff(before, look()); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
		if l.Provider.Queries() != nil {
			t.Error("the name was looked up inside")
		}
	})
}

// A name may have an address at which nobody answers, in a family that the host
// has routes for.
func TestKeeperTriesTheOtherFamily(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.Sink.SetName("vpn.test", netip.MustParseAddr(world.EndpointsV6[0]), netip.MustParseAddr(world.EndpointsV4[0]))
		inside := l.upHasty(t)
		if at := endpoint(t, inside); at == l.Provider.Endpoint().String() {
			t.Fatalf("it begins at %s", at)
		}
		chatter(t, inside)
		l.did(t, "moved vpn.test from [2001:db8:1::10]:51820 to 198.51.100.10:51820")
		l.did(t, "the tunnel goes on at 198.51.100.10:51820")
		l.usable(t, "with an address at which nobody answers")
	})
}

// While nobody answers, the name is looked up ever less often.
func TestKeeperDoesNotStorm(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		l.usable(t, "after up")
		chatter(t, inside)
		asked := len(l.Sink.Queries())
		l.Provider.Blackhole(true)
		began := time.Now()
		l.did(t, "vpn.test has no other address that the host has a route to")
		world.Eventually(t, "a stale tunnel", func() error {
			s, err := jail.ReadStatus("vpn")
			if err == nil && s.State != jail.StateStale {
				err = fmt.Errorf("it is %s", s.State)
			}
			return err
		})
		// Pauses of 1, 2, 4, 8 and 10 s. A look-up is a query for each family.
		lookups, most := (len(l.Sink.Queries())-asked+1)/2, 4+int(time.Since(began)/(10*time.Second))
		if lookups == 0 || lookups > most {
			t.Errorf("in %v the name was looked up %d times, want at most %d", time.Since(began), lookups, most)
		}
		// The server's return is enough.
		l.Provider.Blackhole(false)
		l.usable(t, "after the server was away")
		l.did(t, "the tunnel answers again")
	})
}

// The host gets another address, and the server hears of it before a program in
// the jail says anything.
func TestKeeperNoticesAnUplink(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		c := connect(t, inside)
		c.goesOn(t, "up")
		l.Host.Run(t, "ip", "addr", "add", "198.51.100.3/24", "dev", "wan0")
		l.Host.Run(t, "sysctl", "net.ipv4.conf.wan0.promote_secondaries=1")
		l.Host.Run(t, "ip", "addr", "del", "198.51.100.2/24", "dev", "wan0")
		l.Host.Run(t, "ip", "route", "replace", "default", "via", world.GatewayV4)
		l.did(t, "the host reaches 198.51.100.10 from 198.51.100.3 now")
		world.Eventually(t, "the server to know the new address", func() error {
			peer, err := l.Provider.Peer(l.Client.PublicKey())
			if err == nil && peer.Endpoint.Addr().String() != "198.51.100.3" {
				err = fmt.Errorf("it has %v", peer.Endpoint)
			}
			return err
		})
		c.goesOn(t, "the change of the uplink")
		// A family that the host loses.
		l.Sink.SetName("vpn.test", netip.MustParseAddr(world.EndpointsV6[0]), netip.MustParseAddr(world.EndpointsV4[0]))
		if err := l.Provider.SetEndpoint(netip.MustParseAddrPort("[" + world.EndpointsV6[0] + "]:51820")); err != nil {
			t.Fatal(err)
		}
		l.Host.Run(t, "ip", "route", "add", "unreachable", world.EndpointsV4[0])
		c.goesOn(t, "the loss of a family")
		l.did(t, "no route to 198.51.100.10; moved vpn.test from 198.51.100.10:51820 to [2001:db8:1::10]:51820")
	})
}
