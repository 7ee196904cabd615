package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// narrow makes the path between the host and the provider lose packets of more
// than size bytes, outer header and all, without a word. 0 ends that.
func (l *lab) narrow(t *testing.T, size int) {
	t.Helper()
	for _, end := range []struct {
		*world.Node
		link string
	}{{l.Host, "wan0"}, {l.Inet, "eth0"}} {
		// Many datagrams in one piece are not what travels on a real path.
		end.Run(t, "ip", "link", "set", end.link, "gso_max_segs", "1")
		end.Run(t, "nft", "add table inet path; delete table inet path")
		if size > 0 {
			end.Run(t, "nft", fmt.Sprintf(`table inet path {
				chain input { type filter hook input priority 0; iifname %s meta l4proto udp meta length > %d drop; }
			}`, end.link, size))
		}
	}
}

// outer is what the tunnel adds on an IPv4 path: IPv4, UDP and WireGuard.
const outer = 20 + 8 + 32

func TestProbeMTU(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		for _, tt := range []struct{ path, passes int }{
			{0, 1420},
			{outer + 1420, 1420},
			{outer + 1419, 1408},
			{outer + 1280, 1280},
			{outer + 1000, 96}, // too narrow for IPv6
		} {
			l.narrow(t, tt.path)
			r, err := jail.ProbeMTU(context.Background(), "vpn")
			if err != nil {
				t.Fatal(err)
			}
			// The keeper may come to lower the MTU meanwhile.
			if r.MTU < tt.passes || r.Passes != tt.passes || r.Target != provider.ServerV4 && r.Target != provider.ServerV6 || r.Narrow() != (tt.passes < r.MTU) {
				t.Errorf("on a path of %d bytes it found %+v, want %d", tt.path, *r, tt.passes)
			}
		}
		l.narrow(t, 0)
		l.Provider.Blackhole(true)
		if r, err := jail.ProbeMTU(context.Background(), "vpn"); err != nil || r.Passes != 0 || r.Narrow() || r.Target.IsValid() {
			t.Errorf("where nobody answers it found %+v, %v", r, err)
		}
	})
}

// transfer sends so many bytes to an echo service and wants them back.
func transfer(t *testing.T, c net.Conn, size int) {
	t.Helper()
	c.SetDeadline(time.Now().Add(world.AtMost(time.Minute)))
	sent := rand.NewChaCha8([32]byte{})
	go io.CopyN(c, sent, int64(size))
	same, got := rand.NewChaCha8([32]byte{}), make([]byte, 1<<16)
	for left := size; left > 0; {
		n, err := c.Read(got[:min(left, len(got))])
		if err != nil {
			t.Fatalf("with %d of %d bytes to come: %v", left, size, err)
		}
		want := make([]byte, n)
		same.Read(want)
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("with %d bytes to come they are others", left)
		}
		left -= n
	}
}

// upload sends so many bytes out of the jail to one who says when they are there.
func (l *lab) upload(inside *world.Node, size int64) error {
	at, err := l.Exit.Listen("tcp", world.InternetV4+":9")
	if err != nil {
		return err
	}
	defer at.Close()
	got := make(chan error, 1)
	go func() {
		c, err := at.Accept()
		if err != nil {
			got <- err
			return
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, c)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes have come of %d", n, size)
		}
		got <- err
	}()
	c, err := inside.Dial("tcp", at.Addr().String())
	if err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(world.AtMost(time.Minute)))
	_, err = io.CopyN(c, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, c.Close(), <-got)
}

func (l *lab) hasMTU(t *testing.T, inside *world.Node, want int) {
	t.Helper()
	world.Eventually(t, fmt.Sprintf("an MTU of %d", want), func() error {
		link, err := inside.Netlink.LinkByName("vpn")
		if err != nil {
			return err
		}
		s, err := jail.ReadStatus("vpn")
		if err == nil && (link.Attrs().MTU != want || s.MTU != want || s.State != jail.StateUp) {
			err = fmt.Errorf("it is %d, status says %d, %s: %q", link.Attrs().MTU, s.MTU, s.State, s.Missing)
		}
		return err
	})
}

// A path that loses large packets is noticed, and transfers go on.
func TestKeeperLowersTheMTU(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.narrow(t, outer+1350)
		inside := l.upHasty(t)
		l.hasMTU(t, inside, 1420)
		upload := make(chan error, 1)
		go func() { upload <- l.upload(inside, int64(times(10<<20, 1<<20))) }() // begins before the keeper knows
		l.hasMTU(t, inside, 1344)
		if err := <-upload; err != nil {
			t.Errorf("what began before: %v", err)
		}
		l.did(t, "the path loses packets of more than 1344 bytes; MTU lowered from 1420 to 1344")
		for _, network := range []string{world.InternetV4 + ":7", "[" + world.InternetV6 + "]:7"} {
			c, err := inside.Dial("tcp", network)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			transfer(t, c, times(10<<20, 1<<20))
		}
		if out := l.do(t, "up", l.conf); out != "jail vpn is already up\n" {
			t.Errorf("up printed %q", out)
		}
		killKeeper(t)
		l.do(t, "up", l.conf)
		l.hasMTU(t, inside, 1344)
	})
}

// On another path the keeper begins from the top, and stops at what IPv6 needs.
func TestKeeperProbesANewPath(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.narrow(t, outer+1200)
		inside := l.upHasty(t)
		chatter(t, inside)
		l.hasMTU(t, inside, 1280)
		l.did(t, "the path loses packets of 1280 bytes, which the jail's addresses need; MTU lowered from 1420 to 1280")
		l.narrow(t, 0)
		l.Host.Run(t, "ip", "route", "add", world.EndpointsV4[0], "dev", "wan0", "src", "192.168.77.1")
		l.Inet.Run(t, "ip", "route", "replace", "192.168.77.0/24", "via", world.HostV4)
		l.hasMTU(t, inside, 1420)
		l.usable(t, "on another path")
	})
}

// What has no IPv6 may be narrower.
func TestKeeperLowersTheMTUForIPv4(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.narrow(t, outer+1000)
		l.Client.Addresses = l.Client.Addresses[:1]
		inside := l.upHasty(t)
		chatter(t, inside)
		l.hasMTU(t, inside, 992)
		c, err := inside.Dial("tcp", world.InternetV4+":7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		transfer(t, c, 1<<20)
	})
}
