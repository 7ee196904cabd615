package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// probed are the addresses that a leak could go to: the internet, the LAN, the
// host, its gateway, and the provider's own endpoint.
var probed = []string{
	world.InternetV4, world.InternetV6,
	world.LANV4, world.LANV6,
	world.HostV4, world.HostV6, world.HostLANV4, world.HostLANV6,
	world.GatewayV4, world.GatewayV6,
	world.EndpointsV4[0], world.EndpointsV6[0],
}

// targets returns what probe is to send to. Multicast, broadcast and the LAN
// machine's link-local address need a link, the one that leads out.
func (wt *watch) targets(link string) []string {
	var list []string
	for _, addr := range probed {
		a := netip.MustParseAddr(addr)
		for _, port := range []uint16{provider.DNSPort, 443} {
			list = append(list, fmt.Sprint("tcp/", netip.AddrPortFrom(a, port)))
		}
		for _, port := range []uint16{provider.DNSPort, 443, 4000} {
			list = append(list, fmt.Sprint("udp/", netip.AddrPortFrom(a, port)))
		}
		list = append(list, fmt.Sprint("icmp/", netip.AddrPortFrom(a, 0)))
	}
	for _, to := range []string{"224.0.0.251:5353", "[ff02::fb]:5353", wt.neighbour + ":4000", "255.255.255.255:67"} {
		list = append(list, "udp/"+to+"/"+link)
	}
	return list
}

// A watch looks for what leaves the jail in clear: it sees every link of the
// host, and the services in the internet, the LAN and the host.
type watch struct {
	*world.Capture
	l        *lab
	services map[string]*provider.Services
	endpoint netip.AddrPort // of a tunnel besides the lab's

	neighbour string // the LAN machine's link-local address, in brackets
}

// tunnel reports whether f belongs to a tunnel: it is a datagram to or from the
// endpoint, or the kernel's answer to one for a socket that is closed by now.
func (wt *watch) tunnel(f world.Frame) bool {
	h, ok := f.Header()
	if ok && h.Protocol == unix.IPPROTO_ICMP && len(f.Data) > 28 && f.Data[20] == 3 { // RFC 792
		f.Data = f.Data[28:]
		return wt.tunnel(f)
	}
	return wt.l.Tunnel(f) || ok && h.Protocol == unix.IPPROTO_UDP && h.Dst == wt.endpoint
}

// watch begins to watch, with a positive control of each probe: from the host
// it is seen.
func (l *lab) watch(t *testing.T) *watch {
	t.Helper()
	wt := &watch{Capture: l.Host.CaptureAll(t), l: l, services: map[string]*provider.Services{"internet": l.Sink}}
	for name, node := range map[string]*world.Node{"host": l.Host, "LAN": l.LAN} {
		s, err := provider.Serve(node.Namespace, world.EchoPorts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		wt.services[name] = s
	}
	eth0, err := l.LAN.Netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := l.LAN.Netlink.AddrList(eth0, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() {
			wt.neighbour = "[" + a.IP.String() + "]"
		}
	}
	if err := l.Host.Sysctl("net/ipv4/ping_group_range", "0 2147483647"); err != nil { // as in the jail
		t.Fatal(err)
	}
	untilSeen(t, "the positive controls", string(world.Canary()), wt.targets("lan0"),
		func(probes []string) { l.Host.Run(t, "probe", probes...); wt.Sync(t) },
		func(probe []byte) bool { return len(wt.Find(probe)) > 0 })
	return wt
}

// untilSeen sends probes until each has been seen. A lost one is sent again: a
// connection takes longer than a probe waits where the machine is busy, or
// emulated. What seen tells is whether a target's canary has come by.
func untilSeen(t *testing.T, what, canary string, targets []string, send func(probes []string), seen func(probe []byte) bool) {
	t.Helper()
	world.Eventually(t, what, func() error {
		var missing []string
		for i, target := range targets {
			if target != "-" && seen(fmt.Appendf(nil, "%s%03d", canary, i)) {
				targets[i] = "-"
			} else if target != "-" {
				missing = append(missing, target)
			}
		}
		if missing == nil {
			return nil
		}
		send(append([]string{canary}, targets...))
		return fmt.Errorf("not seen: %q", missing)
	})
}

// A mark is how much a watch had seen at some time.
type mark struct {
	frames int
	calls  map[string]int
}

func (wt *watch) mark(t *testing.T) mark {
	t.Helper()
	wt.Sync(t)
	m := mark{frames: len(wt.Frames()), calls: map[string]int{}}
	for name, s := range wt.services {
		m.calls[name] = len(s.Calls())
	}
	return m
}

// nothingSince fails the test if anything has crossed the host's links since
// the mark but the tunnel itself and what neighbours say, or if a canary has.
func (wt *watch) nothingSince(t *testing.T, m mark, canary string) {
	t.Helper()
	wt.MustNotSee(t, []byte(canary))
	var leaked []world.Frame
	for _, f := range wt.Frames()[m.frames:] {
		if !wt.tunnel(f) && !world.Neighbour(f) {
			leaked = append(leaked, f)
		}
	}
	if len(leaked) > 0 {
		t.Errorf("crossed the host's links: %s", world.Lines(leaked))
	}
	for name, s := range wt.services {
		for _, call := range s.Calls()[m.calls[name]:] {
			t.Errorf("a service in the %s was called: %+v", name, call)
		}
	}
}

// insiders are those who try to get out: root with its capabilities, as it is in
// hooks and with --keep-caps, and a user as programs usually are. Without root
// it is the same user, with all rights over the jail and with none.
func (l *lab) insiders() [][]string {
	if l.user != nil {
		return [][]string{{"--keep-caps"}, {}}
	}
	return [][]string{{"--keep-caps", "--user", "0"}, {"--user", "65534:65534"}}
}

// exec runs probe in the jail called name.
func (wt *watch) exec(t *testing.T, insider []string, name string, probes ...string) {
	t.Helper()
	wt.l.do(t, slices.Concat([]string{"exec"}, insider, []string{name, "--", "probe"}, probes)...)
}

// probeFrom sends probes from the jail called name and wants none of them in
// clear. It returns their canaries, one for each insider.
func (wt *watch) probeFrom(t *testing.T, name string) []string {
	t.Helper()
	var canaries []string
	for _, insider := range wt.l.insiders() {
		canary := string(world.Canary())
		before := wt.mark(t)
		wt.exec(t, insider, name, append([]string{canary}, wt.targets(name)...)...)
		wt.nothingSince(t, before, canary)
		canaries = append(canaries, canary)
	}
	return canaries
}

// Whatever becomes of the tunnel, what is sent in the jail goes through it or
// nowhere.
func TestNothingLeaves(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		wt := l.watch(t)
		begun := wt.mark(t)
		jail := l.up(t)
		l.hold(t)
		// The first packets wait for the handshake, longer than a probe does
		// where the machine is emulated.
		world.Eventually(t, "the tunnel", func() error { return echo(jail, "udp", "10.64.0.1:7", "handshake") })
		run := func(n *world.Node, script string) func(*testing.T) {
			return func(t *testing.T) { n.Run(t, "sh", "-c", script) }
		}
		signalKeeper := func(sig syscall.Signal) func(*testing.T) {
			return func(t *testing.T) { syscall.Kill(l.keeper(t), sig) }
		}
		nothing := func(*testing.T) {}
		const readdress = "ip route replace default via " + world.GatewayV4 + "; ip -6 addr replace " + world.HostV6 + "/64 dev wan0 nodad; ip -6 route replace default via " + world.GatewayV6
		const refuse = "nft 'add table inet refuse; add chain inet refuse in { type filter hook input priority 0; }; add rule inet refuse in udp dport " + world.EndpointPort + " reject'"
		var flapper *world.Process
		flap := func(t *testing.T) {
			flapper = l.Host.Start(t, exec.Command("sh", "-c", "while ip link set wan0 down; ip link set wan0 up; "+readdress+"; do :; done"))
		}
		unflap := func(t *testing.T) {
			flapper.Signal(t, syscall.SIGTERM)
			flapper.Wait()
			l.Host.Run(t, "sh", "-c", "ip link set wan0 up; "+readdress)
		}
		repair := func(t *testing.T) { l.do(t, "up", l.conf) }
		for _, tt := range []struct {
			state    string
			spoil    func(*testing.T)
			mend     func(*testing.T)
			tunnel   bool // the tunnel works
			backends string
		}{
			{"up", nothing, nothing, true, ""},
			{"endpoint silent", func(*testing.T) { l.Provider.Blackhole(true) }, func(*testing.T) { l.Provider.Blackhole(false) }, false, ""},
			{"interface down", run(jail, "ip link set vpn down"), repair, false, ""},
			{"addresses gone", run(jail, "ip addr flush dev vpn"), repair, false, ""},
			{"keeper stopped", signalKeeper(syscall.SIGSTOP), signalKeeper(syscall.SIGCONT), false, "userspace"},
			{"keeper killed", func(t *testing.T) { killProcess(t, l.keeper(t)) }, repair, false, ""},
			{"interface deleted", run(jail, "ip link del vpn"), repair, false, ""},
			{"rules flushed", run(jail, "nft flush ruleset"), repair, true, ""},
			{"endpoint unreachable", run(l.Inet, refuse), run(l.Inet, "nft delete table inet refuse"), false, ""},
			{"uplink down", run(l.Host, "ip link set wan0 down"), run(l.Host, "ip link set wan0 up; "+readdress), false, ""},
			{"uplink flapping", flap, unflap, false, ""},
			{"uplink's address changed", run(l.Host, "ip addr flush dev wan0; ip addr add 198.51.100.3/24 dev wan0; ip route add default via "+world.GatewayV4),
				run(l.Host, "ip addr flush dev wan0; ip addr add "+world.HostV4+"/24 dev wan0; "+readdress), true, ""},
			{"host's routes hijacked", run(l.Host, "for n in 0.0.0.0/1 128.0.0.0/1 "+world.InternetV4+"/32; do ip route add $n via "+world.LANV4+"; done"),
				run(l.Host, "ip route flush via "+world.LANV4), false, ""},
			{"host forwards", run(l.Host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"), nothing, true, ""},
		} {
			if tt.backends != "" && tt.backends != l.backend() {
				continue
			}
			t.Run(tt.state, func(t *testing.T) {
				tt.spoil(t)
				defer tt.mend(t)
				canaries := wt.probeFrom(t, "vpn")
				if tt.tunnel {
					wt.mustArrive(t, canaries)
				}
			})
		}
		l.do(t, "down", "vpn")
		wt.nothingSince(t, begun, string(world.Canary()))
	})
}

// mustArrive wants the probes to the internet that probeFrom has sent from the
// jail vpn, to what is not a name server's port, to come out of the tunnel.
func (wt *watch) mustArrive(t *testing.T, canaries []string) {
	t.Helper()
	targets := wt.targets("vpn")
	for i, target := range targets {
		if !strings.Contains(target, world.InternetV4) && !strings.Contains(target, world.InternetV6) || strings.HasSuffix(target, ":53") {
			targets[i] = "-"
		}
	}
	for i, insider := range wt.l.insiders() {
		untilSeen(t, "the probes through the tunnel", canaries[i], slices.Clone(targets),
			func(probes []string) { wt.exec(t, insider, "vpn", probes...) },
			func(probe []byte) bool { return len(wt.l.Provider.Find(probe)) > 0 })
	}
}

// With keys that the server does not know there is no tunnel, and nothing else.
func TestNothingLeavesWithoutAHandshake(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		wt := l.watch(t)
		stranger, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		// Somebody who never answers.
		wt.endpoint = netip.MustParseAddrPort(world.EndpointsV4[1] + ":1")
		silent, err := l.Inet.ListenPacket("udp4", wt.endpoint.String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		right := *l.Client
		for name, change := range map[string]func(){
			"wrongkey":    func() { l.Client.PrivateKey = stranger },
			"wrongpsk":    func() { l.Client.PresharedKey = stranger },
			"wrongserver": func() { l.Client.Server = stranger.PublicKey() },
			"noendpoint":  func() { l.Client.Endpoint = wt.endpoint.String() },
		} {
			*l.Client = right
			change()
			l.do(t, "up", l.Conf(t, name))
			wt.probeFrom(t, name)
			l.do(t, "down", name)
		}
	})
}

// A program that is in the namespace from its first moment, and one that stays
// when the jail is gone, never get out.
func TestNothingLeavesBeforeAndAfter(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		wt := l.watch(t)
		for range times(5, 2) {
			before := wt.mark(t)
			spinners := l.spinners(t)
			l.do(t, "up", l.conf)
			for canary := range spinners {
				world.Eventually(t, "a spinner to get through the tunnel", func() error {
					if len(l.Provider.Find([]byte(canary))) == 0 {
						return errors.New("nothing of it has arrived")
					}
					return nil
				})
			}
			l.do(t, "down", "vpn")
			wt.end(t, spinners, before)
		}
		l.do(t, "up", l.conf)
		for _, insider := range l.insiders() {
			wt.survive(t, insider)
			wt.orphan(t, insider)
		}
	})
}

// spun is where spinners send to.
func spun() []string {
	var targets []string
	for _, addr := range []string{world.InternetV4, world.InternetV6, world.LANV4, world.HostV4, world.EndpointsV4[0]} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), 443)
		targets = append(targets, fmt.Sprint("udp/", at), fmt.Sprint("icmp/", at))
	}
	return targets
}

// spinners start to send canaries from the jail vpn, as root and as a user, as
// soon as there is one. They return by canary.
func (l *lab) spinners(t *testing.T) map[string]*world.Process {
	t.Helper()
	all := map[string]*world.Process{}
	file, uids := netnsx.Path("vpn"), []string{"0", "65534"}
	if l.user != nil {
		file, uids = "/proc/[0-9]*/root"+file, []string{"0", fmt.Sprint(l.user.UID)}
	}
	for _, uid := range uids {
		canary := string(world.Canary())
		p := l.Host.Start(t, exec.Command("probe", append([]string{"-spin", file, uid, canary}, spun()...)...))
		p.WaitOutput(t, "waiting\n")
		all[canary] = p
	}
	return all
}

// end ends the spinners and wants nothing of them in clear.
func (wt *watch) end(t *testing.T, spinners map[string]*world.Process, before mark) {
	t.Helper()
	for _, p := range spinners {
		p.Signal(t, syscall.SIGTERM)
		if err := p.Wait(); err != nil || !regexp.MustCompile(`^waiting\ntried [1-9][0-9]* times\n$`).MatchString(p.Output()) {
			t.Errorf("a spinner ended with %v: %q", err, p.Output())
		}
	}
	for canary := range spinners {
		wt.nothingSince(t, before, canary)
	}
}

// survive has a program outlive the jail vpn, and makes the jail again.
func (wt *watch) survive(t *testing.T, insider []string) {
	t.Helper()
	p := wt.insider(t, insider)
	wt.l.do(t, "down", "vpn")
	p.probe(t)
	wt.l.do(t, "up", wt.l.conf)
}

// orphan has a program outlive the keeper of the jail vpn, and with a user's jail
// all that holds it but the program itself. A repair finds the program.
func (wt *watch) orphan(t *testing.T, insider []string) {
	t.Helper()
	p := wt.insider(t, insider)
	killProcess(t, wt.l.keeper(t))
	p.probe(t)
	wt.l.do(t, "up", wt.l.conf)
	world.Eventually(t, "the program's probes through the tunnel", func() error {
		if len(wt.l.Provider.Find([]byte(p.probe(t)))) == 0 {
			return errors.New("none has arrived")
		}
		return nil
	})
}

// An insider is a program in the jail vpn that probes when it is told to.
type insider struct {
	*world.Process
	wt    *watch
	stdin io.Writer
	told  int
}

// insider starts one, with these options of exec.
func (wt *watch) insider(t *testing.T, opts []string) *insider {
	t.Helper()
	const script = `echo ready; while read n canary; do probe $canary "$@" >/dev/null; echo done $n; done`
	args := append(append([]string{"exec"}, opts...), "vpn", "--", "sh", "-c", script, "sh")
	cmd := wt.l.command(append(args, wt.targets("vpn")...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	i := &insider{Process: wt.l.Host.Start(t, cmd), wt: wt, stdin: stdin}
	i.WaitOutput(t, "ready\n")
	return i
}

// probe sends probes, wants none of them in clear, and returns their canary.
func (i *insider) probe(t *testing.T) string {
	t.Helper()
	canary := string(world.Canary())
	before := i.wt.mark(t)
	i.told++
	fmt.Fprintln(i.stdin, i.told, canary)
	i.WaitOutput(t, fmt.Sprintln("done", i.told))
	i.wt.nothingSince(t, before, canary)
	return canary
}
