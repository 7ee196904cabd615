package jail

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// Whatever the host does to its own files, the program sees the jail's.
func TestExecKeepsResolvConf(t *testing.T) {
	const hosts, jails = "nameserver 203.0.113.7\n", "nameserver 10.64.0.1\n"
	rename := func(t *testing.T, path string) {
		put(t, path+".new", hosts)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	remake := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		put(t, path, hosts)
	}
	rewrite := func(t *testing.T, path string) { put(t, path, hosts) }
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		const conf, target = "/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"
		for _, link := range []bool{false, true} {
			name, path := "file ", conf
			if link {
				name, path = "link ", target
				put(t, target, hosts)
				if err := os.Remove(conf); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", conf); err != nil {
					t.Fatal(err)
				}
			}
			for how, change := range map[string]func(*testing.T, string){"rewritten": rewrite, "renamed over": rename, "made again": remake} {
				t.Run(name+how, func(t *testing.T) {
					p := enter(t, w, execRequest{}, nil, nil)
					for _, when := range []string{"before", "after", "after that again"} {
						if got := p.want(t, "read "+conf); got != jails {
							t.Errorf("%s: the program reads %q", when, got)
						}
						if got := p.want(t, "read /etc/nsswitch.conf"); got != "hosts: files dns\n" {
							t.Errorf("%s: nsswitch.conf is %q", when, got)
						}
						change(t, path)
						change(t, "/etc/nsswitch.conf")
					}
					if got, err := os.ReadFile(conf); err != nil || string(got) != hosts {
						t.Errorf("the host reads %q, error %v", got, err)
					}
				})
			}
		}
		t.Run("the jail's own are removed", func(t *testing.T) {
			p := enter(t, w, execRequest{}, nil, nil)
			p.want(t, "ids")
			if err := os.RemoveAll("/etc/netns/vpn"); err != nil {
				t.Fatal(err)
			}
			if got := p.want(t, "read "+conf); got != jails {
				t.Errorf("the program reads %q", got)
			}
		})
	})
}

func TestExecEtc(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		put(t, "/etc/netns/vpn/hosts", "192.0.2.77 only-in-the-jail.test\n")
		put(t, "/etc/wgjail-test.d/conf", "of the host\n")
		put(t, "/etc/wgjail-test.conf", "of the host\n")
		if err := os.Symlink("wgjail-test.d/conf", "/etc/wgjail-test.link"); err != nil {
			t.Fatal(err)
		}
		put(t, "/etc/wgjail-test.d/below/hidden", "")
		if err := unix.Mount("below", "/etc/wgjail-test.d/below", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		put(t, "/etc/wgjail-test.d/below/mounted", "")
		before, err := listNames("/etc")
		if err != nil {
			t.Fatal(err)
		}
		p := enter(t, w, execRequest{}, nil, nil)
		if got := p.want(t, "list /etc"); got != before {
			t.Errorf("entries of /etc:\n%s\nthe host has:\n%s", got, before)
		}
		if got := p.want(t, "read /etc/wgjail-test.link"); got != "of the host\n" {
			t.Errorf("the link leads to %q", got)
		}
		if got := p.want(t, "list /etc/wgjail-test.d/below"); got != "mounted" {
			t.Errorf("what is mounted below /etc: %q", got)
		}
		p.wantErr(t, unix.EROFS, "write /etc/new")
		p.wantErr(t, unix.EROFS, "write /etc/resolv.conf")
		p.want(t, "write /etc/wgjail-test.d/new") // daemons keep settings in such places
		if _, err := os.Stat("/etc/wgjail-test.d/new"); err != nil {
			t.Errorf("what the program wrote: %v", err)
		}
		if out := p.want(t, "run getent hosts only-in-the-jail.test"); !strings.HasPrefix(out, "192.0.2.77 ") {
			t.Errorf("getent printed %q", out)
		}
		if out, err := exec.Command("getent", "hosts", "only-in-the-jail.test").Output(); err == nil {
			t.Errorf("the host knows the jail's names: %s", out)
		}
	})
}

// Sockets at these places answer from the host. They must stay out of reach,
// also if they or their directories are made while the program runs.
func TestExecHidesNameServices(t *testing.T) {
	sockets := []string{
		"/run/nscd/socket",
		"/run/unscd/socket",
		"/run/nslcd/socket",
		"/run/systemd/resolve/io.systemd.Resolve",
		"/run/avahi-daemon/socket",
		"/run/dbus/system_bus_socket",
		"/run/samba/winbindd/pipe",
		"/run/mdnsd",
		"/run/resolvconf/socket",
		"/run/systemd/machine/io.systemd.Machine",
		"/run/systemd/resolve.hook/other",
		"/run/wgjail/vpn/control",
		"/var/run/nscd/socket", // where /var/run is no link
		"/var/lib/sss/pipes/nss",
	}
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		if err := unix.Mount("var", "/var", "tmpfs", 0, "mode=755"); err != nil {
			t.Fatal(err)
		}
		put(t, "/var/run/visible", "")
		put(t, "/var/lib/sss/visible", "")
		put(t, "/run/systemd/visible", "")
		for path, mode := range map[string]os.FileMode{"/run": 0o751, "/run/systemd": 0o775} {
			if err := errors.Join(os.Chmod(path, mode), os.Chown(path, 4321, 4322)); err != nil {
				t.Fatal(err)
			}
		}
		tried := func(t *testing.T, p *insider, decoys []*decoy) {
			t.Helper()
			for _, d := range decoys {
				if a := p.ask(t, "connect %s", d.path); !strings.Contains(a.Err, unix.ENOENT.Error()) {
					t.Errorf("connect to %s: %+v", d.path, a)
				}
				if n := d.strangers(t); n != 0 {
					t.Errorf("%s was reached from the jail", d.path)
				}
			}
		}
		make := func(t *testing.T) (decoys []*decoy) {
			t.Helper()
			for _, path := range sockets {
				decoys = append(decoys, newDecoy(t, path))
			}
			return decoys
		}
		early := enter(t, w, execRequest{}, nil, nil) // before any of them exists
		early.want(t, "ids")
		decoys := make(t)
		late := enter(t, w, execRequest{}, nil, nil)
		isolated := enter(t, w, execRequest{Isolate: true}, nil, nil)
		all := map[string]*insider{"early": early, "late": late, "isolated": isolated}
		for name, p := range all {
			t.Run(name, func(t *testing.T) { tried(t, p, decoys) })
		}
		for _, path := range sockets {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		decoys = make(t)
		for name, p := range all {
			t.Run(name+", sockets made again", func(t *testing.T) { tried(t, p, decoys) })
		}
		for _, path := range sockets {
			dir := filepath.Dir(path)
			if dir == "/run" {
				dir = path
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		decoys = make(t)
		for name, p := range all {
			t.Run(name+", directories made again", func(t *testing.T) { tried(t, p, decoys) })
		}
		for _, path := range []string{"/var/run/visible", "/var/lib/sss/visible", "/run/systemd/visible"} {
			late.want(t, "read %s", path)
		}
		for path, want := range map[string]string{"/run": "0751 4321:4322", "/run/systemd": "0775 4321:4322"} {
			if got := late.want(t, "stat %s", path); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	})
}

// The C library asks nscd(8) for any name, whatever nsswitch.conf says.
func TestExecHidesNscdFromGetent(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		d := newDecoy(t, "/run/nscd/socket")
		const ask = "getent hosts nosuchname.test"
		w.Host.Try(t, "sh", "-c", ask)
		outside := d.strangers(t)
		if outside == 0 {
			world.Skip(t, "getent of this system does not ask nscd")
		}
		p := enter(t, w, execRequest{}, nil, nil)
		if a := p.ask(t, "run "+ask); a.Err == "" {
			t.Errorf("the name has an address in the jail: %s", a.Out)
		}
		if inside := d.strangers(t) - outside; inside != 0 {
			t.Errorf("getent asked nscd %d times from the jail", inside)
		}
	})
}
