package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// inVeth calls test in a world with the jail vpn, in which a service listens on
// port 80.
func inVeth(t *testing.T, test func(t *testing.T, l *lab, jail *world.Node)) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp", "[::]:80")
		test(t, l, jail)
	})
}

// With --source jail services see the host's end of the pair, whoever comes.
func TestVethSourceJail(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		l.forward(t, "--mode", "veth", "--source", "jail", "8080:80")
		outside := map[string]bool{}
		for line := range strings.Lines(l.Host.Run(t, "ip", "-br", "address", "show", veth.HostLink("vpn"))) {
			for _, word := range strings.Fields(line) {
				a, _, _ := strings.Cut(word, "/")
				outside[a] = true
			}
		}
		for _, to := range []string{world.HostLANV4, "[" + world.HostLANV6 + "]"} {
			for _, from := range []*world.Node{l.LAN, l.Host} {
				banner, seen, err := greet(from, to+":8080")
				if err != nil || banner != "app" || !outside[seen.String()] {
					t.Errorf("%s to %s: banner %q, error %v; the service saw %s, want one of %v", from.Name, to, banner, err, seen, outside)
				}
			}
		}
		if f := l.status(t).Forwards[0]; f.Mode != "veth" || f.Source != "jail" {
			t.Errorf("status: %+v", f)
		}
	})
}

// Status counts packets and bytes of the rules, and what the relay has served.
func TestVethCounters(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		l.do(t, "forward", "-d", "--mode", "veth", "8080:80", "8081:81")
		v := l.mustVisit(t, world.HostLANV4+":8080")
		if err := v.exchange(strings.Repeat("x", 1<<16)); err != nil {
			t.Fatal(err)
		}
		mustGreet(t, l.Host, "127.0.0.1:8080", "app")
		l.waitStatus(t, "one open connection", func(s jailStatus) bool { return s.Forwards[0].Active == 1 })
		s := l.status(t)
		f, other := s.Forwards[0], s.Forwards[1]
		if s.State != "up" || f.Mode != "veth" || f.Source != "client" || f.Target != "10.64.0.2:80" || f.Listen != "*:8080" {
			t.Errorf("state %s, forward %+v", s.State, f)
		}
		// The connection by rules, with its headers, and the one by the relay.
		if f.Active != 1 || f.Total != 2 || f.PacketsIn < 4 || f.PacketsOut < 4 || f.BytesIn < 1<<16+4*40 || f.BytesOut < 1<<16+4*40 {
			t.Errorf("forward %+v", f)
		}
		if other.Total != 0 || other.PacketsIn != 0 || other.BytesOut != 0 {
			t.Errorf("the other forward %+v", other)
		}
		v.Close()
		l.waitStatus(t, "the end of the connection", func(s jailStatus) bool { return s.Forwards[0].Active == 0 })
		if out := l.do(t, "status"); !strings.Contains(out, "(veth), 0 open of 2") || !strings.Contains(out, " packets by rules)") {
			t.Errorf("status printed:\n%s", out)
		}
	})
}

// If somebody removes the rules, status says so, and up puts them back, as does
// the running forward when it can.
func TestVethRulesFlushed(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		l.do(t, "forward", "-d", "--mode", "veth", "8080:80")
		pid := l.status(t).Forwards[0].PID
		byRules := func() error {
			banner, seen, err := greet(l.LAN, world.HostLANV4+":8080")
			if err == nil && (banner != "app" || seen.String() != world.LANV4) {
				err = fmt.Errorf("banner %q, and the service saw %s", banner, seen)
			}
			return err
		}
		for _, x := range []struct{ what, script, missing string }{
			{"rules of the host", "iptables -t nat -F", "WGJAIL-"},
			{"rules in the jail", "ip netns exec vpn nft delete table inet wgjail-veth", "table wgjail-veth in the jail"},
			{"the pair", "ip link delete " + veth.HostLink("vpn"), "the pair of links"},
			{"forwarding", "echo 0 > /proc/sys/net/ipv4/conf/lan0/forwarding", "forwarding of the host's links"},
		} {
			syscall.Kill(pid, syscall.SIGSTOP)
			l.Host.Run(t, "sh", "-ec", x.script)
			s := l.status(t)
			if s.State != "broken" || !strings.Contains(strings.Join(s.Missing, "; "), x.missing) {
				t.Errorf("%s are gone, and status says %s, missing %q", x.what, s.State, s.Missing)
			}
			if out := l.do(t, "up", l.conf); !strings.Contains(out, "has been repaired: ") || !strings.Contains(out, x.missing) {
				t.Errorf("up printed %q", out)
			}
			if s := l.status(t); s.State != "up" {
				t.Errorf("after up: %s, missing %q", s.State, s.Missing)
			}
			if err := byRules(); err != nil {
				t.Errorf("%s were put back by up: %v", x.what, err)
			}
			l.Host.Run(t, "sh", "-ec", x.script)
			syscall.Kill(pid, syscall.SIGCONT)
			l.waitStatus(t, "repair by the forward of "+x.what, func(s jailStatus) bool { return s.State == "up" })
			if err := byRules(); err != nil {
				t.Errorf("%s were put back by the forward: %v", x.what, err)
			}
		}
	})
}

// What a killed forward has left is removed by whoever comes next: its rules must
// not take another forward's clients.
func TestVethKilled(t *testing.T) {
	for name, next := range map[string][]string{
		"status": {"status"}, "relay": {"forward", "-d", "8080:81"}, "veth": {"forward", "-d", "--mode", "veth", "8080:81"}, "stop": {"forward", "--stop"},
	} {
		t.Run(name, func(t *testing.T) {
			inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
				serve(t, jail, "next", "tcp", "[::]:81")
				p := l.forward(t, "--mode", "veth", "8080:80")
				mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
				p.Signal(t, syscall.SIGKILL)
				p.Wait()
				mustGreet(t, l.LAN, world.HostLANV4+":8080", "app") // the rules are still there
				l.do(t, next...)
				if next[0] == "forward" && next[1] == "-d" {
					mustGreet(t, l.LAN, world.HostLANV4+":8080", "next")
					return
				}
				mustBeClosed(t, l.LAN, world.HostLANV4+":8080")
				if n := l.ruleCount(t); n != 0 {
					t.Errorf("%d redirections are left", n)
				}
			})
		})
	}
}

// A forward that is killed while the connections of what it has stopped go on leaves
// those to whoever comes next, which ends them. Those of another forward go on, even
// if it leads to the same port.
func TestVethKilledWhileDraining(t *testing.T) {
	for name, next := range map[string]struct {
		other string
		args  []string
	}{
		"status": {"8081:81", []string{"status"}}, "veth": {"8081:81", []string{"forward", "-d", "--mode", "veth", "8080:80"}},
		"relay": {"8081:80", []string{"forward", "-d", "8080:80"}}, "same port": {"8081:80", []string{"status"}},
	} {
		t.Run(name, func(t *testing.T) {
			inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
				serve(t, jail, "next", "tcp", "[::]:81")
				p := l.forward(t, "--mode", "veth", "--drain-timeout", "1h", "8080:80")
				l.do(t, "forward", "-d", "--mode", "veth", next.other)
				ends, goesOn := l.mustVisit(t, world.HostLANV4+":8080"), l.mustVisit(t, world.HostLANV4+":8081")
				p.Signal(t, syscall.SIGTERM)
				p.WaitOutput(t, "for 1 connection to end")
				world.Eventually(t, "the end of the redirection", func() error {
					if _, _, err := greet(l.LAN, world.HostLANV4+":8080"); err == nil {
						return errors.New("somebody is still served")
					}
					return nil
				})
				if err := ends.exchange("draining"); err != nil {
					t.Errorf("while it drains: %v", err)
				}
				p.Signal(t, syscall.SIGKILL)
				p.Wait()
				l.do(t, next.args...)
				ends.mustEnd(t, true)
				if err := goesOn.exchange("and on"); err != nil {
					t.Errorf("a connection of another forward: %v", err)
				}
				if s := l.status(t); s.State != "up" {
					t.Errorf("the jail is %s: %q", s.State, s.Missing)
				}
			})
		})
	}
}

// The jail's namespace, and with it the pair, can be gone before down; the state
// as well. Rules, switches and chains go all the same.
func TestVethDownOfWhatIsLeft(t *testing.T) {
	for name, script := range map[string]string{
		"name deleted":   "kill -9 $FORWARD $(head -n 1 /run/wgjail/vpn/keeper); ip netns delete vpn",
		"forward frozen": "kill -STOP $FORWARD",
		"state deleted":  "kill -9 $FORWARD $(head -n 1 /run/wgjail/vpn/keeper); ip netns delete vpn; rm -r /run/wgjail/vpn /etc/netns/vpn",
	} {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				before := l.Host.Snapshot(t)
				l.up(t, "--mode", "veth", "-p", "8080", "-p", "8081/udp")
				cmd := exec.Command("sh", "-ec", "FORWARD=$0; "+script, fmt.Sprint(l.status(t).Forwards[0].PID))
				if r := l.runCmd(t, cmd); r.status != 0 {
					t.Fatal(r.err)
				}
				l.run(t, "down", "vpn")
				if diff := world.Diff(before, l.Host.Snapshot(t)); diff != "" {
					t.Errorf("left:\n%s", diff)
				}
			})
		})
	}
}

// What cannot work is said at once, with the way out, and leaves nothing.
func TestVethRefused(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		w := l.w
		w.Namespace(t, "elsewhere")
		settled(t, "vpn")
		before := without(w.Snapshot(t), "forward.log")
		same := func(what string) {
			t.Helper()
			if diff := world.Diff(before, without(w.Snapshot(t), "forward.log")); diff != "" {
				t.Errorf("left by %s:\n%s", what, diff)
			}
		}
		l.refused(t, 1, []string{"veth mode opens ports into jails, and namespace /run/netns/elsewhere is not one", "hint: relay mode serves any namespace"},
			"forward", "--mode", "veth", "--netns", "elsewhere", "8080")
		l.refused(t, 2, []string{"--to does not go with --mode veth", "hint: relay mode does"}, "forward", "--mode", "veth", "--to", "127.0.0.1", "8080")
		l.refused(t, 2, []string{"--max-conns does not go with --mode veth"}, "up", "--mode", "veth", "--max-conns", "3", "-p", "8080", l.conf)
		l.refused(t, 2, []string{`unknown mode "vet"`, "hint: the mode is relay or veth"}, "forward", "--mode", "vet", "8080")
		same("misuse")

		// A firewall of somebody else's: the hint opens it.
		l.Host.Run(t, "nft", "add table inet strict { chain f { type filter hook forward priority 0; policy drop; }; }")
		before = without(w.Snapshot(t), "forward.log")
		for _, detach := range []string{"--detach=false", "--detach"} {
			l.refused(t, 1, []string{"table inet strict (chain f) of this host's firewall drops what is forwarded into jails", "hint: open it for jails with: nft ", "relay mode"},
				"forward", detach, "--mode", "veth", "8080:80")
			same("a firewall that blocks")
		}
		r := l.run(t, "forward", "--mode", "veth", "8080:80")
		_, command, _ := strings.Cut(r.err, "open it for jails with: ")
		command, _, _ = strings.Cut(command, "; or use relay")
		l.Host.Run(t, "sh", "-c", command)
		l.forward(t, "--mode", "veth", "8080:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		l.Host.Run(t, "nft", "flush chain inet strict f")
		l.waitStatus(t, "a word about the firewall", func(s jailStatus) bool {
			return s.State == "broken" && strings.Contains(strings.Join(s.Missing, "; "), "table inet strict")
		})
	})
}

// Without iptables there is an error that says what needs none.
func TestVethWithoutIPTables(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		nothing := filepath.Join(t.TempDir(), "nothing")
		if err := os.WriteFile(nothing, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"xtables-nft-multi", "xtables-legacy-multi"} {
			if path, err := exec.LookPath(name); err == nil {
				l.Host.Run(t, "mount", "--bind", nothing, path)
			}
		}
		l.refused(t, 1, []string{"error: redirect ports with rules: iptables is not installed\n", "hint: relay mode needs no rules"},
			"forward", "--mode", "veth", "8080:80")
		l.forward(t, "8080:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		l.do(t, "down", "vpn")
	})
}

// A service that listens on the jail's loopback only is spoken of at once, in the
// foreground and the background, and by status.
func TestVethLoopbackOnly(t *testing.T) {
	inVeth(t, func(t *testing.T, l *lab, jail *world.Node) {
		serve(t, jail, "hidden", "tcp4", "127.0.0.1:81")
		const says = "the service on port 81 listens on the jail's loopback only, where veth mode does not lead: use relay mode"
		l.forward(t, "--mode", "veth", "8081:81").WaitOutput(t, "wgjail: warning: "+says)
		if r := l.run(t, "forward", "-d", "--mode", "veth", "8082-8083:80-81"); r.status != 0 || !strings.Contains(r.err, says) {
			t.Errorf("in the background: status %d, printed %q", r.status, r.err)
		}
		if r := l.run(t, "forward", "-d", "--mode", "veth", "8080:80"); r.status != 0 || r.err != "" {
			t.Errorf("another service: status %d, printed %q", r.status, r.err)
		}
		for _, f := range l.status(t).Forwards {
			if said := strings.Contains(f.Warning, says); said != (f.Listen != "*:8080") {
				t.Errorf("status of %s: %q", f.Listen, f.Warning)
			}
		}
		if out := l.do(t, "status"); !strings.Contains(out, says) {
			t.Errorf("status printed:\n%s", out)
		}
		mustGreet(t, l.Host, "127.0.0.1:8081", "hidden") // by the relay
		mustBeClosed(t, l.LAN, world.HostLANV4+":8081")
	})
}

// An up whose forward is killed while it sets its rules fails, and leaves nothing.
func TestVethKilledAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		eachStep(t, 20, 5, func(n int) bool {
			r, _ := l.killedAt(t, n, "forward", "up", l.conf, "--mode", "veth", "-p", "8080", "-p", "8081/udp")
			if r.status == 0 {
				l.do(t, "down", "vpn")
			} else if !strings.Contains(r.err, "wgjail forward ended before it was ready") {
				t.Errorf("killed at step %d: status %d, printed %q", n, r.status, r.err)
			}
			l.unchanged(t, before, fmt.Sprintf("a kill at step %d", n))
			return r.status != 0
		})
	})
}
