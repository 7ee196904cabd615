package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/world"
)

func TestUpTakesTheMTU(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		const v4, v6, both = "10.64.0.2/32", "fd64::2/128", "10.64.0.2/32, fd64::2/128"
		atV4, atV6 := world.EndpointsV4[0]+":51820", "["+world.EndpointsV6[0]+"]:51820"
		for _, tt := range []struct {
			name     string
			uplink   string // MTU of the host's
			route    string // MTU of the host's route to both endpoints; "" for none
			lines    string
			endpoint string
			want     string
		}{
			{"file", "1500", "", "Address = " + both + "\nMTU = 1300", atV4, "1300"},
			{"ethernet", "1500", "", "Address = " + both, atV4, "1420"},
			{"narrow", "1400", "", "Address = " + both, atV4, "1320"},
			{"narrow6", "1400", "", "Address = " + both, atV6, "1320"},
			{"route", "1500", "1380", "Address = " + both, atV4, "1300"},
			{"route6", "1500", "1380", "Address = " + both, atV6, "1300"},
			{"least6", "1300", "", "Address = " + v6, atV4, "1280"}, // IPv6 needs 1280
			{"small4", "1300", "", "Address = " + v4, atV4, "1220"},
			{"jumbo", "9000", "", "Address = " + both, atV4, "8920"},
			{"nowhere", "1500", "", "Address = " + both, "", "1420"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				l.Host.Run(t, "ip", "link", "set", "wan0", "mtu", tt.uplink)
				if tt.route != "" {
					for _, at := range []string{world.EndpointsV4[0], world.EndpointsV6[0]} {
						l.Host.Run(t, "ip", "route", "replace", at, "dev", "wan0", "mtu", tt.route)
						defer l.Host.Run(t, "ip", "route", "del", at, "dev", "wan0")
					}
				}
				peer := "AllowedIPs = 0.0.0.0/0, ::/0\n"
				if tt.endpoint != "" {
					peer += "Endpoint = " + tt.endpoint
				}
				l.do(t, "up", l.write(t, tt.name, tt.lines, peer))
				link, err := w.Open(t, tt.name).Netlink.LinkByName(tt.name)
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(link.Attrs().MTU); got != tt.want {
					t.Errorf("MTU is %s, want %s", got, tt.want)
				}
				l.do(t, "down", tt.name)
			})
		}
	})
}

// The endpoint's name is asked of the host's resolver, by the host, once; an
// address of a family that the host cannot reach is not taken.
func TestUpResolvesOnTheHost(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		at4, at6 := netip.MustParseAddr(world.EndpointsV4[0]), netip.MustParseAddr(world.EndpointsV6[0])
		far4, far6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:99::1")
		l.Host.Run(t, "ip", "route", "add", "unreachable", "192.0.2.0/24")
		l.Host.Run(t, "ip", "route", "add", "unreachable", "2001:db8:99::/48")
		for _, tt := range []struct {
			name  string
			addrs []netip.Addr
			want  netip.Addr
		}{
			{"four.test", []netip.Addr{at4}, at4},
			{"six.test", []netip.Addr{at6}, at6},
			{"onlyfour.test", []netip.Addr{far6, at4}, at4},
			{"onlysix.test", []netip.Addr{far4, at6}, at6},
		} {
			t.Run(tt.name, func(t *testing.T) {
				l.Sink.SetName(tt.name, tt.addrs...)
				l.Provider.SetName(tt.name, netip.MustParseAddr("192.0.2.66"))
				if err := l.Provider.SetEndpoint(netip.AddrPortFrom(tt.want, 0)); err != nil {
					t.Fatal(err)
				}
				l.Client.Endpoint = tt.name + ":51820"
				l.do(t, "up", l.Conf(t, "vpn"))
				jail := w.Open(t, "vpn")
				want := netip.AddrPortFrom(tt.want, 51820).String()
				if got := strings.Fields(jail.Run(t, "wg", "show", "vpn", "endpoints")); len(got) != 2 || got[1] != want {
					t.Errorf("the endpoint is %q, want %s", got, want)
				}
				if err := echo(jail, "tcp", world.InternetV4+":7", "hello"); err != nil {
					t.Error(err)
				}
				l.do(t, "down", "vpn")
				for _, q := range l.Provider.Queries() {
					t.Errorf("%s was looked up inside", q.Name)
				}
			})
		}
		for _, q := range l.Sink.Queries() {
			if !strings.HasSuffix(q.Name, ".test") && !strings.HasSuffix(q.Name, ".test.") {
				t.Errorf("the host's resolver was asked for %q", q.Name)
			}
		}
		if len(l.Sink.Queries()) == 0 {
			t.Error("the host's resolver was asked for nothing")
		}
	})
}

// Everything that the file says about the tunnel is in WireGuard.
func TestUpConfiguresWireGuard(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		second, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		other := second.PublicKey().String()
		l.do(t, "up", l.write(t, "vpn", "Address = 10.64.0.2/32\nListenPort = 40404\nFwMark = 0x1234",
			"AllowedIPs = 0.0.0.0/0\nEndpoint = "+l.Client.Endpoint+"\nPersistentKeepalive = 25\n"+
				"[Peer]\nPublicKey = "+other+"\nAllowedIPs = 10.9.0.0/16, fd09::/64"))
		jail, server := w.Open(t, "vpn"), l.Client.Server.String()
		for what, want := range map[string][]string{
			"public-key":           {l.Client.PublicKey().String()},
			"listen-port":          {"40404"},
			"fwmark":               {"0x1234"},
			"endpoints":            {server + "\t" + l.Client.Endpoint, other + "\t(none)"},
			"allowed-ips":          {server + "\t0.0.0.0/0", other + "\t10.9.0.0/16 fd09::/64"},
			"persistent-keepalive": {server + "\t25", other + "\toff"},
		} {
			got := strings.Split(strings.TrimSpace(jail.Run(t, "wg", "show", "vpn", what)), "\n")
			if !slices.Equal(sorted(got), sorted(want)) {
				t.Errorf("%s is %q, want %q", what, got, want)
			}
		}
		// The handshake needs the private and the preshared key.
		if err := echo(jail, "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Error(err)
		}
	})
}

func TestUpByName(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		if err := os.Mkdir("/etc/wireguard", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("/etc/wireguard/home-1.conf", []byte(l.Client.Config()), 0o600); err != nil {
			t.Fatal(err)
		}
		l.do(t, "up", "home-1")
		if out := w.Open(t, "home-1").Run(t, "wg", "show", "home-1", "public-key"); strings.TrimSpace(out) != l.Client.PublicKey().String() {
			t.Errorf("its key is %s", out)
		}
	})
}

// The keys are in the memory of the keeper or the kernel, and nowhere else.
func TestUpKeepsSecrets(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		look := func(when string) {
			for _, glob := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
				paths, err := filepath.Glob(glob)
				if err != nil || len(paths) == 0 {
					t.Fatalf("%s: %v", glob, err)
				}
				for _, path := range paths {
					if text, err := os.ReadFile(path); err == nil {
						l.mustHaveNoSecret(t, path+" "+when, string(text))
					}
				}
			}
			for _, top := range []string{"/run", "/etc/netns", "/var/tmp", "/dev/shm"} {
				l.searchFiles(t, top, when)
			}
		}
		// What is printed is looked at by each of these calls.
		jail := l.up(t, "--debug")
		if err := echo(jail, "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Error(err)
		}
		look("while it is up")
		l.do(t, "up", "--debug", l.conf)
		l.Host.Run(t, "ip", "netns", "exec", "vpn", "ip", "link", "del", "vpn")
		l.do(t, "up", "--debug", l.conf)
		l.do(t, "status")
		l.do(t, "status", "--json")
		look("after a repair")
		for _, lines := range []string{"Address = nonsense", "Address = 10.0.0.1/32\nPrivateKey = x" + l.Client.PrivateKey.String()} {
			l.run(t, "up", "--debug", l.write(t, "bad", lines, ""))
		}
		l.do(t, "down", "--debug", "vpn")
		look("after down")
	})
}

// What is written about a jail is for root alone, whatever the umask, and the
// DNS files are for all.
func TestUpSetsModes(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for _, umask := range []string{"000", "077"} {
			l.Host.Run(t, "sh", "-c", "umask "+umask+"; wgjail up "+l.conf+" -p 8080")
			for top, want := range map[string]os.FileMode{"/run/wgjail": 0o700, "/run/wireguard": 0o755, "/etc/netns": 0o755} {
				filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
					if err != nil {
						t.Fatal(err)
					}
					info, err := d.Info()
					if err != nil {
						t.Fatal(err)
					}
					mode := want
					if d.Type().IsRegular() {
						mode &= 0o666
					}
					if d.Type()&os.ModeSocket != 0 {
						mode = 0o700
					}
					if info.Mode().Perm() != mode {
						t.Errorf("with umask %s %s is %v, want %v", umask, path, info.Mode(), mode)
					}
					return nil
				})
			}
			l.do(t, "down", "vpn")
		}
	})
}

// searchFiles looks for the client's secrets in the files below top, but for
// the configuration files of the tests themselves.
func (l *lab) searchFiles(t *testing.T, top, when string) {
	t.Helper()
	filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".conf") && strings.HasPrefix(path, os.TempDir()) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil { // a namespace, for one
			return nil
		}
		l.mustHaveNoSecret(t, path+" "+when, string(bytes.ToValidUTF8(text, nil))+string(text))
		return nil
	})
}
