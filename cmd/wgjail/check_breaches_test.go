package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/wgjail/wgjail/internal/world"
)

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
	var inside func() // ends what was made inside
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
		{"inbound rules flushed", []string{"inbound"}, "a packet of 10.64.0.1 that nobody had asked for came in", host("ip netns exec vpn nft flush chain inet wgjail input"), up, nil},
		{"inbound rules replaced", []string{"inbound"}, "a packet of 10.64.0.1 that nobody had asked for came in", host("ip netns exec vpn nft 'flush chain inet wgjail input; add rule inet wgjail input accept; add rule inet wgjail input accept'"), up, nil},
		{"inbound rule added", []string{"inbound"}, "chain input of table wgjail has 3 rules, not 2", host("ip netns exec vpn nft add rule inet wgjail input accept"), up, nil},
		{"rules for name servers flushed", []string{"dns-refused", "rules"}, "8 of 8 packets", host("ip netns exec vpn nft flush chain inet wgjail output"), up, nil},
		{"table deleted", []string{"rules", "inbound", "dns-refused"}, "chain output of table wgjail is not there", host("ip netns exec vpn nft delete table inet wgjail"), up, nil},
		{"sysctl changed", []string{"sysctls"}, "net.ipv4.conf.all.accept_redirects is 1", host("ip netns exec vpn sysctl -qw net.ipv4.conf.all.accept_redirects=1"), up, nil},
		{"interface's sysctl changed", []string{"sysctls"}, "net.ipv4.conf.vpn.forwarding is 1", host("ip netns exec vpn sysctl -qw net.ipv4.conf.vpn.forwarding=1"), host("ip netns exec vpn sysctl -qw net.ipv4.conf.vpn.forwarding=0"), nil},
		{"resolv.conf rewritten", []string{"files", "masks"}, "/etc/netns/vpn/resolv.conf: changed", host("echo nameserver 192.0.2.1 >/etc/netns/vpn/resolv.conf"), up, nil},
		{"nsswitch.conf rewritten", []string{"masks", "files"}, "resolves names with: resolve", host("echo hosts: resolve >/etc/netns/vpn/nsswitch.conf"), up, nil},
		{"resolv.conf open to all", []string{"files"}, "its mode is 0666", host("chmod 666 /etc/netns/vpn/resolv.conf"), host("chmod 644 /etc/netns/vpn/resolv.conf"), nil},
		{"state given away", []string{"files"}, "belongs to user 65534", host("chown 65534 /run/wgjail/vpn/keeper.log"), host("chown 0 /run/wgjail/vpn/keeper.log"), nil},
		{"tunnel made inside", []string{"tunnel-socket", "keeper"}, "it is in the jail", func(t *testing.T) { inside = l.tunnelInside(t) }, func(t *testing.T) { inside(); anew(t) }, quickly},
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
		r := l.check(t)
		if !r.OK || len(r.Warnings) > 0 {
			t.Errorf("a new jail: %v %v", r.failed(), r.Warnings)
		}
		if why := r.find(t, "inbound").Why; why != "a packet of 10.64.0.1 that nobody had asked for was dropped; answers come in" {
			t.Errorf("of a new jail inbound says %q", why)
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
		r = l.check(t, "--egress", "http://"+world.InternetV4)
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

// TestCheckFindsBreachesWithoutRoot: what up makes in other places for a user's
// jail, or by other means, is looked at too; the rest is the same code.
func TestCheckFindsBreachesWithoutRoot(t *testing.T) {
	if kernelBackend() {
		return // a user's jail has the embedded one
	}
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		l.up(t)
		if r := l.check(t); !r.OK || len(r.Warnings) > 0 {
			t.Errorf("a new jail: %+v", r)
		}
		host := func(script string) func(*testing.T) {
			return func(t *testing.T) { l.Host.Run(t, "sh", "-ec", l.atUsers(t, script)) }
		}
		left := []string{"keeper killed", "interface added", "route lost", "rules for name servers flushed", "sysctl changed",
			"resolv.conf rewritten", "nsswitch.conf rewritten", "resolv.conf open to all", "state given away", "program with capabilities"}
		for _, b := range l.breaches(host) {
			i := slices.Index(left, b.name)
			if i < 0 {
				continue
			}
			left = slices.Delete(left, i, i+1)
			switch b.name {
			case "keeper killed":
				l.hold(t)
				b.breach = func(t *testing.T) { killProcess(t, l.keeper(t)) }
			case "program with capabilities": // the last: it goes on
				b.breach = func(t *testing.T) {
					l.start(t, "exec", "--keep-caps", "vpn", "--", "sh", "-c", "echo here; exec sleep 1007").WaitOutput(t, "here\n")
				}
			}
			b.breach(t)
			r := l.check(t, b.args...)
			if got, want := slices.Sorted(slices.Values(r.failed())), slices.Sorted(slices.Values(b.fails)); !slices.Equal(got, want) {
				t.Errorf("%s: failed are %q, want %q", b.name, got, want)
			}
			why := strings.ReplaceAll(b.why, "/etc/netns", "/run/wgjail/.etc-netns") // as the user's wgjail sees it
			if f := r.find(t, b.fails[0]); !strings.Contains(f.Why, why) || f.Do == "" {
				t.Errorf("%s: %s says %q, and to do: %q; want %q", b.name, f.ID, f.Why, f.Do, why)
			}
			if b.mend != nil {
				b.mend(t)
			}
		}
		if len(left) > 0 {
			t.Errorf("not tried: %q", left)
		}
	})
}

// atUsers rewrites a script about root's jail for the user's.
func (l *lab) atUsers(t *testing.T, script string) string {
	t.Helper()
	file := fmt.Sprintf("/proc/%d/root/run/netns/vpn", l.keeper(t))
	state := l.user.Runtime + "/wgjail"
	return strings.NewReplacer(
		"ip netns exec vpn", "nsenter --net="+file, "ip -n vpn", "nsenter --net="+file+" ip", "netns vpn", "netns "+file,
		"/etc/netns", state+"/.etc-netns", "/run/wgjail", state, "chown 0", fmt.Sprint("chown ", l.user.UID),
	).Replace(script)
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

// tunnelInside makes the jail's interface anew, by other means than wgjail's and
// in the jail itself: with it comes its socket. It returns what ends that.
func (l *lab) tunnelInside(t *testing.T) (end func()) {
	t.Helper()
	killKeeper(t)
	inside := l.w.Open(t, "vpn")
	inside.Run(t, "ip", "link", "delete", "vpn")
	if kernelBackend() {
		inside.Run(t, "ip", "link", "add", "vpn", "type", "wireguard")
		end = func() {}
	} else {
		end = ownTunnel(t, inside)
	}
	inside.Run(t, "sh", "-ec", `ip link set vpn mtu 1420 up; ip addr add 10.64.0.2/32 dev vpn; ip addr add fd64::2/128 dev vpn
		ip route add default dev vpn; ip -6 route add default dev vpn`)
	return end
}

// ownTunnel is the userspace tunnel vpn in this process, until end is called.
func ownTunnel(t *testing.T, inside *world.Node) (end func()) {
	t.Helper()
	var dev *device.Device
	err := inside.Do(func() error {
		made, err := tun.CreateTUN("vpn", 1420)
		if err == nil {
			dev = device.NewDevice(made, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
			err = dev.Up()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove("/var/run/wireguard/vpn.sock") // the killed keeper's
	file, err := ipc.UAPIOpen("vpn")
	if err != nil {
		t.Fatal(err)
	}
	control, err := ipc.UAPIListen("vpn", file)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for c, err := control.Accept(); err == nil; c, err = control.Accept() {
			go dev.IpcHandle(c)
		}
	}()
	return func() {
		control.Close()
		dev.Close()
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
