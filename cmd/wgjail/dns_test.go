package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

func TestUpWritesDNSFiles(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		const ours = "# made by wgjail"
		if err := os.WriteFile("/etc/nsswitch.conf", []byte("passwd: files systemd\n hosts: files mymachines resolve [!UNAVAIL=return] dns\nnetworks: files"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct{ name, lines, want string }{
			{"servers", "DNS = 10.64.0.1, fd64::1", "nameserver 10.64.0.1\nnameserver fd64::1\n"},
			{"search", "DNS = 10.64.0.1, corp.test, x.test", "nameserver 10.64.0.1\nsearch corp.test x.test\n"},
			{"lines", "DNS = corp.test\nDNS = fd64::1\nDNS = 10.64.0.1", "nameserver fd64::1\nnameserver 10.64.0.1\nsearch corp.test\n"},
			{"none", "", ""},
			{"onlysearch", "DNS = corp.test", ""},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := l.run(t, "up", l.write(t, tt.name, "Address = 10.64.0.2/32, fd64::2/128\n"+tt.lines, "AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = "+l.Client.Endpoint))
				if warns := strings.Contains(r.err, "no DNS server is given"); r.status != 0 || warns != (tt.want == "") {
					t.Errorf("up ended with %+v", r)
				}
				dir := filepath.Join("/etc/netns", tt.name)
				if text, err := os.ReadFile(filepath.Join(dir, "resolv.conf")); err != nil || string(text) != tt.want {
					t.Errorf("resolv.conf is %q, %v; want %q", text, err, tt.want)
				}
				text, err := os.ReadFile(filepath.Join(dir, "nsswitch.conf"))
				if err != nil || !strings.HasPrefix(string(text), ours) || !strings.HasSuffix(string(text), "\npasswd: files systemd\nnetworks: files\nhosts: files dns\n") {
					t.Errorf("nsswitch.conf is %q, %v", text, err)
				}
				for _, file := range []string{"resolv.conf", "nsswitch.conf"} {
					if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode() != 0o644 {
						t.Errorf("%s: %v, %v", file, info.Mode(), err)
					}
				}
				l.do(t, "down", tt.name)
			})
		}
	})
}

// Names are asked of the jail's servers, through the tunnel, by every program
// inside, whatever started it.
func TestNamesInTheJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.Provider.SetName("x.test", netip.MustParseAddr("192.0.2.1"))
		l.Sink.SetName("x.test", netip.MustParseAddr("192.0.2.66"))
		jail := l.up(t)
		for _, command := range []string{
			"wgjail exec vpn -- getent ahostsv4 x.test",
			"ip netns exec vpn getent ahostsv4 x.test",
		} {
			if out := l.Host.Run(t, "sh", "-c", command+" 2>&1"); !strings.Contains(out, "192.0.2.1") {
				t.Errorf("%s printed %q", command, out)
			}
		}
		if len(l.Provider.Queries()) == 0 {
			t.Error("the jail's server was not asked")
		}
		for _, q := range l.Sink.Queries() {
			t.Errorf("the host's server was asked for %s", q.Name)
		}
		// A resolver of one's own in the jail is reached.
		own, err := provider.Serve(jail.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		for _, at := range []string{"127.0.0.1:53", "[::1]:53", "10.64.0.2:53"} {
			if err := echo(jail, "udp", at, "not a query, so it is echoed"); err != nil {
				t.Error(err)
			}
		}
		// No other server is reached, whoever asks and however, and who asks is told
		// at once: TCP by a reset, UDP by the call that sends.
		for network, want := range map[string]syscall.Errno{"tcp": syscall.ECONNREFUSED, "udp": syscall.EPERM} {
			for _, port := range []string{"53", "853"} {
				for _, addr := range []string{world.InternetV4, world.InternetV6} {
					at := net.JoinHostPort(addr, port)
					if err := echo(jail, network, at, "not a query, so it would be echoed"); !errors.Is(err, want) {
						t.Errorf("%s %s: %v; want %v", network, at, err, want)
					}
				}
			}
		}
	})
}

// Who reads the jail's files while they are written sees all of one version.
func TestDNSFilesAreWhole(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		const dir = "/etc/netns/vpn"
		var whole [2][]byte
		files := []string{"resolv.conf", "nsswitch.conf"}
		for i, file := range files {
			var err error
			if whole[i], err = os.ReadFile(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
		}
		spoilt := []byte("# spoilt\n")
		stop, stopped := make(chan struct{}), make(chan error)
		for i, file := range files {
			go func() {
				for {
					select {
					case <-stop:
						stopped <- nil
						return
					default:
					}
					text, err := os.ReadFile(filepath.Join(dir, file))
					if err != nil || !bytes.Equal(text, whole[i]) && !bytes.Equal(text, spoilt) {
						stopped <- fmt.Errorf("%s was seen as %q, %v", file, text, err)
						return
					}
				}
			}()
		}
		for range times(20, 3) {
			for _, file := range files {
				aside := filepath.Join("/etc/netns", "spoilt")
				if err := os.WriteFile(aside, spoilt, 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(aside, filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			l.do(t, "up", l.conf)
		}
		close(stop)
		for range files {
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, []string{"nsswitch.conf", "resolv.conf"}) {
			t.Errorf("in %s are %q", dir, names)
		}
	})
}
