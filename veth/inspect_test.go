package veth_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// TestCounters: what has gone through each forward, as seen by the process that
// has it and by any other.
func TestCounters(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		for _, network := range []string{"tcp", "udp"} {
			serve(t, l.jail, "jail", network, "[::]:8080")
			serve(t, l.jail, "jail", network, "[::]:8081")
		}
		v := l.open(t)
		forwards := []veth.Forward{tcp(8080), udp(8080), tcp(8081), udp(8081)}
		add(t, v, forwards...)
		const answer = len("jail 192.168.50.2 hello\n")
		var open []net.Conn
		for range 3 {
			c, err := l.lan.Dial("tcp", net.JoinHostPort(l.hostLAN4, "8080"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := talk(c, patience); err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		must(t, expect(l.lan, "udp", net.JoinHostPort(l.hostLAN6, "8080"), "jail "+l.lan6))
		mine, err := v.Inspect()
		if err != nil {
			t.Fatal(err)
		}
		others, err := veth.Inspect(l.opts, forwards)
		if err != nil {
			t.Fatal(err)
		}
		for who, r := range map[string]*veth.Report{"mine": mine, "others": others} {
			if len(r.Missing) > 0 {
				t.Errorf("%s: missing: %v", who, r.Missing)
			}
			c := r.Forwards["tcp-8080"]
			if c.Total != 3 || c.Active != 3 || c.PacketsIn < 3*3 || c.BytesIn < uint64(3*(3*40+5)) || c.BytesOut < uint64(3*(2*40+answer)) || c.PacketsOut < 3*2 {
				t.Errorf("%s: tcp-8080: %+v", who, c)
			}
			const udpHeaders = 48
			c = r.Forwards["udp-8080"]
			want := veth.Counters{Total: 1, Active: 1, PacketsIn: 1, BytesIn: udpHeaders + 5, PacketsOut: 1, BytesOut: uint64(udpHeaders + len("jail 2001:db8:50::2 hello\n"))}
			if c != want {
				t.Errorf("%s: udp-8080: %+v, want %+v", who, c, want)
			}
			for _, id := range []string{"tcp-8081", "udp-8081"} {
				if c := r.Forwards[id]; c != (veth.Counters{}) {
					t.Errorf("%s: %s: %+v", who, id, c)
				}
			}
		}
		_ = open
	})
}

// TestInspectNothing: a pair that is not there is missing.
func TestInspectNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		before := l.host.Snapshot(t)
		r, err := veth.Inspect(l.opts, []veth.Forward{tcp(8080)})
		if err != nil || len(r.Missing) == 0 {
			t.Errorf("Inspect: %+v, %v", r, err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("it changed something:\n%s", d)
		}
	})
}

func loopbackOnly(l *lab, forwards ...veth.Forward) ([]uint16, error) {
	services, err := veth.ListLoopbackServices(l.jail.Namespace, l.opts.TunnelAddrs)
	return services.Of(forwards...), err
}

// TestLoopbackOnlyServices: a service on the jail's loopback only is told from one that is
// reached, and from none.
func TestLoopbackOnlyServices(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		var want []uint16
		for i, x := range []struct {
			listen string
			only   bool
		}{
			{"", false}, {"127.0.0.1", true}, {"127.0.0.5", true}, {"::1", true},
			{"0.0.0.0", false}, {"::", false}, {tunnel4, false}, {tunnel6, false},
		} {
			port := uint16(9000 + i)
			if x.only {
				want = append(want, port)
			}
			for _, network := range []string{"tcp", "udp"} {
				if x.listen != "" {
					serve(t, l.jail, "jail", network, net.JoinHostPort(x.listen, fmt.Sprint(port)))
				}
			}
		}
		// At the tunnel's address as well.
		serve(t, l.jail, "jail", "tcp", "127.0.0.1:9090")
		serve(t, l.jail, "jail", "tcp", tunnel4+":9090")
		// A client's socket is no service.
		if _, err := ask(l.jail, "tcp", "127.0.0.1:9001", patience); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			f := veth.Forward{Network: network, First: 8000, Last: 8090, Target: 9000}
			got, err := loopbackOnly(l, f, f)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: got %v, %v, want %v", network, got, err, want)
			}
			f.Last, f.Target = 8001, 9002
			if got, err := loopbackOnly(l, f); err != nil || !slices.Equal(got, want[1:]) {
				t.Errorf("%s: of two ports got %v, %v, want %v", network, got, err, want[1:])
			}
		}
	})
}

// TestWithoutIPv6: a host whose IPv6 is off forwards IPv4, and a jail whose links
// have it off by default has it on the pair.
func TestWithoutIPv6(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "tcp", "[::]:8080")
		for _, n := range []*world.Node{l.host, l.jail} {
			sysctl(t, n, "net/ipv6/conf/default/disable_ipv6", "1")
		}
		v := l.mustOpen(t)
		add(t, v, tcp(8080))
		must(t, l.everywhere("tcp", "8080")...)
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		sysctl(t, l.host, "net/ipv6/conf/all/disable_ipv6", "1")
		before := l.host.Snapshot(t)
		v = l.mustOpen(t)
		add(t, v, tcp(8080))
		must(t, expect(l.lan, "tcp", net.JoinHostPort(l.hostLAN4, "8080"), "jail "+l.lan4))
		if r, err := v.Inspect(); err != nil || len(r.Missing) > 0 {
			t.Errorf("Inspect: %v, %v", r, err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("left:\n%s", d)
		}
	})
}

// TestTaken: L30: the pair's addresses are in no network of the host, the tunnel or
// the caller, and stay the same while that is so.
func TestTaken(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		chosen := func() [2]netip.Addr {
			t.Helper()
			v := l.mustOpen(t)
			addrs := [2]netip.Addr{netip.MustParseAddr(outerAddr(t, l, false)), netip.MustParseAddr(outerAddr(t, l, true))}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			return addrs
		}
		first := chosen()
		if again := chosen(); again != first {
			t.Errorf("%v, then %v", first, again)
		}
		// A route of the host, in whichever table; then an address; then the caller's.
		l.host.Run(t, "ip", "route", "add", netip.PrefixFrom(first[0], 28).Masked().String(), "dev", "wan0", "table", "77")
		l.host.Run(t, "ip", "addr", "add", netip.PrefixFrom(first[1], 64).String(), "dev", "wan0", "nodad")
		second := chosen()
		for i, bits := range []int{28, 64} {
			if netip.PrefixFrom(first[i], bits).Contains(second[i]) {
				t.Errorf("%v is taken", second[i])
			}
		}
		l.opts.Avoid = append(l.opts.Avoid, netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("128.0.0.0/1"))
		if third := chosen(); netip.MustParsePrefix("169.254.0.0/16").Contains(third[0]) {
			t.Errorf("%v is to be avoided", third[0])
		}
		for _, p := range []string{"100.64.0.0/10", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} {
			l.opts.Avoid = append(l.opts.Avoid, netip.MustParsePrefix(p))
		}
		before := l.host.Snapshot(t)
		if _, err := veth.Open(l.opts); err == nil || !strings.Contains(err.Error(), "no free addresses") {
			t.Errorf("Open: %v", err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("left:\n%s", d)
		}
	})
}

// TestStrangers: links that are not wgjail's are not touched.
func TestStrangers(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		l.host.Run(t, "ip", "link", "add", veth.HostLink("vpn"), "type", "bridge")
		before := l.host.Snapshot(t)
		if _, err := veth.Open(l.opts); err == nil || !strings.Contains(err.Error(), "bridge") {
			t.Errorf("Open: %v", err)
		}
		if err := veth.Teardown("vpn", nil); err != nil {
			t.Errorf("Teardown: %v", err)
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("changed:\n%s", d)
		}
	})
}

// TestBadForwards: what is no forward is refused before anything changes.
func TestBadForwards(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		v := l.open(t)
		routed(t, l.host)
		before := l.host.Snapshot(t)
		for _, change := range []func(*veth.Forward){
			func(f *veth.Forward) { f.ID = "" },
			func(f *veth.Forward) { f.ID = "a b" },
			func(f *veth.Forward) { f.ID = `a"` },
			func(f *veth.Forward) { f.ID = "a\nCOMMIT" },
			func(f *veth.Forward) { f.Network = "sctp" },
			func(f *veth.Forward) { f.First = 0 },
			func(f *veth.Forward) { f.Last = 1 },
			func(f *veth.Forward) { f.Target = 0 },
			func(f *veth.Forward) { f.Last, f.Target = 9000, 65000 },
			func(f *veth.Forward) { f.Source = "nobody" },
			func(f *veth.Forward) { f.Listen = netip.MustParseAddr("::ffff:192.168.1.2") },
		} {
			f := tcp(8080)
			change(&f)
			if err := v.Add(f); err == nil {
				t.Errorf("added %+v", f)
			}
		}
		if d := world.Diff(before, l.host.Snapshot(t)); d != "" {
			t.Errorf("changed:\n%s", d)
		}
	})
}

// TestThousand: a thousand forwards are possible, and so is one more; a range is
// one rule. The times are logged.
func TestThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand forwards take a while")
	}
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "tcp", "[::]:10999")
		v := l.open(t)
		began := time.Now()
		for i := range uint16(1000) {
			add(t, v, tcp(10000+i))
		}
		t.Logf("1000 forwards: %v", time.Since(began))
		var times []time.Duration
		for i := range uint16(20) {
			began := time.Now()
			add(t, v, tcp(20000+i))
			times = append(times, time.Since(began))
		}
		slices.Sort(times)
		t.Logf("one more: between %v and %v, median %v", times[0], times[19], times[10])
		redirections := func() int {
			var out []byte
			err := l.host.Do(func() (err error) {
				out, err = exec.Command("iptables-save").Output()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(string(out), "DNAT --to-destination")
		}
		rules := redirections()
		began = time.Now()
		add(t, v, veth.Forward{ID: "range", Network: "udp", First: 30000, Last: 30999, Target: 40000})
		t.Logf("a range: %v", time.Since(began))
		if more := redirections() - rules; more != 1 {
			t.Errorf("%d rules more", more)
		}
		must(t, l.everywhere("tcp", "10999")...)
		began = time.Now()
		if r, err := v.Inspect(); err != nil || len(r.Missing) > 0 {
			t.Errorf("Inspect: %v, %v", r, err)
		}
		t.Logf("Inspect: %v", time.Since(began))
		began = time.Now()
		if err := v.Remove("tcp-10500"); err != nil {
			t.Error(err)
		}
		t.Logf("Remove: %v", time.Since(began))
	})
}
