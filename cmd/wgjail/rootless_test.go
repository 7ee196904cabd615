package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// state is a file of the user's jails.
func (l *lab) state(path ...string) string {
	return filepath.Join(append([]string{l.user.Runtime, "wgjail"}, path...)...)
}

// What a user's run does is what root's does, and nothing is left.
func TestRootlessRun(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		for _, tt := range []struct {
			what    string
			command []string
			status  int
			out     string
			says    string
		}{
			{"output", []string{"printf", "[%s]", "a b", "", "--"}, 0, "[a b][][--]", "jail vpn is up"},
			{"name service", []string{"sh", "-c", "getent hosts whoami.test | cut -d' ' -f1"}, 0, "fd64::1\n", ""},
			{"failure", []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, 7, "out\n", "err\n"},
			{"killed", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9, "", ""},
			{"no program", []string{"no-such-program"}, 127, "", "wgjail: error: no-such-program: "},
			{"not executable", []string{"/etc/passwd"}, 126, "", "wgjail: error: /etc/passwd: permission denied"},
			{"daemon left", []string{"sh", "-c", "setsid sh -c 'sleep 12345 & sleep 12345' >/dev/null 2>&1 </dev/null & echo started"}, 0, "started\n", ""},
			{"its user", []string{"sh", "-c", "id -u; id -g; pwd; grep -cE '^Cap...:.0+$' /proc/self/status; grep NoNewPrivs /proc/self/status"}, 0,
				fmt.Sprintf("%d\n%d\n%s\n5\nNoNewPrivs:\t1\n", l.user.UID, l.user.GID, l.user.Home), ""},
			{"its network", []string{"sh", "-c", "ls /sys/class/net; ping -c1 -W20 10.64.0.1 >/dev/null && echo pong"}, 0, "lo\nvpn\npong\n", ""},
			{"its files", []string{"sh", "-c", "cat /etc/resolv.conf; ls /run/wgjail /run/wireguard; ls $XDG_RUNTIME_DIR/wgjail"}, 0,
				"nameserver 10.64.0.1\nnameserver fd64::1\n", "cannot access '/run/wgjail'"},
		} {
			t.Run(tt.what, func(t *testing.T) {
				r := l.run(t, append([]string{"run", "vpn.conf", "--"}, tt.command...)...)
				if r.status != tt.status || r.out != tt.out || !strings.Contains(r.err, tt.says) {
					t.Errorf("it ended with %+v, want status %d, output %q, %q", r, tt.status, tt.out, tt.says)
				}
				l.unchanged(t, before, "run")
			})
		}
	})
}

func TestRootlessRunForwards(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		run := l.start(t, "run", "vpn.conf", "-p", "8080", "--", "wgjail", "demo-page")
		run.WaitOutput(t, "listening\n")
		for _, addr := range []string{world.HostLANV4 + ":8080", "[" + world.HostLANV6 + "]:8080"} {
			if err := page(l.LAN, addr); err != nil {
				t.Errorf("from the LAN: %v", err)
			}
		}
		run.Signal(t, syscall.SIGTERM)
		if status := exitCode(run.Wait()); status != 128+15 {
			t.Errorf("it ended with status %d", status)
		}
		if err := page(l.LAN, world.HostLANV4+":8080"); err == nil {
			t.Error("the port is still open")
		}
		l.unchanged(t, before, "run")
	})
}

// A jail of a user's has all that root's has, and no packet leaves in clear.
func TestRootlessJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before, host := w.Snapshot(t), w.Host.Snapshot(t)
		wire := l.Inet.CaptureAll(t, "lo")
		if out := l.do(t, "up", "vpn.conf"); !strings.Contains(out, "jail vpn is up (userspace WireGuard, MTU 1420)") {
			t.Errorf("up printed %q", out)
		}
		if diff := world.Diff(host, w.Host.Snapshot(t)); diff != "" {
			t.Errorf("up has changed the host's network:\n%s", diff)
		}
		if out := l.do(t, "up", "vpn.conf"); out != "jail vpn is already up\n" {
			t.Errorf("up again printed %q", out)
		}
		l.do(t, "forward", "-d", "9007:7")
		l.do(t, "proxy", "-d", "--socks5", "*:1080")
		service := l.start(t, "exec", "--", "python3", "-c", echoServer)
		service.WaitOutput(t, "ready\n")
		if err := echo(l.LAN, "tcp", world.HostLANV4+":9007", "through the forward"); err != nil {
			t.Error(err)
		}
		for _, addr := range []string{world.InternetV4, world.InternetV6, provider.ServerV4.String()} {
			url := "http://" + net.JoinHostPort(addr, "80") + "/"
			if r := curl(t, l.LAN, "--proxy", "socks5h://"+world.HostLANV4+":1080", "-o", "/dev/null", "-w", "%{http_code}", url); r.status != 0 || r.out != "200" {
				t.Errorf("through the proxy %s: %+v", url, r)
			}
		}
		if out := l.do(t, "check", "--json"); !strings.Contains(out, `"ok": true`) {
			t.Errorf("check says %s", out)
		}
		var list []jail.Status
		if err := json.Unmarshal([]byte(l.do(t, "status", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || list[0].State != jail.StateUp || len(list[0].Forwards) != 2 || len(list[0].Processes) != 1 {
			t.Errorf("the status is %+v", list)
		}
		l.do(t, "forward", "--stop")
		l.do(t, "down", "--kill", "vpn")
		l.unchanged(t, before, "down")
		if calls := l.Sink.Calls(); len(calls) > 0 {
			t.Errorf("calls arrived in clear: %v", calls)
		}
		if queries := l.Sink.Queries(); len(queries) > 0 {
			t.Errorf("the host's resolver was asked for %v", queries)
		}
		wire.Sync(t)
		strange := wire.Except(func(f world.Frame) bool { return l.Tunnel(f) || world.Neighbour(f) })
		if len(strange) > 0 {
			t.Errorf("on the wire: %s", world.Lines(strange))
		}
	})
}

// echoServer serves the jail's port 7.
const echoServer = `
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536): self.request.sendall(data)
server = socketserver.ThreadingTCPServer(("127.0.0.1", 7), Echo)
print("ready", flush=True)
server.serve_forever()
`

// Users' jails and root's do not meet.
func TestRootlessBesideOthers(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		users := []*lab{l.as(t, "ann"), l.as(t, "bob")}
		before := w.Snapshot(t)
		root := l.up(t)
		for _, u := range users {
			u.do(t, "up", "vpn.conf")
		}
		own := root.ID().String() + "\n"
		for _, u := range users {
			if out := u.do(t, "exec", "vpn", "--", "readlink", "/proc/self/ns/net"); out == own {
				t.Errorf("%s is in another's jail", u.user.Name)
			}
			if out := u.do(t, "status"); strings.Count(out, "jail vpn ") != 1 {
				t.Errorf("%s sees %s", u.user.Name, out)
			}
			u.do(t, "down", "--all")
		}
		if out := l.in(t, "readlink /proc/self/ns/net"); out != own {
			t.Errorf("root is in %s", out)
		}
		l.do(t, "down", "vpn")
		l.unchanged(t, before, "down")
	})
}

// However many begin at once, there is one world, and in the end none.
func TestRootlessAtOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		atOnce := func(n int, args ...string) (ended []int) {
			var all []*world.Process
			for range n {
				all = append(all, l.start(t, args...))
			}
			for _, p := range all {
				ended = append(ended, exitCode(p.Wait()))
				if out := p.Output(); strings.Contains(out, "without being root") || strings.Contains(out, "inside a jail") {
					t.Errorf("%q: %s", args, out)
				}
			}
			slices.Sort(ended)
			return ended
		}
		if ended := atOnce(20, "up", "vpn.conf"); ended[0] != 0 {
			t.Error("none has made the jail")
		}
		users := map[string]bool{}
		for range 3 {
			users[l.do(t, "exec", "vpn", "--", "readlink", "/proc/self/ns/user")] = true
		}
		if ended := atOnce(20, "exec", "vpn", "--", "true"); ended[19] != 0 || len(users) != 1 {
			t.Errorf("exec ended with %v, in %v", ended, users)
		}
		if ended := atOnce(10, "down", "vpn"); ended[9] != 0 {
			t.Errorf("down ended with %v", ended)
		}
		l.unchanged(t, before, "down")
		if ended := atOnce(20, "run", "vpn.conf", "--", "true"); ended[0] != 0 {
			t.Error("none has run")
		}
		l.do(t, "down", "--all")
		l.unchanged(t, before, "run")
	})
}

// What only root can do is refused, with a way out.
func TestRootlessRefuses(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		l.do(t, "up", "vpn.conf")
		for line, says := range map[string][]string{
			"up vpn.conf --backend kernel; wgjail run other.conf --backend kernel -- true": {"the kernel's WireGuard needs root", "leave --backend kernel out; or try again with sudo"},
			"forward --mode veth -d 8081":            {"veth mode needs root", "relay mode does without: leave --mode veth out; or try again with sudo"},
			"exec --user root vpn -- true":           {`user "root": only root can run programs as other users`, "leave --user out; or try again with sudo"},
			"exec vpn -- wgjail status":              {"this is inside a jail", "call wgjail outside"},
			"exec vpn -- wgjail check --rootless":    {"this is inside a jail", "call wgjail outside"},
			"forward -d 80":                          {"port 80/tcp: permission denied", "ports below 1024 need root, or a lower net.ipv4.ip_unprivileged_port_start"},
			"demo":                                   {"wgjail demo needs root", "try again with sudo"},
			"systemd attach app --jail vpn":          {"needs root", "try again with sudo"},
			"forward --netns inet 8080":              {"no such file", "without root, forwards lead into jails of one's own: name one with --jail; or try again with sudo"},
			"forward --netns /proc/self/ns/net 8080": {"not permitted", "without root, forwards lead into jails of one's own: name one with --jail; or try again with sudo"},
		} {
			cmd := l.user.Command("sh", "-c", "cp vpn.conf other.conf; wgjail "+line)
			r := l.runCmd(t, cmd)
			for _, text := range says {
				if r.status != 1 || !strings.Contains(r.err, text) {
					t.Errorf("%s: exit status %d, no %q in:\n%s", line, r.status, text, r.err)
				}
			}
		}
		if out := l.do(t, "exec", "--user", "ann", "vpn", "--", "id", "-un"); out != "ann\n" {
			t.Errorf("as herself she is %q", out)
		}
	})
}

// The state is kept where nobody else can have put it.
func TestRootlessFolder(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		call := func(runtime string, args ...string) result {
			t.Helper()
			cmd := l.user.Command("wgjail", args...)
			cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtime)
			return l.runCmd(t, cmd)
		}
		if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			t.Fatal(err)
		}
		before := w.Snapshot(t)
		// What is not set, not hers or open to others does not count: the usual one does.
		for _, runtime := range []string{"", "relative", "/run/lock", "/root", "/nowhere"} {
			if r := call(runtime, "up", "vpn.conf"); r.status != 0 || !exists(l.state("vpn")) {
				t.Errorf("with %q: %+v", runtime, r)
			}
			l.do(t, "down", "vpn")
			l.unchanged(t, before, "down")
		}
		if err := os.Remove(l.user.Runtime); err != nil {
			t.Fatal(err)
		}
		spare := fmt.Sprintf("/tmp/wgjail-%d", l.user.UID)
		if r := call("", "up", "vpn.conf"); r.status != 0 || !exists(filepath.Join(spare, "vpn")) {
			t.Errorf("without a runtime directory: %+v", r)
		}
		if r := call("", "down", "vpn"); r.status != 0 || exists(spare) {
			t.Errorf("%+v, and %s is there: %v", r, spare, exists(spare))
		}
		hers := filepath.Join(l.user.Home, "hers")
		for what, spoil := range map[string]func() error{
			"open":      func() error { return errors.Join(os.Mkdir(spare, 0o755), os.Chmod(spare, 0o755), l.user.Own(spare)) },
			"another's": func() error { return os.Mkdir(spare, 0o700) },
			"a link":    func() error { return errors.Join(os.MkdirAll(hers, 0o700), l.user.Own(hers), os.Symlink(hers, spare)) },
			"a file":    func() error { return os.WriteFile(spare, nil, 0o600) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			r := call("", "up", "vpn.conf")
			if r.status != 1 || !strings.Contains(r.err, spare+": not a folder that only this user may enter") ||
				!strings.Contains(r.err, "remove it, or set XDG_RUNTIME_DIR to a folder of yours that nobody else may enter (mode 0700)") {
				t.Errorf("%s: %+v", what, r)
			}
			os.Remove(spare)
		}
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Where users may make no user namespaces, one error says what to do.
func TestRootlessWithoutUserNamespaces(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newUserLab(t, w)
		before := w.Snapshot(t)
		// A user namespace in which there can be no further ones.
		const closed = `echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all -- "$@"`
		cmd := l.user.Command("unshare", "--user", fmt.Sprintf("--map-user=%d", l.user.UID), fmt.Sprintf("--map-group=%d", l.user.GID), "--keep-caps",
			"sh", "-c", closed, "sh", "wgjail", "run", "vpn.conf", "--", "true")
		r := l.runCmd(t, cmd)
		if r.status != 1 || !strings.Contains(r.err, "wgjail: error: make a jail without being root: make a user namespace: no space left on device\n"+
			"wgjail: hint: wgjail check --rootless says what is missing; or try again with sudo\n") {
			t.Errorf("it ended with %+v", r)
		}
		l.unchanged(t, before, "run")
	})
}
