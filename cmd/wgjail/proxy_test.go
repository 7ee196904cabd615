package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgjail/wgjail/internal/world"
)

// The address of web.test in the jail's eyes, and in everybody else's.
var inJail, outside = []string{world.InternetV4, world.InternetV6}, []string{world.GatewayV4, world.GatewayV6}

func addrList(texts []string) (list []netip.Addr) {
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

// proxyLab is a lab with a jail and proxies: a SOCKS5 one at port 1080 and an
// HTTP one at port 8118, at the host's addresses.
func proxyLab(t *testing.T, w *world.World, args ...string) (*lab, *world.Node) {
	t.Helper()
	l := newLab(t, w)
	l.Provider.SetName("web.test", addrList(inJail)...)
	l.Sink.SetName("web.test", addrList(outside)...)
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver "+world.InternetV4+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	jail := l.up(t)
	l.do(t, append([]string{"proxy", "-d", "--socks5", "*:1080", "--http", "*:8118"}, args...)...)
	return l, jail
}

// curl fetches url from a node and returns what came.
func curl(t *testing.T, from *world.Node, args ...string) result {
	t.Helper()
	r, err := runIn(from, exec.Command("curl", append([]string{"-sS", "--noproxy", "", "--max-time", "30"}, args...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s$ curl %s\n%s%s(status %d)", from.Name, strings.Join(args, " "), r.out, r.err, r.status)
	return r
}

// A real client reaches what is behind the tunnel, by name and by address, in
// both families, with every kind of proxy that it knows; nobody else hears of
// the name.
func TestProxyForCurl(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, _ := proxyLab(t, w)
		name := strings.ToLower(string(world.Canary())) + ".web.test"
		l.Provider.SetName(name, addrList(inJail)...)
		wire := l.Host.CaptureAll(t)
		wire.Control(t, "a name looked up on the host", func(canary []byte) error {
			l.Host.Try(t, "getent", "ahosts", string(canary)+".test")
			return nil
		})
		asked := len(l.Sink.Queries())
		for _, host := range []string{name, world.InternetV4, "[" + world.InternetV6 + "]"} {
			for _, via := range []string{"--proxy socks5h://%s:1080", "--socks5-hostname %s:1080", "--proxy http://%s:8118", "--proxytunnel --proxy http://%s:8118"} {
				for _, c := range []caller{{l.Host, "127.0.0.1"}, {l.Host, "[::1]"}, {l.LAN, world.HostLANV4}, {l.LAN, "[" + world.HostLANV6 + "]"}} {
					r := curl(t, c.from, append(strings.Fields(fmt.Sprintf(via, c.to)), "http://"+host+"/")...)
					if seen := strings.TrimSpace(r.out); r.status != 0 || seen != "10.64.0.2" && seen != "fd64::2" {
						t.Errorf("%s: status %d, the server saw %q: %s", via, r.status, r.out, r.err)
					}
				}
			}
		}
		wire.Sync(t)
		if found := wire.Find([]byte(strings.Split(name, ".")[0])); len(found) > 0 {
			for _, f := range found {
				if h, ok := f.Header(); ok && !toProxy(h.Src) && !toProxy(h.Dst) {
					t.Errorf("the name in clear: %v", f)
				}
			}
		}
		for _, q := range l.Sink.Queries()[asked:] {
			t.Errorf("the host's server was asked for %s", q.Name)
		}
		if len(l.Provider.Queries()) == 0 {
			t.Error("the jail's server was not asked")
		}
	})
}

// toProxy reports whether a is where the proxies listen: what clients say to
// them may hold the name.
func toProxy(a netip.AddrPort) bool { return a.Port() == 1080 || a.Port() == 8118 }

// socks connects through a SOCKS5 proxy with another's client.
func socks(from *world.Node, at, to string, auth *proxy.Auth) (net.Conn, error) {
	d, err := proxy.SOCKS5("tcp", at, auth, dialerOf{from})
	if err != nil {
		return nil, err
	}
	c, err := d.Dial("tcp", to)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c, err
}

type dialerOf struct{ *world.Node }

// What a target does is told in the words of the protocol.
func TestProxyTellsWhatTheTargetDoes(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, _ := proxyLab(t, w, "--dial-timeout", "1s")
		l.Exit.Run(t, "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; add rule inet t i tcp dport 4444 drop")
		l.Provider.SetName("nowhere.test", netip.MustParseAddr("192.0.2.1"))
		l.Exit.Run(t, "ip", "route", "add", "unreachable", "192.0.2.1/32")
		for _, tt := range []struct{ to, socks, http string }{
			{"web.test:81", "connection refused", "502"},
			{world.InternetV4 + ":81", "connection refused", "502"},
			{world.InternetV4 + ":4444", "TTL expired", "504"},
			{"missing.test:80", "host unreachable", "502"},
			{"0.0.0.0:80", "host unreachable", "502"},
			{"224.0.0.1:80", "host unreachable", "502"},
			{world.InternetV4 + ":53", "connection refused", "502"}, // names are asked of the jail's servers only
		} {
			if c, err := socks(l.LAN, world.HostLANV4+":1080", tt.to, nil); err == nil || !strings.Contains(err.Error(), tt.socks) {
				t.Errorf("SOCKS5 to %s: %v, want %s", tt.to, err, tt.socks)
				if err == nil {
					c.Close()
				}
			}
			for _, how := range []string{"--proxytunnel", "--no-progress-meter"} {
				code := "%{http_connect}"
				if how != "--proxytunnel" {
					code = "%{http_code}"
				}
				if r := curl(t, l.LAN, how, "--proxy", "http://"+world.HostLANV4+":8118", "-o", "/dev/null", "-w", code, "http://"+tt.to+"/"); r.out != tt.http {
					t.Errorf("HTTP (%s) to %s: status %q, want %s", how, tt.to, r.out, tt.http)
				}
			}
		}
		if f := l.status(t).Forwards; len(f) != 2 || f[0].Mode != "proxy" || f[0].Proto != "http" || f[0].Listen != "*:8118" || f[1].Proto != "socks5" || f[1].Total != 0 || f[1].Active != 0 {
			t.Errorf("status %+v", f)
		}
	})
}

// Who is not allowed is reset, who has no password is turned away, and both are
// counted.
func TestProxyClients(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		users := filepath.Join(t.TempDir(), "users")
		if err := os.WriteFile(users, []byte("# who may\nalice:a:b c\n\nbob:secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		l, _ := proxyLab(t, w, "--users", users)
		good := map[string]*proxy.Auth{"alice:a:b c": {User: "alice", Password: "a:b c"}, "bob:secret": {User: "bob", Password: "secret"}}
		bad := map[string]*proxy.Auth{"alice:secret": {User: "alice", Password: "secret"}, "carol:secret": {User: "carol", Password: "secret"}, "": nil}
		for user, auth := range good {
			c, err := socks(l.LAN, world.HostLANV4+":1080", "web.test:7", auth)
			if err != nil {
				t.Errorf("%s: %v", user, err)
				continue
			}
			c.Close()
			for _, kind := range []string{"socks5h://", "http://"} {
				port := map[string]string{"socks5h://": ":1080", "http://": ":8118"}[kind]
				if r := curl(t, l.LAN, "--proxy", kind+world.HostLANV4+port, "--proxy-user", user, "http://web.test/"); r.status != 0 {
					t.Errorf("%s: status %d", user, r.status)
				}
			}
		}
		for user, auth := range bad {
			if c, err := socks(l.LAN, world.HostLANV4+":1080", "web.test:7", auth); err == nil {
				c.Close()
				t.Errorf("%q got in", user)
			}
			for _, how := range []string{"--proxytunnel", "--no-progress-meter"} {
				r := curl(t, l.LAN, how, "--proxy", "http://"+world.HostLANV4+":8118", "--proxy-user", user, "-o", "/dev/null", "-w", "%{http_code} %{http_connect}", "http://web.test/")
				if !strings.Contains(r.out, "407") {
					t.Errorf("%q: %q, want 407", user, r.out)
				}
			}
		}
		strangers := []stranger{{l.Inet, world.InternetV4, world.HostV4}, {l.Inet, world.InternetV6, world.HostV6}}
		for _, s := range strangers {
			for _, port := range []int{1080, 8118} {
				if err := s.served(port); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s at port %d: %v, want connection reset", s.source, port, err)
				}
			}
		}
		for _, f := range l.status(t).Forwards {
			want := uint64(len(bad) + len(strangers))
			if f.Proto == "http" {
				want += uint64(len(bad))
			}
			if f.Refused != want {
				t.Errorf("%s: %d refused, want %d", f.Proto, f.Refused, want)
			}
		}
		l.do(t, "proxy", "--stop")
		if err := os.Chmod(users, 0o644); err != nil {
			t.Fatal(err)
		}
		l.refused(t, 1, []string{"holds passwords, and others can read it", "chmod 600"}, "proxy", "-d", "--users", users)
		if err := errors.Join(os.Chmod(users, 0o600), os.WriteFile(users, []byte("secret\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		l.refused(t, 1, []string{"line 1: not NAME:PASSWORD"}, "proxy", "-d", "--users", users)
	})
}

// A proxy lives and ends as a forward does.
func TestProxyLife(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.refused(t, 1, []string{"there is no jail"}, "proxy")
		before := w.Snapshot(t)
		l.up(t)
		l.refused(t, 2, []string{`socks5 proxy at "nonsense"`, "hint: write [ADDR:]PORT"}, "proxy", "--socks5", "nonsense")
		l.refused(t, 2, []string{`http proxy at "0"`}, "proxy", "--http", "0")

		p := l.start(t, "proxy")
		p.WaitOutput(t, "SOCKS5 proxy at localhost:1080 into jail vpn, for this host\n")
		for _, at := range []string{"127.0.0.1:1080", "[::1]:1080"} {
			if err := throughSocks(l.Host, at, world.InternetV4+":7"); err != nil {
				t.Error(err)
			}
		}
		mustBeClosed(t, l.LAN, world.HostLANV4+":1080")
		if sets := capabilitiesOf(t, l.status(t).Forwards[0].PID); len(sets) != 0 {
			t.Errorf("the proxy has %v", sets)
		}
		l.refused(t, 1, []string{"there is a socks5 proxy at localhost:1080 already", "wgjail proxy --jail vpn --stop --socks5 localhost:1080"}, "proxy")
		l.refused(t, 1, []string{"has no http proxy at localhost:8118"}, "proxy", "--stop", "--http", "8118")
		l.do(t, "forward", "-d", "8080")
		if out := l.do(t, "proxy", "--stop"); out != "stopped socks5-localhost:1080\n" {
			t.Errorf("printed %q", out)
		}
		if err := p.Wait(); err != nil || !strings.Contains(p.Output(), "stopped by wgjail proxy --stop\n") {
			t.Errorf("ended with %v and printed %q", err, p.Output())
		}
		if out := l.do(t, "proxy", "--stop"); out != "jail vpn has no proxy\n" {
			t.Errorf("printed %q", out)
		}

		l.do(t, "proxy", "-d", "--socks5", "192.168.77.1:1080", "--http", "8118", "--allow", "192.168.77.0/24")
		if out := l.do(t, "forward", "--stop"); out != "stopped tcp-8080\n" {
			t.Errorf("forward --stop printed %q", out)
		}
		if err := throughSocks(l.LAN, world.HostLANV4+":1080", world.InternetV6+":7"); err == nil {
			t.Error("an IPv6 address without brackets is no host and port")
		}
		if err := throughSocks(l.LAN, world.HostLANV4+":1080", "["+world.InternetV6+"]:7"); err != nil {
			t.Error(err)
		}
		l.waitStatus(t, "what has moved", func(s jailStatus) bool {
			f := s.Forwards[len(s.Forwards)-1]
			return len(s.Forwards) == 2 && f.ID == "socks5-192.168.77.1:1080" && f.Total == 1 && f.Active == 0 && f.BytesIn == 5 && f.BytesOut == 5
		})
		if out := l.do(t, "status"); !strings.Contains(out, "socks5 at 192.168.77.1:1080, 0 open of 1, 0 refused, 5 B in, 5 B out") {
			t.Errorf("status printed %s", out)
		}

		last := l.start(t, "proxy", "--socks5", "1081")
		last.WaitOutput(t, "proxy at")
		c, err := socks(l.Host, "127.0.0.1:1081", world.InternetV4+":7", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l.do(t, "down", "vpn")
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after down: %v, want the end of the connection", err)
		}
		if err := last.Wait(); err == nil || !strings.Contains(last.Output(), "jail vpn was removed") {
			t.Errorf("ended with %v and printed %q", err, last.Output())
		}
		l.unchanged(t, before, "down")
	})
}

// throughSocks has an echo service answer through a proxy.
func throughSocks(from *world.Node, at, to string) error {
	c, err := socks(from, at, to, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := c.Read(got); err != nil || !bytes.Equal(got, []byte("hello")) {
		return fmt.Errorf("%q came back, %v", got, err)
	}
	return nil
}
