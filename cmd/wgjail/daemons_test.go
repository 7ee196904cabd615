package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// daemonsDir is where internal/ci/daemons has put Debian's name service daemons.
const daemonsDir = "/var/cache/wgjail-test/daemons"

// A nameService is a host with the daemons that resolve names for whoever asks
// over a Unix socket: nscd, systemd-resolved, and avahi, with a D-Bus.
type nameService struct {
	*lab
	running []*world.Process
}

// A lookup is a way to look up a name. It is a shell command, with the name for
// %s, that succeeds only if the name was found.
type lookup struct {
	name, command string
	// Whom it asks on the host: "dns" is the server of resolv.conf, who sees the
	// question, "mdns" the daemon itself, "link" nobody, since it dials a socket.
	asks string
}

// lookups are glibc's with each of its modules, other libraries', and those that
// speak to the daemons themselves.
func lookups(static string) []lookup {
	return []lookup{
		{"glibc", "getent ahostsv4 %s", "dns"},
		{"python", "python3 -c 'import socket,sys; print(socket.getaddrinfo(sys.argv[1], 80))' %s", "dns"},
		{"musl", static + " %s", "dns"},
		{"go", "probe -lookup %s", "dns"},
		{"resolvectl", "resolvectl query --legend=no %s", "dns"},
		{"avahi", "avahi-resolve -4 -n %s | grep .", "mdns"},
		{"glibc's mdns", "getent ahostsv4 %s", "mdns"},
		{"varlink", "probe -dial /run/systemd/resolve/io.systemd.Resolve # %s", "link"},
		{"nscd's socket", "probe -dial /run/nscd/socket # %s", "link"},
		{"avahi's socket", "probe -dial /run/avahi-daemon/socket # %s", "link"},
		{"the system bus", "probe -dial /run/dbus/system_bus_socket # %s", "link"},
	}
}

// newNameService begins with all daemons running.
func newNameService(t *testing.T, l *lab) *nameService {
	t.Helper()
	if _, err := os.Stat(daemonsDir); err != nil {
		world.Skip(t, "the daemons are not there: internal/ci/daemons fetches them")
	}
	if err := unix.Mount("overlay", "/usr", "overlay", unix.MS_RDONLY, "lowerdir="+daemonsDir+":/usr"); err != nil {
		t.Fatal(err)
	}
	var passwd, groups strings.Builder
	for i, name := range []string{"systemd-resolve", "avahi", "messagebus"} {
		fmt.Fprintf(&passwd, "%s:x:%d:%[2]d::/:/usr/sbin/nologin\n", name, 8100+i)
		fmt.Fprintf(&groups, "%s:x:%d:\n", name, 8100+i)
	}
	for path, text := range map[string]string{
		"/etc/passwd":                           readText(t, "/etc/passwd") + passwd.String(),
		"/etc/group":                            readText(t, "/etc/group") + groups.String() + "netdev:x:8110:\n",
		"/etc/nsswitch.conf":                    "passwd: files\ngroup: files\nhosts: files mdns4_minimal [NOTFOUND=return] resolve dns\n",
		"/etc/nscd.conf":                        "enable-cache hosts yes\n",
		"/etc/avahi/avahi-daemon.conf":          "[server]\nhost-name=onthehost\nuse-ipv6=no\nallow-interfaces=lan0\n",
		"/etc/systemd/resolved.conf.d/lab.conf": "[Resolve]\nDNS=" + world.InternetV4 + "\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nCache=no\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	n := &nameService{lab: l}
	n.start(t)
	return n
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// start starts the daemons, with new sockets, and waits for those.
func (n *nameService) start(t *testing.T) {
	t.Helper()
	for _, p := range n.running {
		unix.Kill(p.Pid, unix.SIGKILL)
		p.Wait()
	}
	n.running = nil
	for _, d := range []struct{ socket, user, command string }{
		{"/run/dbus/system_bus_socket", "messagebus", "dbus-daemon --system --nofork --nopidfile"},
		{"/run/nscd/socket", "root", "nscd -F"},
		{"/run/systemd/resolve/io.systemd.Resolve", "systemd-resolve", "/usr/lib/systemd/systemd-resolved"},
		{"/run/avahi-daemon/socket", "avahi", "avahi-daemon --no-drop-root --no-rlimits"},
	} {
		dir := filepath.Dir(d.socket)
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		n.Host.Run(t, "chown", d.user+":", dir)
		words := strings.Fields(d.command)
		n.running = append(n.running, n.Host.Start(t, exec.Command(words[0], words[1:]...)))
		world.Eventually(t, d.socket, func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: d.socket})
		})
	}
}

// name returns a name that nobody has asked for yet.
func (n *nameService) name(how lookup) string {
	if how.asks == "mdns" {
		return "onthehost.local"
	}
	name := strings.ToLower(string(world.Canary())) + ".test"
	n.Provider.SetName(name, netip.MustParseAddr("192.0.2.1"))
	n.Sink.SetName(name, netip.MustParseAddr("192.0.2.66"))
	return name
}

func asked(s *provider.Services, name string) bool {
	return slices.ContainsFunc(s.Queries(), func(q provider.Query) bool { return strings.TrimSuffix(strings.ToLower(q.Name), ".") == name })
}

// control looks names up on the host: all ways work there, and the host's server
// sees what is asked.
func (n *nameService) control(t *testing.T, ways []lookup) {
	t.Helper()
	for _, how := range ways {
		name := n.name(how)
		world.Eventually(t, "the control "+how.name, func() error {
			out, err := n.Host.Try(t, "sh", "-c", fmt.Sprintf(how.command, name))
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if how.asks == "dns" && !asked(n.Sink, name) {
				return errors.New("the host's server was not asked")
			}
			return nil
		})
	}
}

// A shell runs commands in a jail, one after the other.
type shell struct {
	in  io.Writer
	out *bufio.Reader
}

// shell starts one in the jail vpn.
func (n *nameService) shell(t *testing.T, opts ...string) *shell {
	t.Helper()
	cmd := n.command(append(append([]string{"exec"}, opts...), "vpn", "--", "sh")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outR.Close() })
	cmd.Stdout = outW
	n.Host.Start(t, cmd)
	outW.Close()
	return &shell{in, bufio.NewReader(outR)}
}

// run runs a command and returns what it printed, and whether it succeeded.
func (s *shell) run(t *testing.T, command string) (out string, ok bool) {
	t.Helper()
	fmt.Fprintf(s.in, "{ %s\n} </dev/null 2>&1; s=$?; echo; echo status $s\n", strings.ReplaceAll(command, "\n", " "))
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: the shell has ended: %v, %q", command, err, out)
		}
		if status, found := strings.CutPrefix(line, "status "); found {
			return out, status == "0\n"
		}
		out += line
	}
}

// tries looks up a name in each way, in the jail. None may be found by the host.
func (n *nameService) tries(t *testing.T, s *shell, ways []lookup, when string) {
	t.Helper()
	for _, how := range ways {
		name := n.name(how)
		out, ok := s.run(t, fmt.Sprintf(how.command, name))
		if asked(n.Sink, name) {
			t.Errorf("%s: %s: the host's server was asked for %s", when, how.name, name)
		}
		if strings.Contains(out, "192.0.2.66") || how.asks != "dns" && ok {
			t.Errorf("%s: %s found %s: %s", when, how.name, name, out)
		}
		if how.asks == "dns" && how.name != "resolvectl" && (!asked(n.Provider.Services, name) || !strings.Contains(out, "192.0.2.1")) {
			t.Errorf("%s: %s: the jail's server was not asked for %s: %s", when, how.name, name, out)
		}
	}
}

// No resolver in a jail reaches a daemon of the host, as they are in Debian, and
// all that can ask a server ask the jail's: also if sockets and resolv.conf are
// made again while the program runs.
func TestNameDaemons(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		static := filepath.Join(t.TempDir(), "lookup")
		l.Host.Run(t, "musl-gcc", "-static", "-O", "-o", static, "testdata/lookup.c")
		l.Host.Run(t, "chmod", "a+rx", filepath.Dir(static), filepath.Dir(filepath.Dir(static)))
		jail := l.up(t)
		n := newNameService(t, l)
		ways := lookups(static)
		n.control(t, ways)
		// Without what exec hides, the namespace alone keeps nobody from them.
		if name := n.name(ways[0]); !strings.Contains(jail.Run(t, "getent", "ahostsv4", name), "192.0.2.66") || !asked(n.Sink, name) {
			t.Error("a program that exec has not started does not reach the daemons either")
		}
		shells := map[string]*shell{}
		for _, opts := range l.programs() {
			shells[strings.Join(opts, " ")] = n.shell(t, opts...)
		}
		for who, s := range shells {
			n.tries(t, s, ways, who)
		}
		n.start(t)
		for _, file := range []string{"/etc/resolv.conf", "/etc/nsswitch.conf"} {
			l.Host.Run(t, "sh", "-ec", fmt.Sprintf("cp %[1]s %[1]s.new; mv %[1]s.new %[1]s", file))
		}
		n.control(t, ways)
		for who, s := range shells {
			n.tries(t, s, ways, who+", after all was made again")
		}
	})
}
