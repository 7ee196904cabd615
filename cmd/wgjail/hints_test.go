package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Errors of commands show a way out. Those of a configuration file and of SPECs
// are tested in package jail, others where what fails is tested.
func TestCommandHints(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		dir := filepath.Dir(l.conf)
		script := filepath.Join(dir, "script")
		if err := os.WriteFile(script, []byte("#!/nowhere/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		late := strings.Replace(l.Client.Config(), l.Client.Endpoint, "nowhere.test:51820", 1)
		if err := os.WriteFile(filepath.Join(dir, "late.conf"), []byte(late), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "comment.conf"), []byte("# nothing\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.Client.DNS = nil
		if err := os.WriteFile(filepath.Join(dir, "nodns.conf"), []byte(l.Client.Config()), 0o600); err != nil {
			t.Fatal(err)
		}
		l.up(t)
		for _, c := range []struct{ line, want string }{
			{"forward --metrics x 80", "as in: --metrics 9586, or --metrics 192.168.1.2:9586"},
			{"forward --reverse --source client 80", "a service on the host sees a client on the host"},
			{"forward --reverse 80-82", "start one forward for each port that programs inside need"},
			{"forward --reverse --mode veth 80", "relay mode does: leave --mode veth out"},
			{"forward --proxy-protocol v1 53/udp", "leave --proxy-protocol out for UDP"},
			{"forward --source client 53/udp", "leave --source client out for UDP, or use --mode veth"},
			{"forward --netns inet --source client 80", "that takes routes inside, and wgjail changes no namespace that it did not make; --proxy-protocol tells services as well"},
			{"forward 8080:host:80", "give another address in the jail with --to; else write"},
			{"up late.conf --provider-port upnp", "use natpmp or pcp, as in natpmp or natpmp=10.2.0.1"},
			{"up late.conf --provider-port natpmp=x.test", "leave it out to ask the first name server, as in natpmp"},
			{"up late.conf --on-port true", "ask for one with --provider-port natpmp"},
			{"up nodns.conf --provider-port natpmp", "name the gateway, as in --provider-port natpmp=10.2.0.1"},
			{"up nodns.conf --provider-port natpmp=fd64::1", "use pcp=fd64::1"},
			{"up a b", "a file is given with its path, as in ./vpn.conf"},
			{"up late.conf", "check the name in the Endpoint line, and that the host itself is online"},
			{"up comment.conf", "check that the file is a WireGuard configuration, and whole"},
			{"exec vpn -- nosuchprogram", "give its path if it is not in a directory of PATH, which sudo may have changed"},
			{"exec vpn -- " + script, "the first line of " + script + " names it if that is a script; else it is the dynamic linker"},
			{"exec --user 54321 vpn -- true", "say the group too: 54321:GID"},
			{"exec --user nobody-like-this vpn -- true", "a user is NAME, UID, NAME:GROUP or UID:GID"},
			{"env SUDO_UID=x SUDO_GID=y wgjail exec vpn -- true", "say who the program is to run as, with --user"},
			{"bench --compare " + script, "write one with: wgjail bench --json >" + script},
			{"rm /etc/netns/vpn/resolv.conf; wgjail exec vpn -- true", `repair the jail: run "wgjail up" with its configuration again`},
		} {
			line := strings.ReplaceAll("wgjail "+c.line, "wgjail env", "env")
			line = strings.ReplaceAll(line, "wgjail rm", "rm")
			line = strings.ReplaceAll(line, "up a b", "up 'a b'")
			cmd := exec.Command("sh", "-c", line)
			cmd.Dir = dir
			if r := l.runCmd(t, cmd); r.status == 0 || !strings.Contains(r.err, "wgjail: hint: ") || !strings.Contains(r.err, c.want) {
				t.Errorf("%s: exit status %d, want a hint: %s\ngot %s", line, r.status, c.want, r.err)
			}
		}
	})
}

// A kernel without WireGuard cannot be insisted on.
func TestKernelHint(t *testing.T) {
	if kernelBackend() {
		return // it has it
	}
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.refused(t, 1, []string{"this kernel has no WireGuard", "hint: load it with: modprobe wireguard; or use --backend userspace"}, "up", "--backend", "kernel", l.conf)
	})
}
