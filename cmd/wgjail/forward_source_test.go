package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// routing returns what the routing rules and tables of a node are, without those
// that every namespace has.
func routing(t *testing.T, n *world.Node) string {
	t.Helper()
	return n.Run(t, "sh", "-c", "ip rule; ip -6 rule; ip route show table 22344 2>/dev/null; ip -6 route show table 22344 2>/dev/null; true")
}

// With --source client services see who the client really is, whatever address
// they listen on; clients that have no address of their own inside are shown
// under the jail's.
func TestForwardSourceClient(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		own := addresses(t, jail)
		serve(t, jail, "everywhere", "tcp", "[::]:80")
		serve(t, jail, "loopback", "tcp4", "127.0.0.1:81")
		serve(t, jail, "loopback6", "tcp6", "[::1]:81")
		serve(t, jail, "tunnel", "tcp4", l.Client.Addresses[0].Addr().String()+":82")
		serve(t, jail, "tunnel6", "tcp6", "["+l.Client.Addresses[1].Addr().String()+"]:82")
		serve(t, jail, "v6", "tcp6", "[::1]:83")
		p := l.forward(t, "--source", "client", "80-84")
		if sets := capabilitiesOf(t, p.Pid); len(sets) != 2 || !sets["CapPrm:0000000000001000"] || !sets["CapEff:0000000000001000"] {
			t.Errorf("the forward has %v; want CAP_NET_ADMIN and no other", sets)
		}
		for _, c := range []struct {
			from     *world.Node
			to, want string
		}{
			{l.LAN, world.HostLANV4, world.LANV4}, {l.LAN, "[" + world.HostLANV6 + "]", world.LANV6},
			{l.Host, world.HostLANV4, world.HostLANV4}, {l.Host, "[" + world.HostLANV6 + "]", world.HostLANV6},
			{l.Host, "127.0.0.1", ""}, {l.Host, "[::1]", ""},
		} {
			for port := 80; port <= 82; port++ {
				v, err := visitTo(c.from, fmt.Sprintf("%s:%d", c.to, port))
				if err != nil {
					t.Errorf("%s to %s:%d: %v", c.from.Name, c.to, port, err)
					continue
				}
				seen := v.seen.Addr().Unmap()
				if c.want == "" && !own[seen] || c.want == "" && seen.IsLoopback() || c.want != "" && seen.String() != c.want {
					t.Errorf("%s to %s:%d: %s saw %s; want %q", c.from.Name, c.to, port, v.banner, seen, c.want)
				}
				if port := netip.MustParseAddrPort(v.LocalAddr().String()).Port(); c.want != "" && v.seen.Port() != port {
					t.Errorf("%s to %s: %s saw port %d; want %d", c.from.Name, c.to, v.banner, v.seen.Port(), port)
				}
				if err := v.exchange(strings.Repeat("there and back ", 10000)); err != nil {
					t.Error(err)
				}
				v.Close()
			}
		}
		mustGreet(t, l.LAN, "["+world.HostLANV6+"]:83", "v6")
		mustBeReset(t, l.LAN, world.HostLANV4+":83") // an IPv4 client has no address there
		mustBeReset(t, l.LAN, world.HostLANV4+":84") // nobody listens
		l.do(t, "check", "vpn")
		if f := l.status(t).Forwards[0]; f.Source != "client" {
			t.Errorf("status says that the source is %q", f.Source)
		}
		if table := l.do(t, "status"); !strings.Contains(table, "(relay, source client)") {
			t.Errorf("status printed:\n%s", table)
		}
		l.forward(t, "8080:80")
		if _, seen, err := greet(l.LAN, world.HostLANV4+":8080"); err != nil || !own[seen] {
			t.Errorf("without --source the service saw %v (%v)", seen, err)
		}
		if f := l.status(t).Forwards[1]; f.Source != "jail" {
			t.Errorf("status says that the source is %q", f.Source)
		}

		// A jail that is made with its forwards has them in the same way.
		l.do(t, "down", "vpn")
		l.do(t, "up", l.conf, "--source", "client", "-p", "80")
		serve(t, w.Open(t, "vpn"), "again", "tcp", "[::]:80")
		if _, seen, err := greet(l.LAN, world.HostLANV4+":80"); err != nil || seen.String() != world.LANV4 {
			t.Errorf("with up -p the service saw %v (%v)", seen, err)
		}
	})
}

// The routes for answers to clients are there exactly while a forward needs
// them, however it ends.
func TestForwardSourceClientLeavesNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp4", "127.0.0.1:80")
		settled(t, "vpn")
		before, routes := w.Snapshot(t), routing(t, jail)
		gone := func(after string) {
			t.Helper()
			world.Eventually(t, "the routes' end after "+after, func() error {
				if now := routing(t, jail); now != routes {
					return fmt.Errorf("they are\n%s, and were\n%s", now, routes)
				}
				return nil
			})
			l.unchanged(t, before, after)
		}
		first := l.forward(t, "--source", "client", "8080:80")
		if now := routing(t, jail); !strings.Contains(now, "22344") {
			t.Fatalf("no routes for the answers:\n%s", now) // the positive control
		}
		second := l.forward(t, "--source", "client", "8081:80")
		first.Signal(t, syscall.SIGTERM)
		first.Wait()
		if _, seen, err := greet(l.LAN, world.HostLANV4+":8081"); err != nil || seen.String() != world.LANV4 {
			t.Errorf("after the first forward's end the service saw %v (%v)", seen, err)
		}
		second.Signal(t, syscall.SIGTERM)
		second.Wait()
		gone("SIGTERM")

		for after, args := range map[string][]string{
			"status": {"status"}, "stop": {"forward", "--stop"}, "forward": {"forward", "8082:80"},
		} {
			killed := l.forward(t, "--source", "client", "8080:80")
			killed.Signal(t, syscall.SIGKILL)
			killed.Wait()
			if after == "forward" {
				p := l.forward(t, args[1:]...)
				p.Signal(t, syscall.SIGTERM)
				p.Wait()
			} else {
				l.do(t, args...)
			}
			l.do(t, "forward", "--stop") // which forgets the record too
			gone("kill -9 and " + after)
		}

		// A program that stays after down is in a namespace without them.
		l.forward(t, "--source", "client", "8080:80")
		killed := l.forward(t, "--source", "client", "8081:80")
		killed.Signal(t, syscall.SIGKILL)
		killed.Wait()
		l.do(t, "down", "vpn")
		if now := routing(t, jail); strings.Contains(now, "22344") {
			t.Errorf("after down:\n%s", now)
		}
	})
}

// What a client that services see under its own address sends and gets never
// enters the tunnel, also when the routes for it are taken away or the service
// goes on when the forward is gone. That it would be seen is shown by what the
// jail itself sends.
func TestForwardSourceClientStaysOutOfTheTunnel(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp", "[::]:80")
		wire := jail.Capture(t, "vpn")
		clients := []netip.Addr{netip.MustParseAddr(world.LANV4), netip.MustParseAddr(world.LANV6)}
		ofClient := func(h provider.Header) bool {
			for _, c := range clients {
				if h.Src.Addr() == c || h.Dst.Addr() == c {
					return true
				}
			}
			return false
		}
		leaked := func() (list []string) {
			wire.Sync(t)
			for _, f := range wire.Frames() {
				if h, ok := f.Header(); ok && ofClient(h) {
					list = append(list, f.String())
				}
			}
			for _, p := range l.Provider.Packets() {
				if h, ok := p.Header(); ok && ofClient(h) {
					list = append(list, fmt.Sprint("at the provider: ", h))
				}
			}
			return list
		}
		use := func() {
			for _, host := range []string{world.HostLANV4, "[" + world.HostLANV6 + "]"} {
				v, err := visitTo(l.LAN, host+":8080")
				if err == nil {
					v.exchange("hello")
					v.Close()
				}
				greet(l.LAN, host+":8081") // where nobody listens
			}
		}
		must := func(what string) {
			t.Helper()
			if list := leaked(); len(list) > 0 {
				t.Errorf("%s: in the tunnel: %s", what, strings.Join(list, "\n"))
			}
		}
		p := l.forward(t, "--dial-timeout", "200ms", "--source", "client", "8080:80", "8081")
		use()
		must("in use")
		// Connections that outlive the routes, and new ones without.
		v := l.mustVisit(t, world.HostLANV4+":8080")
		jail.Run(t, "sh", "-c", "ip rule del pref 101; ip -6 rule del pref 101")
		v.tryBriefly("anyone?")
		use()
		must("without the routing rules")
		p.Signal(t, syscall.SIGKILL)
		p.Wait()
		l.do(t, "status")
		p = l.forward(t, "--dial-timeout", "200ms", "--source", "client", "8080:80", "8081")
		// A service that goes on speaking when the forward has been killed.
		v = l.mustVisit(t, world.HostLANV4+":8080")
		go io.Copy(v, zeros{})
		p.Signal(t, syscall.SIGKILL)
		p.Wait()
		l.do(t, "status")
		jail.Run(t, "ss", "-tan")
		must("after kill -9")
		// The tunnel's end is a reason to go another way, too.
		l.do(t, "forward", "-d", "--dial-timeout", "200ms", "--source", "client", "--to", l.Client.Addresses[0].Addr().String(), "8082:80")
		v = l.mustVisit(t, world.HostLANV4+":8082")
		jail.Run(t, "ip", "address", "del", l.Client.Addresses[0].String(), "dev", "vpn")
		v.tryBriefly("anyone?")
		greet(l.LAN, world.HostLANV4+":8082")
		must("without the target's address")
		jail.Run(t, "ip", "address", "add", l.Client.Addresses[0].String(), "dev", "vpn")

		// The positive control: a client's address in the tunnel is seen, at both
		// places, if it is sent without the mark.
		jail.Run(t, "ip", "address", "add", world.LANV4+"/32", "dev", "lo")
		jail.Run(t, "ip", "route", "replace", world.InternetV4, "dev", "vpn", "src", world.LANV4)
		c, err := jail.Dial("udp", world.InternetV4+":7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(world.Canary())
		world.Eventually(t, "the positive control", func() error {
			if len(leaked()) == 0 {
				return errors.New("it is not seen")
			}
			return nil
		})
	})
}

// tryBriefly sends text over a connection that is cut off on purpose, and waits a
// while for the answer that must not come another way.
func (v *visit) tryBriefly(text string) {
	v.SetDeadline(time.Now().Add(500 * time.Millisecond))
	io.WriteString(v, text)
	v.Read(make([]byte, len(text)))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What does not go together is said, before anything is done.
func TestForwardSourceErrors(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		w.Namespace(t, "app").Addr(t, "lo", "192.0.0.8/32")
		settled(t, "vpn")
		before := w.Snapshot(t)
		for _, c := range []struct {
			status int
			args   string
			texts  []string
		}{
			{2, "--source nobody 8080", []string{`error: unknown source "nobody"`, "hint: the source is jail or client"}},
			{2, "--proxy-protocol v3 8080", []string{`error: unknown version "v3" of the PROXY protocol`, "hint: the versions are v1 and v2"}},
			{2, "--source client 8080 53/udp", []string{`forward "53/udp": services can see the client's address over TCP only`, "hint: leave --source client out for UDP"}},
			{2, "--proxy-protocol v2 53/udp", []string{`forward "53/udp": the PROXY protocol is for TCP only`, "hint: "}},
			{1, "--source client --netns app 8080", []string{"namespace /run/netns/app is no jail", "hint: ", "--proxy-protocol"}},
			{1, "--source client --to 10.64.0.1 8080", []string{"--to 10.64.0.1 is no address of jail vpn", "hint: "}},
		} {
			for _, detach := range []string{"--detach=false", "--detach"} {
				l.refused(t, c.status, c.texts, append([]string{"forward", detach}, strings.Fields(c.args)...)...)
			}
		}
		l.refused(t, 2, []string{"over TCP only"}, "up", l.conf, "--source", "client", "-p", "53/udp")
		l.Host.Run(t, "rm", "-f", "/run/wgjail/vpn/forward.log")
		l.unchanged(t, before, "refused forwards")
	})
}

// The PROXY protocol reaches the service in the jail, and a real one takes it.
func TestForwardProxyProtocol(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		back, err := jail.Listen("tcp4", "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		l.nginx(t, jail)
		for _, version := range []string{"v1", "v2"} {
			l.do(t, "forward", "-d", "--proxy-protocol", version, "8080:80", "8081:81")
			for _, host := range []string{world.HostLANV4, "[" + world.HostLANV6 + "]"} {
				c, err := l.LAN.Dial("tcp", host+":8080")
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(c, "hello")
				c.(*net.TCPConn).CloseWrite()
				s, err := back.Accept()
				if err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(s)
				h, err := proxyproto.Read(in)
				if err != nil || fmt.Sprint("v", h.Version) != version || h.SourceAddr.String() != c.LocalAddr().String() || h.DestinationAddr.String() != c.RemoteAddr().String() {
					t.Errorf("%s to %s: header %+v (%v)", version, host, h, err)
				}
				if rest, err := io.ReadAll(in); string(rest) != "hello" || err != nil {
					t.Errorf("after the header: %q, %v", rest, err)
				}
				s.Close()
				c.Close()
				want := world.LANV4
				if strings.HasPrefix(host, "[") {
					want = world.LANV6
				}
				if got := l.LAN.Run(t, "curl", "-sSf", "-m", "20", "--noproxy", "*", "http://"+host+":8081/"); got != want+"\n" {
					t.Errorf("nginx saw %q by PROXY %s; want %s", got, version, want)
				}
			}
			if f := l.status(t).Forwards[0]; f.ProxyProtocol != version {
				t.Errorf("status says that the PROXY protocol is %q", f.ProxyProtocol)
			}
			if table := l.do(t, "status"); !strings.Contains(table, "(relay, PROXY "+version+")") {
				t.Errorf("status printed:\n%s", table)
			}
			l.do(t, "forward", "--stop")
		}
	})
}

// nginx starts nginx in a node, at 127.0.0.1:81, which wants a header of the
// PROXY protocol and answers with the client's address.
func (l *lab) nginx(t *testing.T, n *world.Node) {
	t.Helper()
	dir := t.TempDir()
	conf := dir + "/nginx.conf"
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http {
  access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server { listen 127.0.0.1:81 proxy_protocol; location / { return 200 "$proxy_protocol_addr\n"; } }
}
`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := n.Start(t, exec.Command("nginx", "-c", conf, "-e", dir+"/error.log"))
	t.Cleanup(func() { p.Signal(t, syscall.SIGKILL); p.Wait() })
	world.Eventually(t, "nginx", func() error {
		if err := listening(n, 81); err != nil {
			log, _ := os.ReadFile(dir + "/error.log")
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(log))
		}
		return nil
	})
}
