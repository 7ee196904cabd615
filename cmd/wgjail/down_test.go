package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// settled waits until the keeper of a jail has written all that it writes when
// it begins, so that it is not taken for a change later.
func settled(t *testing.T, jail string) {
	t.Helper()
	world.Eventually(t, "the keeper", func() error {
		log, err := os.ReadFile("/run/wgjail/" + jail + "/keeper.log")
		if err == nil && !bytes.Contains(log, []byte("keeper started")) {
			err = errors.New("it has not begun")
		}
		return err
	})
}

// After a whole session the machine is as before.
func TestDownRestoresEverything(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for range 2 {
			l.do(t, "up", l.conf, "-p", "8000:8080")
			page := l.start(t, "exec", "vpn", "--", "wgjail", "demo-page")
			page.WaitOutput(t, "listening")
			forward := l.forward(t, "8080", "8081:8080")
			l.do(t, "forward", "-d", "--allow", "any", "9000-9009")
			for _, addr := range []string{world.HostLANV4 + ":8000", "[" + world.HostLANV6 + "]:8080"} {
				l.LAN.Run(t, "curl", "--noproxy", "*", "-sSf", "-o", "/dev/null", "http://"+addr+"/")
			}
			idle, err := l.LAN.Dial("tcp", world.HostLANV4+":8081")
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			if out := l.do(t, "down", "--kill", "vpn"); out != "jail vpn is down\n" {
				t.Errorf("printed %q", out)
			}
			page.Wait()
			forward.Wait()
			l.unchanged(t, before, "a session")
		}
	})
}

// With the name the namespace ends too: nothing of a forward keeps it, idle as
// its clients may be.
func TestDownEndsTheNamespace(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.do(t, "up", l.conf)
		page := l.start(t, "exec", "vpn", "--", "wgjail", "demo-page")
		page.WaitOutput(t, "listening")
		l.do(t, "forward", "-d", "8080")
		idle, err := l.LAN.Dial("tcp", world.HostLANV4+":8080")
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		// The end of a namespace is the end of the links in it.
		l.Host.Run(t, "ip", "link", "add", "probe", "type", "veth", "peer", "name", "inside", "netns", "vpn")
		l.do(t, "down", "--kill", "vpn")
		world.Eventually(t, "the end of the namespace", func() error {
			if _, err := os.Stat("/sys/class/net/probe"); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("a link in it is still there (%v)", err)
			}
			return nil
		})
	})
}

// Programs that are inside when their jail goes are listed, and have no network
// from then on.
func TestDownLeavesProgramsInTheDark(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		wire := l.Host.CaptureAll(t)
		canary := world.Canary()
		program := l.start(t, "exec", "vpn", "--", "sh", "-c", "sleep 1111; :")
		l.waitStatus(t, "the program", func(s jailStatus) bool { return len(s.Processes) == 2 })
		sends, err := jail.Dial("udp", world.InternetV4+":7")
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() { // before, during and after down
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
					sends.Write(canary)
				}
			}
		}()
		world.Eventually(t, "the canary at the exit", func() error {
			if len(l.Provider.Find(canary)) == 0 {
				return errors.New("not seen")
			}
			return nil
		})

		r := l.run(t, "down", "vpn")
		for _, text := range []string{
			fmt.Sprintf("warning: still running in jail vpn, without any network: %d sh -c sleep 1111; :\n", program.Pid),
			" sleep 1111\n", "warning: end them with kill; next time: wgjail down --kill vpn\n",
		} {
			if r.status != 0 || !strings.Contains(r.err, text) {
				t.Errorf("status %d, no %q in:\n%s", r.status, text, r.err)
			}
		}
		select {
		case <-program.Done():
			t.Error("the program has ended")
		default:
		}
		if links := jail.Run(t, "ip", "-o", "link"); strings.Count(links, "\n") != 1 || !strings.HasPrefix(links, "1: lo:") {
			t.Errorf("links inside:\n%s", links)
		}
		for _, addr := range []string{world.InternetV4 + ":7", "[" + world.InternetV6 + "]:7", l.Provider.Endpoint().String()} {
			if c, err := jail.Dial("tcp", addr); !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("connect to %s: %v, %v, want network is unreachable", addr, c, err)
			}
		}
		close(stop)
		<-stopped
		wire.MustNotSee(t, canary)
		wire.Control(t, "from the host", func(canary []byte) error {
			return echo(l.Host, "udp", world.InternetV4+":7", string(canary))
		})
		// A new jail has nothing to do with them.
		l.do(t, "up", l.conf)
		if s := l.status(t); len(s.Processes) != 0 {
			t.Errorf("processes of the new jail: %+v", s.Processes)
		}
	})
}

// down --kill asks programs to end, and ends those that do not.
func TestDownKill(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.do(t, "up", l.conf)
		bye := t.TempDir() + "/bye"
		polite := l.start(t, "exec", "vpn", "--", "sh", "-c", "trap 'echo bye > "+bye+"; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
		stubborn := l.start(t, "exec", "vpn", "--", "sh", "-c", "trap '' TERM; echo ready; sleep 1234; sleep 1234")
		frozen := l.start(t, "exec", "vpn", "--", "sh", "-c", "kill -STOP $$")
		daemon := l.start(t, "exec", "vpn", "--user", "65534", "--", "setsid", "-f", "sh", "-c", "echo ready; exec sleep 1235")
		for _, p := range []*world.Process{polite, stubborn, daemon} {
			p.WaitOutput(t, "ready")
		}
		l.waitStatus(t, "all programs", func(s jailStatus) bool {
			return strings.Contains(fmt.Sprint(s.Processes), "sleep 1235") && strings.Contains(fmt.Sprint(s.Processes), "kill -STOP")
		})
		r := l.run(t, "down", "vpn", "--kill")
		if r.status != 0 || r.err != "" {
			t.Errorf("down --kill: status %d, printed:\n%s", r.status, r.err)
		}
		for _, p := range []*world.Process{polite, stubborn, frozen, daemon} {
			p.Wait()
		}
		if text, err := os.ReadFile(bye); string(text) != "bye\n" {
			t.Errorf("the polite program could not end by itself: %q, %v", text, err)
		}
		l.unchanged(t, before, "down --kill")
	})
}

// down works as often as one likes, on any number of jails.
func TestDownAgain(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, name := range []string{"a", "b", "c"} {
			l.do(t, "up", l.Conf(t, name))
		}
		if out := l.do(t, "down", "b"); out != "jail b is down\n" {
			t.Errorf("printed %q", out)
		}
		if out := l.do(t, "down", "b"); out != "jail b is not up: nothing to do\n" {
			t.Errorf("printed %q", out)
		}
		if out := l.do(t, "down", "b", "a"); out != "jail b is not up: nothing to do\njail a is down\n" {
			t.Errorf("printed %q", out)
		}
		l.do(t, "up", l.Conf(t, "a"))
		if err := os.Remove("/run/wgjail/c/jail.json"); err != nil {
			t.Fatal(err)
		}
		if out := l.do(t, "down", "--all"); out != "jail a is down\njail c is down\n" {
			t.Errorf("printed %q", out)
		}
		if out := l.do(t, "down", "--all"); out != "there is no jail\n" {
			t.Errorf("printed %q", out)
		}
		l.unchanged(t, before, "the end of all jails")
	})
}

// down touches nothing that wgjail did not make.
func TestDownLeavesForeignThings(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		script := "mkdir -p /etc/netns/lan /etc/netns/own && echo nameserver 9.9.9.9 | tee /etc/netns/lan/resolv.conf /etc/netns/own/resolv.conf" +
			" && ip netns add own && ip -n own link add inside type veth peer name own netns own"
		l.Host.Run(t, "sh", "-ec", script)
		before, lan := w.Snapshot(t), l.LAN.Snapshot(t)
		own := w.Open(t, "own")
		inside := own.Snapshot(t)
		if out := l.do(t, "down", "--kill", "lan", "own", "nothing"); strings.Count(out, " is not up: nothing to do\n") != 3 {
			t.Errorf("printed %q", out)
		}
		l.do(t, "down", "--all")
		l.unchanged(t, before, "down of what is not a jail")
		if diff := world.Diff(lan, l.LAN.Snapshot(t)) + world.Diff(inside, own.Snapshot(t)); diff != "" {
			t.Errorf("in foreign namespaces:\n%s", diff)
		}

		// A name that somebody has taken over is theirs now.
		l.do(t, "up", l.conf)
		l.Host.Run(t, "sh", "-ec", "ip netns delete vpn; ip netns add vpn")
		theirs := w.Open(t, "vpn").Snapshot(t)
		sleeps := w.Open(t, "vpn").Start(t, exec.Command("sleep", "1000"))
		l.do(t, "down", "--kill", "vpn")
		select {
		case <-sleeps.Done():
			t.Error("down --kill has ended a program in a namespace that is not the jail's")
		default:
		}
		if diff := world.Diff(theirs, w.Open(t, "vpn").Snapshot(t)); diff != "" {
			t.Errorf("in the namespace that took the name:\n%s", diff)
		}
		sleeps.Signal(t, syscall.SIGKILL)
		sleeps.Wait()
		l.Host.Run(t, "ip", "netns", "delete", "vpn")
		l.unchanged(t, before, "down of a jail whose name was taken")
	})
}

// harms are ways to break a jail: commands on the host, with the reason that
// status gives.
var harms = map[string]struct {
	command []string
	reason  string
}{
	"interface removed": {[]string{"ip", "-n", "vpn", "link", "delete", "vpn"}, "interface vpn"},
	"interface down":    {[]string{"ip", "-n", "vpn", "link", "set", "vpn", "down"}, "interface vpn is down"},
	"address removed":   {[]string{"ip", "-n", "vpn", "address", "delete", "10.64.0.2/32", "dev", "vpn"}, "address 10.64.0.2/32 is missing"},
	"route removed":     {[]string{"ip", "-n", "vpn", "route", "delete", "default"}, "route 0.0.0.0/0 is missing"},
	"rules removed":     {[]string{"ip", "netns", "exec", "vpn", "nft", "flush", "ruleset"}, "firewall rules inside"},
	"sysctl changed":    {[]string{"ip", "netns", "exec", "vpn", "sysctl", "-w", "net.ipv4.conf.all.forwarding=1"}, "sysctl net.ipv4.conf.all.forwarding is 1, not 0"},
	"name removed":      {[]string{"ip", "netns", "delete", "vpn"}, "the namespace's name /run/netns/vpn"},
	"name unmounted":    {[]string{"umount", "-l", "/run/netns/vpn"}, "the namespace's name /run/netns/vpn"},
	"resolv.conf gone":  {[]string{"rm", "/etc/netns/vpn/resolv.conf"}, "/etc/netns/vpn/resolv.conf"},
	"resolv.conf other": {[]string{"sh", "-c", "echo nameserver 9.9.9.9 > /etc/netns/vpn/resolv.conf"}, "resolv.conf: changed by someone else"},
	"keeper killed":     {[]string{"sh", "-c", "kill -9 $(head -n 1 /run/wgjail/vpn/keeper)"}, "the keeper is not running"},
	"state damaged":     {[]string{"sh", "-c", "echo '{' > /run/wgjail/vpn/jail.json"}, "jail.json: unexpected end of JSON input: wgjail down vpn"},
	"state of another":  {[]string{"sed", "-i", `s/"version": 1/"version": 99/`, "/run/wgjail/vpn/jail.json"}, "written by another version of wgjail"},
	"state removed":     {[]string{"rm", "/run/wgjail/vpn/jail.json"}, "it was never completed"},
}

// Each part that is missing makes a jail broken and is named, and whatever is
// left, down removes it.
func TestBrokenJail(t *testing.T) {
	for name, c := range rows(harms, "interface removed", "name removed", "keeper killed", "state removed") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				before := w.Snapshot(t)
				jail := l.up(t)
				program := l.start(t, "exec", "vpn", "--", "sleep", "1234")
				l.waitStatus(t, "the program", func(s jailStatus) bool { return len(s.Processes) == 1 })
				l.do(t, "forward", "-d", "8080")
				l.Host.Run(t, c.command[0], c.command[1:]...)
				l.waitStatus(t, "a broken jail", func(s jailStatus) bool { return s.State == "broken" })
				checkContract(t, l.do(t, "status", "--json"))
				if got := strings.Join(l.status(t).Missing, "\n"); !strings.Contains(got, c.reason) {
					t.Errorf("missing %q, want %q", got, c.reason)
				}
				if table := l.do(t, "status"); !strings.Contains(table, "broken\n") || !strings.Contains(table, c.reason) {
					t.Errorf("no %q in:\n%s", c.reason, table)
				}

				if r := l.run(t, "down", "vpn"); r.status != 0 || !strings.Contains(r.err, "still running in jail vpn") || !strings.Contains(r.out, "jail vpn is down\n") {
					t.Errorf("down: status %d", r.status)
				}
				if links := jail.Run(t, "ip", "-o", "link"); strings.Count(links, "\n") != 1 {
					t.Errorf("left inside:\n%s", links)
				}
				program.Signal(t, syscall.SIGKILL)
				program.Wait()
				l.unchanged(t, before, "down")
			})
		})
	}
}
