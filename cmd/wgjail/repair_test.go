package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// A talk is a connection of a program in the jail that lasts.
type talk struct {
	net.Conn
	lines *bufio.Reader
	n     int
}

// connect connects from the jail to the provider's side.
func connect(t *testing.T, jail *world.Node) *talk {
	t.Helper()
	c, err := jail.Dial("tcp", world.InternetV4+":443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &talk{Conn: c, lines: bufio.NewReader(c)}
}

// goesOn fails the test if the connection does not echo.
func (c *talk) goesOn(t *testing.T, after string) {
	t.Helper()
	c.says(t)
	c.hears(t, after)
}

// says sends the next line.
func (c *talk) says(t *testing.T) {
	t.Helper()
	c.n++
	c.SetDeadline(time.Now().Add(world.AtMost(30 * time.Second)))
	if _, err := fmt.Fprintf(c, "line %d\n", c.n); err != nil {
		t.Fatalf("the connection: %v", err)
	}
}

// hears fails the test if the line that was sent does not come back.
func (c *talk) hears(t *testing.T, after string) {
	t.Helper()
	line := fmt.Sprintf("line %d\n", c.n)
	if got, err := c.lines.ReadString('\n'); err != nil || got != line {
		t.Fatalf("the connection after %s returned %q, %v", after, got, err)
	}
}

func TestSecondUpChangesNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		c := connect(t, jail)
		c.goesOn(t, "up")
		host, inside := w.Snapshot(t), jail.Snapshot(t)
		socket := jail.Run(t, "wg", "show", "vpn", "listen-port")
		for range 3 {
			if out := l.do(t, "up", l.conf); out != "jail vpn is already up\n" {
				t.Errorf("the second up printed %q", out)
			}
		}
		c.goesOn(t, "the second up")
		if diff := world.Diff(host, w.Snapshot(t)) + world.Diff(inside, jail.Snapshot(t)); diff != "" {
			t.Errorf("the second up has changed:\n%s", diff)
		}
		if now := jail.Run(t, "wg", "show", "vpn", "listen-port"); now != socket {
			t.Errorf("the tunnel has another socket: port %s, was %s", now, socket)
		}
	})
}

// keeperPid returns the process of the jail's keeper.
func keeperPid(t *testing.T) int {
	t.Helper()
	return keeperIn(t, "/run/wgjail")
}

// keeperIn is keeperPid for jails whose state is in dir.
func keeperIn(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(dir + "/vpn/keeper")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatalf("the keeper's file holds %q: %v", text, err)
	}
	return pid
}

// killKeeper kills the jail's keeper and waits until it has died: a busy machine
// takes its time.
func killKeeper(t *testing.T) {
	t.Helper()
	killProcess(t, keeperPid(t))
}

func killProcess(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, pid)
}

// ended waits until there is no process pid any more.
func ended(t *testing.T, pid int) {
	t.Helper()
	world.Eventually(t, "the end of a process", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// ifindex is what changes with an interface that is made again.
var ifindex = regexp.MustCompile(`Ifindex: \d+`)

// Whatever part is missing, up puts it back, and a connection that began before
// goes on.
func TestUpRepairs(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		c := connect(t, jail)
		c.goesOn(t, "up")
		look := func(t *testing.T) string { return ifindex.ReplaceAllString(jail.Snapshot(t), "") }
		whole := look(t)
		inside := func(command string) func() {
			return func() { jail.Run(t, "sh", "-c", command) }
		}
		onHost := func(command string) func() {
			return func() { l.Host.Run(t, "sh", "-c", command) }
		}
		for _, tt := range []struct {
			what  string
			spoil func()
			says  string // what up says was missing
		}{
			{"keeper killed", func() { killKeeper(t) }, "the keeper is not running"},
			{"interface deleted", inside("ip link del vpn"), "interface vpn"},
			{"interface down", inside("ip link set vpn down"), "interface vpn is down"},
			{"MTU changed", inside("ip link set vpn mtu 1000"), "MTU 1000"},
			{"default route deleted", inside("ip route del default"), "route 0.0.0.0/0"},
			{"IPv6 default route deleted", inside("ip -6 route del default"), "route ::/0"},
			{"address deleted", inside("ip addr del 10.64.0.2/32 dev vpn"), "address 10.64.0.2/32"},
			{"IPv6 address deleted", inside("ip addr del fd64::2/128 dev vpn"), "address fd64::2/128"},
			{"rules flushed", inside("nft flush ruleset"), "firewall rules"},
			{"one rule deleted", inside("nft flush chain inet wgjail input"), "firewall rules"},
			{"sysctl changed", inside("echo 1 >/proc/sys/net/ipv4/conf/all/forwarding"), "sysctl net.ipv4.conf.all.forwarding"},
			{"lo down", inside("ip link set lo down"), "lo"},
			{"resolv.conf changed", onHost("echo nameserver 192.0.2.1 >/etc/netns/vpn/resolv.conf"), "/etc/netns/vpn/resolv.conf"},
			{"resolv.conf deleted", onHost("rm /etc/netns/vpn/resolv.conf"), "/etc/netns/vpn/resolv.conf"},
			{"nsswitch.conf changed", onHost("echo hosts: resolve >>/etc/netns/vpn/nsswitch.conf"), "/etc/netns/vpn/nsswitch.conf"},
			{"nsswitch.conf replaced", onHost("echo hosts: resolve >/etc/netns/vpn/nsswitch.conf"), "/etc/netns/vpn/nsswitch.conf"},
			{"nsswitch.conf deleted", onHost("rm /etc/netns/vpn/nsswitch.conf"), "/etc/netns/vpn/nsswitch.conf"},
			{"name unmounted", onHost("umount -l /run/netns/vpn"), "/run/netns/vpn"},
			{"name deleted", onHost("ip netns del vpn"), "/run/netns/vpn"},
			{"all of /etc/netns deleted", onHost("rm -r /etc/netns"), "/etc/netns/vpn"},
		} {
			t.Run(tt.what, func(t *testing.T) {
				tt.spoil()
				world.Eventually(t, "status to see it", func() error {
					if out := l.do(t, "status", "vpn"); !strings.Contains(out, "broken") || !strings.Contains(out, tt.says) {
						return fmt.Errorf("no %q in %s", tt.says, out)
					}
					return nil
				})
				if out := l.do(t, "up", l.conf); !strings.Contains(out, "has been repaired") || !strings.Contains(out, tt.says) {
					t.Errorf("no %q in %q", tt.says, out)
				}
				world.Eventually(t, "the kernel to have the addresses", func() error {
					if diff := world.Diff(whole, look(t)); diff != "" {
						return fmt.Errorf("the jail is not as before:\n%s", diff)
					}
					return nil
				})
				c.goesOn(t, "the repair")
				if out := l.do(t, "up", l.conf); out != "jail vpn is already up\n" {
					t.Errorf("after the repair up printed %q", out)
				}
			})
		}
		l.do(t, "down", "vpn")
	})
}

// A keeper that dies leaves the interface, with all that it has, and an interface
// that is removed ends the keeper that runs it.
func TestKeeperAndInterface(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		whole := jail.Snapshot(t)
		killKeeper(t)
		if out := l.do(t, "status", "vpn"); !strings.Contains(out, "the keeper is not running") {
			t.Errorf("status says %s", out)
		}
		if diff := world.Diff(whole, jail.Snapshot(t)); diff != "" {
			t.Errorf("with the keeper went:\n%s", diff)
		}
		if kernelBackend() { // no process runs the interface
			l.usable(t, "without a keeper")
			return
		}
		l.do(t, "up", l.conf)
		pid := keeperPid(t)
		jail.Run(t, "ip", "link", "del", "vpn")
		ended(t, pid)
	})
}

// A namespace that is gone, with all that was in it, is made anew.
func TestUpAfterTheNamespaceDied(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.do(t, "up", l.conf)
		killKeeper(t)
		l.Host.Run(t, "ip", "netns", "del", "vpn")
		l.refused(t, 1, []string{"has lost its namespace"}, "exec", "vpn", "--", "true")
		if out := l.do(t, "up", l.conf); !strings.Contains(out, "has been repaired") {
			t.Errorf("up printed %q", out)
		}
		if err := echo(w.Open(t, "vpn"), "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Error(err)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// A machine that was switched off has lost what is in memory, and has kept /etc.
func TestUpAfterAReboot(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.do(t, "up", l.conf)
		killKeeper(t)
		l.Host.Run(t, "ip", "netns", "del", "vpn")
		l.Host.Run(t, "rm", "-r", "/run/wgjail", "/run/wireguard")
		if out := l.do(t, "status"); out != "there is no jail\n" {
			t.Errorf("status says %q", out)
		}
		l.refused(t, 1, []string{"jail vpn is not up"}, "exec", "vpn", "--", "true")
		if out := l.do(t, "up", l.conf); !strings.HasPrefix(out, "jail vpn is up (") {
			t.Errorf("up printed %q", out)
		}
		l.usable(t, "after a reboot")
		l.do(t, "down", "vpn")
		if _, err := os.Stat("/etc/netns/vpn"); err == nil {
			t.Error("/etc/netns/vpn is left")
		}
		// What a machine that never came up again has kept, down removes.
		l.do(t, "up", l.conf)
		killKeeper(t)
		l.Host.Run(t, "ip", "netns", "del", "vpn")
		l.Host.Run(t, "rm", "-r", "/run/wgjail", "/run/wireguard")
		l.do(t, "down", "vpn")
		if _, err := os.Stat("/etc/netns/vpn"); err == nil {
			t.Error("/etc/netns/vpn is left")
		}
	})
}

func TestUpWithAnotherConfiguration(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		c := connect(t, jail)
		inside := jail.Snapshot(t)
		other, err := l.Provider.AddClient()
		if err != nil {
			t.Fatal(err)
		}
		text := l.Client.Config()
		for what, changed := range map[string]string{
			"address":       strings.Replace(text, "10.64.0.2/32", "10.64.0.3/32", 1),
			"server":        strings.Replace(text, l.Client.Server.String(), other.PublicKey().String(), 1),
			"private key":   strings.Replace(text, l.Client.PrivateKey.String(), other.PrivateKey.String(), 1),
			"preshared key": strings.Replace(text, l.Client.PresharedKey.String(), other.PresharedKey.String(), 1),
			"endpoint":      strings.Replace(text, ":51820", ":51821", 1),
			"routes":        strings.Replace(text, "::/0", "2000::/3", 1),
			"MTU":           strings.Replace(text, "[Peer]", "MTU = 1300\n[Peer]", 1),
			"port":          strings.Replace(text, "[Peer]", "ListenPort = 5555\n[Peer]", 1),
			"DNS":           strings.Replace(text, "DNS = 10.64.0.1", "DNS = 10.64.0.9", 1),
		} {
			path := filepath.Join(t.TempDir(), "vpn.conf")
			if err := os.WriteFile(path, []byte(changed), 0o600); err != nil || changed == text {
				t.Fatalf("%s: %v", what, err)
			}
			l.refused(t, 1, []string{"another configuration", "hint: ", "wgjail down vpn"}, "up", path)
		}
		wrong := "userspace"
		if !kernelBackend() {
			wrong = "kernel"
		}
		l.refused(t, 1, []string{"with the " + backend() + " backend"}, "up", "--backend", wrong, l.conf)
		if diff := world.Diff(inside, jail.Snapshot(t)); diff != "" {
			t.Errorf("the jail has changed:\n%s", diff)
		}
		c.goesOn(t, "all of that")
	})
}

// Of many that begin before one of them is done, exactly one makes the jail.
func TestUpAtOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		// They all wait for their configuration, which comes through a pipe.
		n := times(20, 6)
		results, writers := make([]result, n), make([]*os.File, n)
		var ready, done sync.WaitGroup
		for i := range n {
			path := filepath.Join(t.TempDir(), "vpn.conf")
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			done.Go(func() {
				var err error
				if results[i], err = runIn(l.Host, exec.Command("wgjail", "up", path)); err != nil {
					t.Error(err)
				}
			})
			ready.Go(func() { // opens when wgjail has opened the other end
				var err error
				if writers[i], err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
					t.Error(err)
				}
			})
		}
		ready.Wait()
		for _, writer := range writers {
			writer.WriteString(l.Client.Config())
			writer.Close()
		}
		done.Wait()
		won := 0
		for _, r := range results {
			switch {
			case r.status == 0 && strings.HasPrefix(r.out, "jail vpn is up ("):
				won++
			case r.status != 1 || !strings.Contains(r.err, "another wgjail command is working on it"):
				t.Errorf("one ended with %+v", r)
			}
		}
		if won != 1 {
			t.Errorf("%d have made the jail", won)
		}
		if out := l.do(t, "up", l.conf); out != "jail vpn is already up\n" {
			t.Errorf("afterwards up printed %q", out)
		}
		if err := echo(w.Open(t, "vpn"), "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Error(err)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

func TestUpOfManyJails(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		var done sync.WaitGroup
		n := times(20, 5)
		for i := range n {
			client, err := l.Provider.AddClient()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), fmt.Sprintf("vpn%d.conf", i))
			if err := os.WriteFile(path, []byte(client.Config()), 0o600); err != nil {
				t.Fatal(err)
			}
			done.Go(func() {
				if r, err := runIn(l.Host, exec.Command("wgjail", "up", path)); err != nil || r.status != 0 {
					t.Errorf("%s: %+v, %v", path, r, err)
				}
			})
		}
		done.Wait()
		for i := range n {
			name := fmt.Sprintf("vpn%d", i)
			if err := echo(w.Open(t, name), "tcp", world.InternetV4+":7", name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		l.do(t, "down", "--all")
		l.unchanged(t, before, "down --all")
	})
}
