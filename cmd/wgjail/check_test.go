package main

import (
	"encoding/json"
	"fmt"
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
		before := w.Snapshot(t)
		r := l.run(t, "check")
		l.unchanged(t, before, "check")
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
		if r.status != 1 || !strings.Contains(r.err, "this is inside jail vpn") || !strings.Contains(r.err, "hint: call wgjail on the host") {
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
