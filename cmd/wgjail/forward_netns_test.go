package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A forward goes into any network namespace, by name or by file, in the
// foreground or not, and leaves nothing behind.
func TestForwardIntoNamespaces(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		app := w.Namespace(t, "app")
		w.Link(t, l.Host.End("app0", "10.99.0.1/24"), app.End("eth0", "10.99.0.2/24"))
		program := app.Start(t, exec.Command("sleep", "1000"))
		serve(t, app, "app", "tcp4", "127.0.0.1:80")
		with := w.Snapshot(t)
		addr := world.HostLANV4 + ":8080"
		for _, file := range []string{"app", "/run/netns/app", "./app", fmt.Sprintf("/proc/%d/ns/net", program.Pid)} {
			for _, detach := range []string{"--detach=false", "--detach"} {
				cmd := exec.Command("wgjail", "forward", detach, "--netns", file, "8080:80")
				cmd.Dir = "/run/netns" // and the background process's is another
				p := l.Host.Start(t, cmd)
				p.WaitOutput(t, "forwarding 8080:80 into namespace /")
				banner, seen, err := greet(l.LAN, addr)
				if err != nil || banner != "app" || seen != netip.MustParseAddr("10.99.0.2") {
					t.Errorf("%s: banner %q, who saw %v, error %v", file, banner, seen, err)
				}
				l.Host.Run(t, "sh", "-ec", "cd /run/netns; wgjail forward --netns "+file+" --stop 8080")
				if err := p.Wait(); err != nil {
					t.Errorf("%s %s: %v", file, detach, err)
				}
				free(t, l.Host, "0.0.0.0:8080")
			}
			l.unchanged(t, with, "forwards into "+file)
		}

		// One that was killed is forgotten by the next.
		p := l.forward(t, "--netns", "app", "8080:80")
		p.Signal(t, syscall.SIGKILL)
		p.Wait()
		l.do(t, "forward", "--netns", "app", "-d", "8081:80")
		const want = "there is no jail\n\nnamespace /run/netns/app\n  forward  *:8081/tcp to 127.0.0.1:80 (relay), 0 open of 0, 0 refused, 0 B in, 0 B out\n"
		if table := l.do(t, "status"); table != want {
			t.Errorf("status printed\n%s, want\n%s", table, want)
		}
		if list := l.statusList(t); len(list) != 0 {
			t.Errorf("jails: %+v, want none", list)
		}
		l.do(t, "forward", "--netns", "app", "--stop")
		l.unchanged(t, with, "a killed forward")

		p = l.forward(t, "--netns", fmt.Sprintf("/proc/%d/ns/net", program.Pid), "8080:80")
		program.Signal(t, syscall.SIGKILL)
		if err := p.Wait(); err == nil || !strings.Contains(p.Output(), "/ns/net was removed: the forward has ended\n") {
			t.Errorf("the forward ended with %v and printed:\n%s", err, p.Output())
		}
	})
}

// Places that a forward cannot go into are refused, and nothing is opened.
func TestForwardRefusesPlaces(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		bare := w.Namespace(t, "bare")
		serve(t, bare, "app", "tcp", "[::]:80")
		settled(t, "vpn")
		before := w.Snapshot(t)
		for place, texts := range map[string][]string{
			"nope":              {"error: open namespace /run/netns/nope: no such file or directory", "hint: give --netns a name out of /run/netns"},
			"/etc/passwd":       {"/etc/passwd: not a network namespace"},
			"/proc/self/ns/mnt": {"/proc/self/ns/mnt: not a network namespace"},
			"/proc/self/ns/net": {"namespace /proc/self/ns/net is where wgjail runs"},
			"/proc/1/ns/net":    {"namespace /proc/1/ns/net is where wgjail runs"},
			"bare":              {"namespace /run/netns/bare has no address but loopback", "hint: give it one from the host, for example: nsenter --net=/run/netns/bare ip address add 192.0.0.8/32 dev lo"},
		} {
			for _, detach := range []string{"--detach=false", "--detach"} {
				l.refused(t, 1, texts, "forward", detach, "--netns", place, "8080:80")
			}
		}
		l.refused(t, 2, []string{"--jail and --netns exclude each other"}, "forward", "--netns", "bare", "--jail", "vpn", "8080")
		l.refused(t, 1, []string{"is not forwarded into namespace /run/netns/nope"}, "forward", "--netns", "nope", "--stop", "8080")
		l.unchanged(t, before, "refused forwards")

		// The way out that was offered is one.
		l.Host.Run(t, "nsenter", "--net=/run/netns/bare", "ip", "address", "add", "192.0.0.8/32", "dev", "lo")
		l.forward(t, "--netns", "bare", "8080:80")
		banner, seen, err := greet(l.LAN, "["+world.HostLANV6+"]:8080")
		if err != nil || banner != "app" || seen.String() != "192.0.0.8" {
			t.Errorf("banner %q, who saw %v, error %v", banner, seen, err)
		}
	})
}

// A jail is a jail under whatever name it is meant, and without its addresses
// it is not forwarded into.
func TestForwardKnowsItsJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp", "127.0.0.1:80")
		for i, args := range [][]string{{}, {"--jail", "vpn"}, {"--netns", "vpn"}, {"--netns", "/run/netns/vpn"}} {
			l.do(t, append(append([]string{"forward", "-d"}, args...), fmt.Sprintf("%d:80", 8000+i))...)
			mustGreet(t, l.LAN, fmt.Sprintf("%s:%d", world.HostLANV4, 8000+i), "app")
		}
		if n := len(l.status(t).Forwards); n != 4 {
			t.Errorf("%d forwards in status, want 4", n)
		}
		l.do(t, "forward", "--stop")

		// Which one of two must be said.
		conf := strings.Replace(l.conf, "vpn.conf", "other.conf", 1)
		l.Host.Run(t, "cp", l.conf, conf)
		l.do(t, "up", conf)
		l.refused(t, 2, []string{"error: there are 2 jails (other, vpn): which one?", "hint: name it, or set WGJAIL_JAIL"}, "forward", "8080:80")
		cmd := exec.Command("wgjail", "forward", "-d", "8080:80")
		cmd.Env = append(cmd.Environ(), "WGJAIL_JAIL=vpn")
		if r := l.runCmd(t, cmd); r.status != 0 || !strings.Contains(r.out, "into jail vpn") {
			t.Errorf("with WGJAIL_JAIL: status %d, printed %q", r.status, r.out)
		}
		l.do(t, "down", "other")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")

		jail.Run(t, "ip", "link", "delete", "vpn")
		l.refused(t, 1, []string{"error: jail vpn has lost its addresses", "hint: put them back with: wgjail up vpn.conf"}, "forward", "8081:80")
		l.do(t, "up", l.conf)
		l.do(t, "forward", "-d", "8081:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8081", "app")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
	})
}

// Root without the right to enter namespaces is not let down silently.
func TestForwardWithoutTheRightToEnter(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		decoy := l.decoys(t)
		r := l.runCmd(t, exec.Command("setpriv", "--bounding-set", "-sys_admin", "wgjail", "forward", "8080:9000"))
		if r.status != 1 || !strings.Contains(r.err, "enter the network namespace") {
			t.Errorf("status %d:\n%s", r.status, r.err)
		}
		mustBeClosed(t, l.LAN, world.HostLANV4+":8080")
		if n := decoy.called(); n != 0 {
			t.Errorf("the decoy was called %d times", n)
		}
	})
}
