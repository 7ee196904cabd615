package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// A gateway is a real one, miniupnpd, at the provider's end of the tunnel, with
// a network behind it:
//
//	jail ═ tunnel ═ provider0 exit wan1 198.51.101.1 ── 198.51.101.2 peer
type gateway struct {
	exit, peer *world.Node
	dir        string
	process    *world.Process
}

const (
	wanV4, peerV4 = "198.51.101.1", "198.51.101.2"
	grantedFor    = 4 // seconds, of PCP and the fake gateway
)

func newGateway(t *testing.T, l *lab) *gateway {
	t.Helper()
	g := &gateway{exit: l.Exit, peer: l.w.Namespace(t, "peer"), dir: t.TempDir()}
	l.w.Link(t, g.exit.End("wan1", wanV4+"/24"), g.peer.End("eth0", peerV4+"/24"))
	if err := g.exit.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	return g
}

// start starts the gateway, which gives ports out of this range.
func (g *gateway) start(t *testing.T, first, last int) {
	t.Helper()
	g.exit.Run(t, "nft", `
		table inet miniupnpd {}
		delete table inet miniupnpd
		table inet miniupnpd {
			chain forward { type filter hook forward priority -25; policy accept; }
			chain prerouting { type nat hook prerouting priority -100; policy accept; }
			chain postrouting { type nat hook postrouting priority 100; policy accept; }
		}`)
	conf := filepath.Join(g.dir, "miniupnpd.conf")
	text := fmt.Sprintf(`ext_ifname=wan1
ext_ip=%s
listening_ip=provider0
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
port=0
uuid=00000000-0000-0000-0000-000000000001
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
min_lifetime=1
max_lifetime=%d
allow %d-%d 10.64.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`, wanV4, grantedFor, first, last)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g.process = g.exit.Start(t, exec.Command("miniupnpd", "-d", "-f", conf, "-P", filepath.Join(g.dir, "pid")))
	g.process.WaitOutput(t, "Listening for NAT-PMP/PCP traffic")
}

// stop ends it, and what it has granted.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	g.process.Signal(t, syscall.SIGKILL)
	g.process.Wait()
	g.exit.Run(t, "nft", "delete table inet miniupnpd")
}

// waitPort waits until the jail has a port in this range, and returns it.
func (l *lab) waitPort(t *testing.T, first, last int) int {
	t.Helper()
	var port int
	l.waitStatus(t, fmt.Sprintf("a port of %d-%d", first, last), func(s jailStatus) bool {
		if s.Port == nil {
			return false
		}
		port = s.Port.Port
		return s.State == "up" && first <= port && port <= last && s.Port.LocalPort == port && s.Port.Error == ""
	})
	return port
}

// The provider leads a port to the jail, TCP and UDP; it is told in every way,
// and nothing else comes in. It is asked again when it fails, and when the port
// changes everything changes with it. In the end it is given back.
func TestProviderPort(t *testing.T) {
	for name, protocol := range rows(map[string]string{"NAT-PMP": "natpmp", "PCP": "pcp"}, "NAT-PMP") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				g := newGateway(t, l)
				g.start(t, 1024, 65535)
				told := filepath.Join(t.TempDir(), "told")
				out := l.do(t, "up", l.conf, "--provider-port", protocol, "--on-port", "echo $WGJAIL_PORT $WGJAIL_LOCAL_PORT >>"+told)
				jail := w.Open(t, "vpn")
				port := l.waitPort(t, 49152, 65535)
				if want := fmt.Sprintf("\nprovider port %d, TCP and UDP\n", port); !strings.HasSuffix(out, want) {
					t.Errorf("up printed %q, want %q", out, want)
				}
				serve(t, jail, "app", "tcp", "[::]:"+strconv.Itoa(port))
				serve(t, jail, "app", "tcp", "[::]:7777")
				l.reachable(t, g, port)
				l.mustBeTold(t, told, port)

				// The provider's end reaches this port alone, and only by IPv4.
				for _, at := range []string{"10.64.0.2:7777", fmt.Sprintf("[fd64::2]:%d", port), "10.64.0.2:" + strconv.Itoa(port+1)} {
					if err := l.Exit.Do(func() error { return reach(at) }); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: %v, want no answer", at, err)
					}
				}
				// A keeper that was killed leaves the port to its successor.
				killKeeper(t)
				l.do(t, "up", l.conf)
				if again := l.waitPort(t, 1, 65535); again != port {
					t.Errorf("after the repair the port is %d, not %d", again, port)
				}
				l.reachable(t, g, port)

				if protocol == "pcp" { // with NAT-PMP it takes a minute
					l.losePort(t, g, port, told)
				}
				l.do(t, "down", "vpn")
				world.Eventually(t, "the end of the mappings", func() error {
					if rules := g.exit.Run(t, "nft", "list", "chain", "inet", "miniupnpd", "prerouting"); strings.Contains(rules, "dnat") {
						return errors.New(rules)
					}
					return nil
				})
			})
		})
	}
}

// losePort stops the gateway until the port is lost, and then has it give other
// ones.
func (l *lab) losePort(t *testing.T, g *gateway, port int, told string) {
	t.Helper()
	old := "10.64.0.2:" + strconv.Itoa(port)
	g.stop(t)
	l.waitStatus(t, "the loss of the port", func(s jailStatus) bool {
		return s.State == "up" && s.Port.Port == 0 && s.Port.LocalPort == 0 && s.Port.Error != ""
	})
	if err := l.Exit.Do(func() error { return reach(old) }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a port that was lost: %v, want no answer", err)
	}
	if _, err := os.Stat("/run/wgjail/vpn/port"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a port that was lost: %v", err)
	}
	if env := l.in(t, "echo -$WGJAIL_PORT-"); env != "--\n" {
		t.Errorf("in the jail it is %q", env)
	}
	// The ports above it, or others where there are none above.
	first := port + 1
	if port > 65000 {
		first = 2000
	}
	g.start(t, first, first+9)
	changed := l.waitPort(t, first, first+9)
	serve(t, l.w.Open(t, "vpn"), "app", "tcp", "[::]:"+strconv.Itoa(changed))
	l.reachable(t, g, changed)
	l.mustBeTold(t, told, port, changed)
	if err := l.Exit.Do(func() error { return reach(old) }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the port of before: %v, want no answer", err)
	}
}

// reach connects to an address, where a packet that is dropped is not answered.
func reach(at string) error {
	c, err := net.DialTimeout("tcp", at, 300*time.Millisecond)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return os.ErrDeadlineExceeded
	}
	if err == nil {
		err = c.Close()
	}
	return err
}

// reachable wants the jail's service at the port to be reached from behind the
// gateway, and datagrams to come in there.
func (l *lab) reachable(t *testing.T, g *gateway, port int) {
	t.Helper()
	at := net.JoinHostPort(wanV4, strconv.Itoa(port))
	world.Eventually(t, "the service at "+at, func() error {
		banner, seen, err := greet(g.peer, at)
		if err == nil && (banner != "app" || seen.String() != peerV4) {
			err = fmt.Errorf("%q answers, who saw %v", banner, seen)
		}
		return err
	})
	jail := l.w.Open(t, "vpn")
	c, err := jail.ListenPacket("udp4", "0.0.0.0:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	if err := echo(g.peer, "udp", at, "hello"); err != nil {
		t.Errorf("datagrams to %s: %v", at, err)
	}
}

// mustBeTold wants the ports, of which the last is the one that there is, to
// have been told in every way.
func (l *lab) mustBeTold(t *testing.T, told string, ports ...int) {
	t.Helper()
	want := ""
	for _, p := range ports {
		want += fmt.Sprintf("%d %[1]d\n", p)
	}
	world.Eventually(t, "the --on-port command", func() error {
		if text, err := os.ReadFile(told); err != nil || string(text) != want {
			return fmt.Errorf("it has written %q, %v; want %q", text, err, want)
		}
		return nil
	})
	last := strconv.Itoa(ports[len(ports)-1])
	if text, err := os.ReadFile("/run/wgjail/vpn/port"); string(text) != last+"\n" {
		t.Errorf("the file says %q, %v; want %s", text, err, last)
	}
	if env := l.in(t, "echo $WGJAIL_PORT $WGJAIL_LOCAL_PORT"); env != last+" "+last+"\n" {
		t.Errorf("in the jail it is %q, want %s", env, last)
	}
	if text := l.do(t, "status"); !strings.Contains(text, "provider port  "+last+", TCP and UDP (") {
		t.Errorf("status does not say %s:\n%s", last, text)
	}
}

// A fakeGateway answers as ProtonVPN's does: the port is of its choice, and leads
// to the same one.
type fakeGateway struct {
	mu       sync.Mutex
	port     uint16 // 0: it does not answer
	tcp      uint16 // if it is another one for TCP
	result   byte
	requests []string
}

func (l *lab) fakeGateway(t *testing.T, port uint16) *fakeGateway {
	t.Helper()
	c, err := l.Exit.ListenPacket("udp4", "10.64.0.1:5351")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	g := &fakeGateway{port: port}
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := g.answer(buf[:n]); b != nil {
				c.WriteTo(b, from)
			}
		}
	}()
	return g
}

// set changes what it answers.
func (g *fakeGateway) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *fakeGateway) answer(query []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, fmt.Sprintf("%x", query))
	if g.port == 0 || len(query) != 12 {
		return nil
	}
	port := g.port
	if query[1] == 2 && g.tcp != 0 {
		port = g.tcp
	}
	b := []byte{0, query[1] | 0x80, 0, g.result, 0, 0, 0, 1, query[4], query[5]}
	b = binary.BigEndian.AppendUint16(b, port)
	return binary.BigEndian.AppendUint32(b, grantedFor)
}

// asked returns how often it was asked.
func (g *fakeGateway) asked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.requests)
}

// A port is renewed in time, and then nobody is told again; when it changes, is
// refused or is no longer the same for UDP and TCP, everything follows.
func TestProviderPortIsRenewed(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		g := l.fakeGateway(t, 35565)
		told := filepath.Join(t.TempDir(), "told")
		l.up(t, "--provider-port", "natpmp", "--on-port", "echo $WGJAIL_PORT $WGJAIL_LOCAL_PORT >>"+told)
		l.waitPort(t, 35565, 35565)
		world.Eventually(t, "renewals", func() error {
			if n := g.asked(); n < 4 {
				return fmt.Errorf("asked %d times", n)
			}
			return nil
		})
		l.mustBeTold(t, told, 35565)
		g.set(func() { g.port = 35570 })
		l.waitPort(t, 35570, 35570)
		l.mustBeTold(t, told, 35565, 35570)
		for name, spoil := range map[string]func(){
			"not authorized": func() { g.result = 2 },
			"the gateway gives port 35570 for UDP and 35571 for TCP": func() { g.tcp = 35571 },
		} {
			g.set(spoil)
			l.waitStatus(t, name, func(s jailStatus) bool {
				return s.State == "up" && s.Port.Port == 0 && strings.Contains(s.Port.Error, name)
			})
			g.set(func() { g.tcp, g.result = 0, 0 })
			l.waitPort(t, 35570, 35570)
		}
		before := g.asked()
		l.do(t, "down", "vpn")
		g.mu.Lock()
		defer g.mu.Unlock()
		if back := strings.Join(g.requests[before:], " "); !strings.Contains(back, "000100000000000000000000") {
			t.Errorf("it was not given back: asked %s", back)
		}
	})
}

// run knows the port, however late it comes, and a command in the jail does.
func TestProviderPortOfRun(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		g := l.fakeGateway(t, 35565)
		t.Setenv("WGJAIL_PORT", "1")
		if out := l.do(t, "run", l.conf, "--provider-port", "natpmp", "--", "sh", "-c", "echo $WGJAIL_PORT"); out != "35565\n" {
			t.Errorf("the command saw port %q", out)
		}
		g.set(func() {
			if got, want := strings.Join(g.requests[:2], " "), "00010000000000010000003c 0002000000008aed0000003c"; got != want {
				t.Errorf("the gateway was asked %s, want %s", got, want)
			}
			g.port = 0
		})
		r := l.run(t, "run", l.conf, "--provider-port", "natpmp=10.64.0.1", "--", "sh", "-c", "echo -$WGJAIL_PORT-")
		if r.status != 0 || r.out != "--\n" || !strings.Contains(r.err, "wgjail: warning: the provider gives no port: the gateway does not answer") {
			t.Errorf("without an answer: %+v", r)
		}
		if out := l.do(t, "run", l.conf, "--", "sh", "-c", "echo -$WGJAIL_PORT-"); out != "--\n" {
			t.Errorf("without a provider port the command saw %q", out)
		}
	})
}

// What cannot be is refused at once, and changes nothing.
func TestProviderPortMistakes(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, tt := range []struct {
			status     int
			text, hint string
			args       []string
		}{
			{2, `unknown protocol "upnp"`, "use natpmp or pcp", []string{"--provider-port", "upnp"}},
			{2, `"x.test" is not the address of a gateway`, "leave it out to ask the first name server", []string{"--provider-port", "natpmp=x.test"}},
			{2, `"0.0.0.0" is not the address of a gateway`, "leave it out to ask the first name server", []string{"--provider-port", "natpmp=0.0.0.0"}},
			{2, "--on-port without a provider port", "ask for one with --provider-port natpmp", []string{"--on-port", "true"}},
			{1, "NAT-PMP has no IPv6", "use pcp=fd64::1", []string{"--provider-port", "natpmp=fd64::1"}},
		} {
			l.refused(t, tt.status, []string{tt.text, "hint: " + tt.hint}, append([]string{"up", l.conf}, tt.args...)...)
		}
		l.Client.DNS = nil
		l.refused(t, 1, []string{"no name server that could be the gateway", "hint: name the gateway, as in --provider-port natpmp=10.2.0.1"}, "up", l.Conf(t, "nodns"), "--provider-port", "natpmp")
		l.unchanged(t, before, "what was refused")
		l.up(t)
		l.refused(t, 1, []string{"jail vpn is up without that provider port", "wgjail down vpn"}, "up", l.conf, "--provider-port", "natpmp")
	})
}
