package main

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// Whatever becomes of the tunnel, what a proxy is asked for goes through it or
// nowhere: connections, datagrams and names.
func TestProxyLeaksNothing(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		wt := l.watch(t)
		jail := l.up(t)
		l.do(t, "proxy", "-d", "--dial-timeout", "300ms")
		world.Eventually(t, "the tunnel", func() error { return echo(jail, "udp", "10.64.0.1:7", "handshake") })
		run := func(script string) func(*testing.T) {
			return func(t *testing.T) { jail.Run(t, "sh", "-c", script) }
		}
		nothing := func(*testing.T) {}
		repair := func(t *testing.T) { l.do(t, "up", l.conf) }
		for _, tt := range []struct {
			state       string
			tunnel      bool // the tunnel works
			spoil, mend func(*testing.T)
		}{
			{"up", true, nothing, nothing},
			{"endpoint silent", false, func(*testing.T) { l.Provider.Blackhole(true) }, func(*testing.T) { l.Provider.Blackhole(false) }},
			{"interface down", false, run("ip link set vpn down"), repair},
			{"addresses gone", false, run("ip addr flush dev vpn"), repair},
			{"keeper killed", kernelBackend(), func(*testing.T) { killProcess(t, l.keeper(t)) }, repair},
			{"interface deleted", false, run("ip link del vpn"), repair},
			{"rules flushed", true, run("nft flush ruleset"), repair},
		} {
			t.Run(tt.state, func(t *testing.T) {
				tt.spoil(t)
				before := wt.mark(t)
				canary := world.Canary()
				tried := l.askProxy(t, canary)
				wt.nothingButLoSince(t, before, canary)
				if n := len(l.Provider.Find(canary)); (n > 0) != tt.tunnel {
					t.Errorf("%d of %d came out of the tunnel", n, tried)
				}
				tt.mend(t)
			})
		}
	})
}

// askProxy sends the canary to every address that is probed, and asks for it as
// a name. It returns how often.
func (l *lab) askProxy(t *testing.T, canary []byte) (tried int) {
	t.Helper()
	control, udp, err := associate(l.Host, "127.0.0.1:1080")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	defer udp.Close()
	var wg sync.WaitGroup
	for _, addr := range probed {
		for _, port := range []uint16{53, 443} {
			tried += 2
			to := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
			udp.Write(append(socksHeader(to), canary...))
			wg.Go(func() {
				if c, err := socks(l.Host, "127.0.0.1:1080", to.String(), nil); err == nil {
					c.SetDeadline(time.Now().Add(probePatience))
					c.Write(canary)
					io.ReadFull(c, make([]byte, len(canary))) // the echo: it has arrived
					c.Close()
				}
			})
		}
	}
	wg.Go(func() { socks(l.Host, "127.0.0.1:1080", string(bytes.ToLower(canary))+".test:443", nil) })
	wg.Wait()
	return tried
}

// socksHeader is what a datagram to an address begins with.
func socksHeader(to netip.AddrPort) []byte {
	kind := byte(1)
	if to.Addr().Is6() {
		kind = 4
	}
	h := append([]byte{0, 0, 0, kind}, to.Addr().AsSlice()...)
	return append(h, byte(to.Port()>>8), byte(to.Port()))
}

// nothingButLoSince is nothingSince, but for what the proxy's clients on this
// host say to it.
func (wt *watch) nothingButLoSince(t *testing.T, m mark, canary []byte) {
	t.Helper()
	wt.Sync(t)
	for _, f := range wt.Frames()[m.frames:] {
		if f.Link == "lo" {
			continue
		}
		if bytes.Contains(bytes.ToLower(f.Raw), bytes.ToLower(canary)) {
			t.Errorf("in clear: %v", f)
		}
		if !wt.tunnel(f) && !world.Neighbour(f) {
			t.Errorf("crossed the host's links: %v", f)
		}
	}
	for name, s := range wt.services {
		for _, call := range s.Calls()[m.calls[name]:] {
			t.Errorf("a service in the %s was called: %+v", name, call)
		}
	}
}
