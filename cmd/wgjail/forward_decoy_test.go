package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// A hammer connects again and again, and remembers who answered.
type hammer struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	answers map[string]int
}

// hammerAt lets every caller connect to a port of the host until it is stopped.
func hammerAt(callers []caller, port string) *hammer {
	h := &hammer{stop: make(chan struct{}), answers: map[string]int{}}
	for _, c := range callers {
		h.wg.Go(func() {
			for {
				select {
				case <-h.stop:
					return
				default:
				}
				banner := strike(c, port)
				h.mu.Lock()
				h.answers[banner]++
				h.mu.Unlock()
			}
		})
	}
	return h
}

// strike connects once and returns the banner, or "" if there is none. It does
// not wait long: what breaks may leave the client hanging.
func strike(c caller, port string) string {
	var conn net.Conn
	err := c.from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", c.to+":"+port, time.Second)
		return err
	})
	if err != nil {
		return ""
	}
	hang := time.AfterFunc(time.Second, func() { conn.Close() })
	defer hang.Stop()
	v, err := greeting(conn)
	if err != nil {
		return ""
	}
	defer v.Close()
	if v.seen.Addr().Unmap().IsLoopback() {
		return v.banner + ", who saw a loopback address,"
	}
	return v.banner
}

// begun returns nil once somebody has answered, or nobody.
func (h *hammer) begun() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.answers) == 0 {
		return errors.New("no client has come back")
	}
	return nil
}

// end stops the hammer and returns who answered how often; nobody is "".
func (h *hammer) end() map[string]int {
	close(h.stop)
	h.wg.Wait()
	return h.answers
}

// decoys start services on the host that a forward to port 9000 in the jail
// could meet by mistake: on every address, those of the jail included.
func (l *lab) decoys(t *testing.T) *service {
	t.Helper()
	for _, a := range l.Client.Addresses {
		l.Host.Addr(t, "lo", a.String())
	}
	l.Host.Addr(t, "lo", "192.0.0.8/32")
	return serve(t, l.Host, "decoy", "tcp", "[::]:9000")
}

// A mishap is something that can go wrong with a jail that has a forward.
type mishap struct {
	script string
	after  string // the answer to clients then: "app", "reset" or "closed"
}

var mishaps = map[string]mishap{
	"no service":           {":", "reset"},
	"keeper killed":        {"kill -9 $(head -n 1 /run/wgjail/vpn/keeper)", "app"},
	"interface deleted":    {"ip -n vpn link delete vpn", "reset"},
	"interface down":       {"ip -n vpn link set vpn down", "app"},
	"addresses removed":    {"ip -n vpn address flush dev vpn", "reset"},
	"loopback down":        {"ip -n vpn link set lo down", "reset"},
	"rules that reject":    {"ip netns exec vpn nft 'add table inet t; add chain inet t i {type filter hook input priority 0;}; add rule inet t i tcp dport 9000 reject with tcp reset'", "reset"},
	"name deleted":         {"ip netns delete vpn", "closed"},
	"name reused":          {"ip netns delete vpn; ip netns add vpn; ip -n vpn link set lo up; ip -n vpn address add 10.64.0.2/32 dev lo", "closed"},
	"down":                 {"wgjail down vpn", "closed"},
	"down and up":          {"wgjail down vpn && wgjail up $CONF", "closed"},
	"reused while frozen":  {"kill -STOP $FORWARD; ip netns delete vpn; ip netns add vpn; ip -n vpn link set lo up; kill -CONT $FORWARD", "closed"},
	"removed while frozen": {"kill -STOP $FORWARD; ip netns delete vpn; rm -r /run/wgjail/vpn; kill -CONT $FORWARD", "closed"},
}

// Whatever fails, who connects to a forward never meets a service of the host
// that has the same port, nor one in another namespace that has the jail's name.
func TestForwardNeverReachesTheHost(t *testing.T) {
	for name, c := range rows(mishaps, "no service", "keeper killed", "interface deleted", "down and up") {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, l *lab, m forwardMode) { c.mustNotLeadToTheHost(t, l, m, name) })
		})
	}
}

// Nor do clients that are shown to the service, which reaches them by routes of
// its own.
func TestForwardSourceClientNeverReachesTheHost(t *testing.T) {
	m := forwardMode{name: "source client", args: []string{"--source", "client"}, seen: true}
	for name, after := range rows(map[string]string{"no service": "reset", "addresses removed": "app", "name reused": "closed", "down and up": "closed"}, "down and up") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				mishap{mishaps[name].script, after}.mustNotLeadToTheHost(t, newLab(t, w), m, name)
			})
		})
	}
}

// mustNotLeadToTheHost lets it happen while many clients connect.
func (c mishap) mustNotLeadToTheHost(t *testing.T, l *lab, m forwardMode, name string) {
	t.Helper()
	decoy := l.decoys(t)
	jail := l.up(t)
	if name != "no service" {
		serve(t, jail, "app", "tcp", "[::]:9000")
	}
	m.forward(t, l, "--dial-timeout", "200ms", "8080:9000")
	pid := l.status(t).Forwards[0].PID
	h := hammerAt(l.clients(), "8080")
	world.Eventually(t, "a client", func() error { return h.begun() })

	cmd := exec.Command("sh", "-ec", "CONF=$0 FORWARD=$1; "+c.script, l.conf, fmt.Sprint(pid))
	if r := l.runCmd(t, cmd); r.status != 0 {
		t.Fatalf("%s: status %d", c.script, r.status)
	}
	if strings.Contains(name, "reused") || name == "down and up" {
		serve(t, l.w.Open(t, "vpn"), "impostor", "tcp", "[::]:9000")
	}
	after := c.after
	if m.rules && name == "loopback down" {
		after = "app" // rules lead to the tunnel's address
	}
	world.Eventually(t, after, func() error { return l.answer(after, m) })
	for who, n := range h.end() {
		if who != "" && who != "app" {
			t.Errorf("%d clients were answered by the %s", n, who)
		}
	}
	if n := decoy.called(); n != 0 {
		t.Errorf("the decoy was called %d times", n)
	}
	mustGreet(t, l.Host, "127.0.0.1:9000", "decoy") // the positive control
}

// answer returns nil if a client from the LAN gets this answer at port 8080. The
// kernel that redirects resets nobody who gets no answer: it lets the jail refuse,
// or say nothing.
func (l *lab) answer(want string, m forwardMode) error {
	if m.rules && want == "reset" {
		if banner := strike(caller{l.LAN, world.HostLANV4}, "8080"); banner != "" {
			return fmt.Errorf("banner %q, want none", banner)
		}
		return nil
	}
	banner, _, err := greet(l.LAN, world.HostLANV4+":8080")
	switch {
	case want == "reset" && errors.Is(err, syscall.ECONNRESET):
	case want == "closed" && errors.Is(err, syscall.ECONNREFUSED):
	case err == nil && banner == want:
	default:
		return fmt.Errorf("banner %q, error %v, want %s", banner, err, want)
	}
	return nil
}
