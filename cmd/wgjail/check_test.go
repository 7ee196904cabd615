package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/world"
)

// A checkReport is what wgjail check --json prints.
type checkReport struct {
	Name     string
	OK       bool
	Probes   []checkFinding
	Warnings []string
}

type checkFinding struct{ ID, Probe, Result, Why, Do string }

// check checks the jail vpn. The exit status must fit the report.
func (l *lab) check(t *testing.T, args ...string) checkReport {
	t.Helper()
	r := l.run(t, append([]string{"check", "vpn", "--json", "--timeout", "10s"}, args...)...)
	var report checkReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("check --json: %v", err)
	}
	if want := map[bool]int{true: 0, false: 1}[report.OK]; r.status != want || report.OK != (len(report.failed()) == 0) {
		t.Errorf("exit status %d, ok %v, failed %q", r.status, report.OK, report.failed())
	}
	return report
}

// failed returns the probes that failed.
func (r checkReport) failed() []string {
	var ids []string
	for _, p := range r.Probes {
		if p.Result == "failed" {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

func (r checkReport) find(t *testing.T, id string) checkFinding {
	t.Helper()
	for _, p := range r.Probes {
		if p.ID == id {
			return p
		}
	}
	t.Fatalf("there is no probe %s", id)
	return checkFinding{}
}

// A breach is a way in which a jail can be broken.
type breach struct {
	name   string
	fails  []string // which probes see it; the first one says why
	why    string   // what it says
	breach func(*testing.T)
	mend   func(*testing.T)
	args   []string
}

// breaches break the jail vpn in every way that a probe is there for.
func (l *lab) breaches(host func(script string) func(*testing.T)) []breach {
	up := func(t *testing.T) { l.do(t, "up", l.conf) }
	anew := func(t *testing.T) { l.do(t, "down", "--kill", "vpn"); l.do(t, "up", l.conf) }
	quickly := []string{"--timeout", "300ms"}
	const link = "ip link add peer9 type veth peer name eth9 netns vpn; ip -n vpn link set eth9 up; "
	return []breach{
		{"keeper killed", append([]string{"keeper"}, ifUserspace("handshake")...), "the keeper is not running", nil, up, quickly},
		{"interface added", []string{"interfaces"}, "another interface: eth9", host(link), host("ip link del peer9"), nil},
		{"route added", []string{"routes", "interfaces"}, "neither into the tunnel", host(link + "ip -n vpn addr flush dev eth9; ip -n vpn route add 198.18.0.0/15 dev eth9"), host("ip link del peer9"), nil},
		{"address lost", []string{"tunnel", "dns"}, "address 10.64.0.2/32 is missing", host("ip -n vpn addr del 10.64.0.2/32 dev vpn"), up, quickly},
		{"route lost", []string{"tunnel", "dns"}, "route 0.0.0.0/0 is missing", host("ip -n vpn route del default"), up, quickly},
		{"IPv6 address added", []string{"ipv6"}, "2001:db8:66::1/64", host("ip -n vpn addr add 2001:db8:66::1/64 dev vpn"), host("ip -n vpn addr del 2001:db8:66::1/64 dev vpn"), nil},
		{"IPv6 routers believed", []string{"ipv6", "sysctls"}, "accept_ra is 1", host("ip netns exec vpn sysctl -qw net.ipv6.conf.vpn.accept_ra=1"), anew, nil},
		{"link-local address added", []string{"link-local"}, "fe80::1/64", host("ip -n vpn addr add fe80::1/64 dev vpn"), host("ip -n vpn addr del fe80::1/64 dev vpn"), nil},
		{"IPv4 link-local address added", []string{"link-local"}, "169.254.7.7/16", host("ip -n vpn addr add 169.254.7.7/16 dev lo"), host("ip -n vpn addr del 169.254.7.7/16 dev lo"), nil},
		{"inbound rules flushed", []string{"inbound"}, "chain input of table wgjail has 0 rules, not 2", host("ip netns exec vpn nft flush chain inet wgjail input"), up, nil},
		{"inbound rules replaced", []string{"inbound"}, "has another rule number 1", host("ip netns exec vpn nft 'flush chain inet wgjail input; add rule inet wgjail input accept; add rule inet wgjail input accept'"), up, nil},
		{"rules for name servers flushed", []string{"dns-refused", "rules"}, "8 of 8 packets", host("ip netns exec vpn nft flush chain inet wgjail output"), up, nil},
		{"table deleted", []string{"rules", "inbound", "dns-refused"}, "chain output of table wgjail is not there", host("ip netns exec vpn nft delete table inet wgjail"), up, nil},
		{"sysctl changed", []string{"sysctls"}, "net.ipv4.conf.all.accept_redirects is 1", host("ip netns exec vpn sysctl -qw net.ipv4.conf.all.accept_redirects=1"), up, nil},
		{"interface's sysctl changed", []string{"sysctls"}, "net.ipv4.conf.vpn.forwarding is 1", host("ip netns exec vpn sysctl -qw net.ipv4.conf.vpn.forwarding=1"), host("ip netns exec vpn sysctl -qw net.ipv4.conf.vpn.forwarding=0"), nil},
		{"resolv.conf rewritten", []string{"files", "masks"}, "/etc/netns/vpn/resolv.conf: changed", host("echo nameserver 192.0.2.1 >/etc/netns/vpn/resolv.conf"), up, nil},
		{"nsswitch.conf rewritten", []string{"masks", "files"}, "resolves names with: resolve", host("echo hosts: resolve >/etc/netns/vpn/nsswitch.conf"), up, nil},
		{"resolv.conf open to all", []string{"files"}, "its mode is 0666", host("chmod 666 /etc/netns/vpn/resolv.conf"), host("chmod 644 /etc/netns/vpn/resolv.conf"), nil},
		{"state given away", []string{"files"}, "belongs to user 65534", host("chown 65534 /run/wgjail/vpn/keeper.log"), host("chown 0 /run/wgjail/vpn/keeper.log"), nil},
		{"tunnel made inside", []string{"tunnel-socket", "capabilities", "masks", "handshake"}, "it is in the jail", nil, anew, quickly},
		{"program with a socket from outside", []string{"program-sockets", "capabilities", "masks"}, "(descriptor 3)", nil, nil, nil},
		{"program with capabilities", []string{"capabilities"}, "has CAP_SYS_ADMIN", nil, nil, nil},
		{"program that can get capabilities", []string{"capabilities"}, "can get CAP_SYS_ADMIN", nil, nil, nil},
		{"program without masks", []string{"masks"}, "sees the host's /run", nil, nil, nil},
		{"silence", []string{"dns"}, "no answer from 10.64.0.1, fd64::1", func(*testing.T) { l.Provider.Blackhole(true) }, func(*testing.T) { l.Provider.Blackhole(false) }, quickly},
		{"narrow path", []string{"mtu"}, "packets of 1420 bytes are lost on the way; those of 12", func(t *testing.T) { l.narrow(t, 60+1300) }, func(t *testing.T) { l.narrow(t, 0) }, quickly},
		{"hopeless path", []string{"mtu"}, "packets of 1280 bytes, the least that must pass, are lost", func(t *testing.T) { l.narrow(t, 60+1000) }, func(t *testing.T) { l.narrow(t, 0) }, quickly},
		{"page that sees both", []string{"egress"}, "sees 192.0.2.99 from inside and from the host", nil, nil, []string{"--egress", "http://" + world.InternetV4 + ":8080/"}},
		{"page without an address", []string{"egress"}, "there is no address in", nil, nil, []string{"--egress", "http://" + world.InternetV4 + ":8080/none"}},
	}
}

func TestCheckFindsBreaches(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		host := func(script string) func(*testing.T) {
			return func(t *testing.T) { l.Host.Run(t, "sh", "-ec", script) }
		}
		if r := l.check(t); !r.OK || len(r.Warnings) > 0 {
			t.Errorf("a new jail: %v %v", r.failed(), r.Warnings)
		}
		l.servePages(t)
		seen := map[string]bool{"namespace": true, "handshake": true, "redirections": true} // by the tests below
		for _, b := range l.breaches(host) {
			t.Run(b.name, func(t *testing.T) {
				if b.breach == nil {
					l.breach(t, b.name)
				} else {
					b.breach(t)
				}
				r := l.check(t, b.args...)
				want := slices.Sorted(slices.Values(b.fails))
				if got := slices.Sorted(slices.Values(r.failed())); !slices.Equal(got, want) {
					t.Errorf("failed are %q, want %q", got, want)
				}
				f := r.find(t, b.fails[0])
				if !strings.Contains(f.Why, b.why) || f.Do == "" {
					t.Errorf("%s says %q, and to do: %q; want %q", f.ID, f.Why, f.Do, b.why)
				}
				seen[b.fails[0]] = true
				if b.mend != nil {
					b.mend(t)
				}
			})
		}
		r := l.check(t, "--egress", "http://"+world.InternetV4)
		if !r.OK || r.find(t, "egress").Why != "10.64.0.2 is seen from outside, and the host is 198.51.100.2" {
			t.Errorf("in the end: %+v", r)
		}
		for _, p := range r.Probes {
			if !seen[p.ID] {
				t.Errorf("nothing makes the probe %s fail", p.ID)
			}
		}
	})
}

// ifUserspace returns what fails only if the keeper is the tunnel.
func ifUserspace(ids ...string) []string {
	if kernelBackend() {
		return nil
	}
	return ids
}

// breach does what takes more than a shell.
func (l *lab) breach(t *testing.T, name string) {
	t.Helper()
	unprivileged := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	inside := func(args ...string) {
		cmd := exec.Command(args[0], args[1:]...)
		if name == "program with a socket from outside" {
			socket, err := l.Host.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			file, err := socket.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			cmd.ExtraFiles = []*os.File{file}
		}
		p := l.Host.Start(t, cmd) // it ends with the test
		world.Eventually(t, "the program inside", func() error {
			for _, s := range l.status(t).Processes {
				if s.PID == p.Pid && strings.HasPrefix(s.Command, "sleep 1007") {
					return nil
				}
			}
			return fmt.Errorf("it is not there")
		})
	}
	switch name {
	case "keeper killed":
		killKeeper(t)
	case "tunnel made inside":
		killKeeper(t)
		l.Host.Run(t, "ip", "-n", "vpn", "link", "delete", "vpn")
		l.Host.Run(t, "nsenter", "--net=/run/netns/vpn", "wgjail", "up", l.conf)
	case "program with a socket from outside":
		inside("nsenter", "--net=/run/netns/vpn", "sleep", "1007")
	case "program with capabilities":
		inside("wgjail", "exec", "--keep-caps", "--user", "0", "vpn", "--", "sleep", "1007")
	case "program that can get capabilities":
		inside(append(append([]string{"wgjail", "exec", "--keep-caps", "--user", "0", "vpn", "--"}, unprivileged...), "sleep", "1007")...)
	case "program without masks":
		inside(append(append([]string{"ip", "netns", "exec", "vpn"}, unprivileged...), "--no-new-privs", "sleep", "1007")...)
	}
}

// servePages serves, inside and outside the tunnel, a page that sees everybody
// as one.
func (l *lab) servePages(t *testing.T) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "you are 192.0.2.99.") })
	mux.HandleFunc("/none", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "bad cafe: 12.34") })
	for _, n := range []*world.Node{l.Exit, l.Inet} {
		listener, err := n.Listen("tcp4", world.InternetV4+":8080")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: mux}
		t.Cleanup(func() { server.Close() })
		go server.Serve(listener)
	}
}

// What a jail without IPv6, without name servers and without a tunnel that
// works says.
func TestCheckOtherJails(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		stranger, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		right := l.Client.PrivateKey
		l.Client.PrivateKey = stranger
		l.do(t, "up", l.Conf(t, "vpn"))
		r := l.check(t, "--timeout", "300ms")
		if got := r.failed(); !slices.Equal(got, []string{"handshake"}) || !strings.Contains(r.find(t, "handshake").Why, "the server does not answer at 198.51.100.10:51820 (no handshake yet)") {
			t.Errorf("with a wrong key failed %q: %+v", got, r.find(t, "handshake"))
		}
		for _, id := range []string{"dns", "mtu", "egress"} {
			if f := r.find(t, id); f.Result != "not applicable" {
				t.Errorf("with a wrong key: %+v", f)
			}
		}
		l.do(t, "down", "vpn")
		l.Client.PrivateKey = right
		only4 := l.write(t, "vpn", "Address = 10.64.0.2/32", "AllowedIPs = 0.0.0.0/0\nEndpoint = "+l.Client.Endpoint)
		l.do(t, "up", only4)
		if r = l.check(t); !r.OK || r.find(t, "dns").Result != "not applicable" {
			t.Errorf("with IPv4 and no name server failed %q: %+v", r.failed(), r.find(t, "dns"))
		}
		l.Host.Run(t, "ip", "netns", "exec", "vpn", "sysctl", "-qw", "net.ipv6.conf.vpn.disable_ipv6=0")
		r = l.check(t)
		if got := r.failed(); !slices.Contains(got, "ipv6") || !strings.Contains(r.find(t, "ipv6").Why, "disable_ipv6 is 0") {
			t.Errorf("with IPv6 switched on failed %q: %+v", got, r.find(t, "ipv6"))
		}
		l.Host.Run(t, "ip", "netns", "delete", "vpn")
		l.Host.Run(t, "ip", "netns", "add", "vpn")
		r = l.check(t)
		if got := r.failed(); !slices.Equal(got, []string{"namespace"}) || !strings.Contains(r.find(t, "namespace").Why, "someone has replaced it") {
			t.Errorf("with another namespace failed %q: %+v", got, r.find(t, "namespace"))
		}
	})
}

// A program that runs outside too, under the same user, is warned of.
func TestCheckWarnsOfTwins(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		started := func(args ...string) {
			l.Host.Start(t, exec.Command(args[0], args[1:]...))
		}
		sleeps := func(n int) func() error {
			return func() error {
				found := 0
				for _, p := range l.status(t).Processes {
					if strings.HasPrefix(p.Command, "sleep 10") {
						found++
					}
				}
				if found != n {
					return fmt.Errorf("%d programs inside, want %d", found, n)
				}
				return nil
			}
		}
		outside := exec.Command("sleep", "1001")
		outside.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 7000, Gid: 7000}}
		l.Host.Start(t, outside)
		started("wgjail", "exec", "--user", "7001:7001", "vpn", "--", "sleep", "1002") // another user
		started("wgjail", "exec", "--user", "7000:7000", "--isolate", "vpn", "--", "sleep", "1003")
		world.Eventually(t, "two programs", sleeps(2))
		if r := l.check(t); !r.OK || len(r.Warnings) > 0 {
			t.Errorf("failed %q, warned %q", r.failed(), r.Warnings)
		}
		started("wgjail", "exec", "--user", "7000:7000", "vpn", "--", "sleep", "1004")
		started("wgjail", "exec", "--user", "7000:7000", "vpn", "--", "sleep", "1005")
		world.Eventually(t, "four programs", sleeps(4))
		if r := l.check(t); !r.OK || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "(sleep) runs outside as well, as process") {
			t.Errorf("failed %q, warned %q", r.failed(), r.Warnings)
		}
	})
}

// The table says the same as JSON does, in colours only where they can be seen.
func TestCheckTable(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		l.Host.Run(t, "ip", "netns", "exec", "vpn", "nft", "flush chain inet wgjail input")
		r := l.run(t, "check")
		report := l.check(t)
		for _, p := range report.Probes {
			if !regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(p.Result)+` +`+regexp.QuoteMeta(p.Probe)+` +\S`).MatchString(r.out) || !strings.Contains(r.out, p.Do) {
				t.Errorf("not in the table: %+v", p)
			}
		}
		last := fmt.Sprintf("\n1 of %d probes failed; 2 not applicable\n", len(report.Probes)-2)
		if r.status != 1 || r.err != "" || !strings.HasSuffix(r.out, last) {
			t.Errorf("check ended with %+v; want at its end %q", r, last)
		}
		const red, green = "\x1b[1;31mfailed\x1b[0m", "\x1b[32mpassed\x1b[0m"
		for _, tt := range []struct {
			env      []string
			coloured bool
		}{{[]string{"TERM=xterm", "NO_COLOR="}, true}, {[]string{"TERM=xterm", "NO_COLOR=1"}, false}, {[]string{"TERM=dumb", "NO_COLOR="}, false}} {
			cmd := exec.Command("wgjail", "check")
			cmd.Env = append(os.Environ(), tt.env...)
			term := startOnTerminal(t, l.Host, cmd)
			term.waitFor(t, "probes failed")
			for _, text := range []string{red, green} {
				if got := strings.Contains(term.text(), text); got != tt.coloured {
					t.Errorf("%q: coloured %v, want %v", tt.env, got, tt.coloured)
				}
			}
		}
		if strings.Contains(r.out, "\x1b") {
			t.Error("coloured, but not on a terminal")
		}
	})
}

func TestCheckRefusals(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.refused(t, 1, []string{"jail vpn is not up", "make it with: wgjail up vpn.conf"}, "check", "vpn")
		l.refused(t, 2, []string{"--timeout 0s"}, "check", "vpn", "--timeout", "0")
		l.up(t)
		r := l.runCmd(t, exec.Command("nsenter", "--net=/run/netns/vpn", "wgjail", "check", "vpn"))
		if r.status != 1 || !strings.Contains(r.err, "this is inside jail vpn") || !strings.Contains(r.err, "hint: check it from the host") {
			t.Errorf("inside, check ended with %+v", r)
		}
	})
}

// A jail with forwards in veth mode has one more door, which is looked at too.
func TestCheckForwardsInVethMode(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		if f := l.check(t).find(t, "redirections"); f.Result != "not applicable" {
			t.Errorf("without a forward: %+v", f)
		}
		l.do(t, "forward", "-d", "--mode", "veth", "8080")
		r := l.check(t)
		if f := r.find(t, "redirections"); !r.OK || f.Result != "passed" {
			t.Errorf("with a forward failed %q: %+v", r.failed(), f)
		}
		pid := l.status(t).Forwards[0].PID // it would repair at once
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		l.Host.Run(t, "ip", "netns", "exec", "vpn", "nft", "flush table inet wgjail-veth")
		l.Host.Run(t, "ip", "-n", "vpn", "route", "add", "198.18.0.0/15", "dev", "host0")
		r = l.check(t)
		if got := r.failed(); !slices.Equal(got, []string{"routes", "redirections"}) || !strings.Contains(r.find(t, "routes").Why, "198.18.0.0/15") {
			t.Errorf("without its rules, and with a route, failed %q: %+v", got, r.find(t, "routes"))
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	})
}

// A service that systemd has put into the jail, with the drop-in's mounts, is as
// good as a program of exec.
func TestCheckAcceptsServices(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		script := "set -e\n"
		for line := range strings.Lines(l.do(t, "systemd", "attach", "app", "--jail", "vpn", "--print")) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			from, to, _ := strings.Cut(value, ":")
			switch key {
			case "BindReadOnlyPaths":
				script += fmt.Sprintf("mount --bind %s %s\n", from, to)
			case "TemporaryFileSystem":
				script += fmt.Sprintf("mkdir -p %[1]s\nmount -t tmpfs -o ro none %[1]s\n", from)
			}
		}
		start := func(script string) {
			p := l.Host.Start(t, exec.Command("unshare", "--mount", "sh", "-c", script+
				"exec nsenter --net=/run/netns/vpn setpriv --no-new-privs --reuid=65534 --regid=65534 --clear-groups sleep 1007"))
			world.Eventually(t, "the service", func() error {
				for _, s := range l.status(t).Processes {
					if s.PID == p.Pid && strings.HasPrefix(s.Command, "sleep") {
						return nil
					}
				}
				return fmt.Errorf("it is not there")
			})
		}
		start(script)
		r := l.check(t)
		if !r.OK || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "sees the host's interfaces in /sys") {
			t.Errorf("failed %q, %+v, warned %q", r.failed(), r.find(t, "masks"), r.Warnings)
		}
		// Without one of them it is not.
		start(strings.Replace(script, "mount -t tmpfs -o ro none /run/nscd\n", "touch /run/nscd/socket\n", 1))
		if r := l.check(t); !slices.Equal(r.failed(), []string{"masks"}) || !strings.Contains(r.find(t, "masks").Why, "sees /run/nscd") {
			t.Errorf("without a mask failed %q: %+v", r.failed(), r.find(t, "masks"))
		}
	})
}
