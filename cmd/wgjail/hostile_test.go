package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A state that another version or another user has written is not acted on: the
// jail, and what runs in it, stay as they are until the user says down.
func TestForeignStateIsRefused(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		const path, remove = "/run/wgjail/vpn/jail.json", "hint: remove what is left of the jail with: wgjail down vpn"
		for name, c := range map[string]struct{ script, says string }{
			"an older version":   {`sed -i 's/"version": 1/"version": 0/' ` + path, path + ": written by another version of wgjail"},
			"a newer version":    {`sed -i 's/"version": 1/"version": 2/' ` + path, path + ": written by another version of wgjail"},
			"of another jail":    {`sed -i 's/"name": "vpn"/"name": "other"/' ` + path, path + ": written by another version of wgjail"},
			"another user":       {"chown 65534 " + path, path + ": not a file that only this user can write"},
			"others can write":   {"chmod 622 " + path, path + ": not a file that only this user can write"},
			"a link":             {"mv " + path + " /run/moved; ln -s /run/moved " + path, path + ": too many levels of symbolic links"},
			"damaged":            {"echo '{' >" + path, "read " + path + ": unexpected end of JSON input"},
			"nothing but spaces": {"echo >" + path, "read " + path + ": unexpected end of JSON input"},
		} {
			t.Run(name, func(t *testing.T) {
				jail := l.up(t)
				l.Host.Run(t, "sh", "-ec", c.script)
				for _, args := range [][]string{{"up", l.conf}, {"exec", "vpn", "--", "true"}, {"forward", "8080"}, {"check", "vpn"}} {
					l.refused(t, 1, []string{c.says, remove}, args...)
				}
				if s := l.status(t); s.State != "broken" || !strings.Contains(strings.Join(s.Missing, ""), c.says) {
					t.Errorf("status says %s, %q", s.State, s.Missing)
				}
				if err := echo(jail, "udp", world.InternetV4+":7", "the tunnel works as before"); err != nil {
					t.Error(err)
				}
				l.do(t, "down", "vpn")
				os.Remove("/run/moved")
				l.unchanged(t, before, "down")
			})
		}
	})
}

// With a set-user-ID bit wgjail would do for everybody what root may do.
func TestSetUserIDIsRefused(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		if err := unix.Mount("set", "/run/lock", "tmpfs", 0, "mode=755"); err != nil { // not nosuid, as /run is
			t.Fatal(err)
		}
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		const path = "/run/lock/wgjail"
		if err := os.WriteFile(path, self, 0o755); err != nil {
			t.Fatal(err)
		}
		asUser := func() result {
			return l.runCmd(t, exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", path, "version"))
		}
		if r := asUser(); r.status != 0 {
			t.Fatalf("without the bit: %+v", r)
		}
		for _, mode := range []uint32{0o4755, 0o2755, 0o6755} {
			if err := unix.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if r := asUser(); r.status != 1 || r.out != "" || !strings.Contains(r.err, "error: wgjail does not run with a set-user-ID or set-group-ID bit\n") || !strings.Contains(r.err, "hint: take it away with chmod u-s,g-s") {
				t.Errorf("mode %04o: %+v", mode, r)
			}
		}
	})
}

// Processes that hold keys cannot be read by another one, even of root, that may
// not trace: so they dump no core either (core(5)).
func TestKeysStayInMemory(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		// Neither they nor the reader may trace: then it is their own doing alone
		// that counts.
		without := []string{"setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"}
		readable := func(pid int) bool {
			out, err := l.Host.Try(t, without[0], append(without[1:], "head", "-c0", fmt.Sprintf("/proc/%d/mem", pid))...)
			if err == nil || strings.Contains(out, "Permission denied") {
				return err == nil
			}
			t.Fatalf("%v: %s", err, out)
			return false
		}
		control := l.Host.Start(t, exec.Command(without[0], append(without[1:], "sleep", "1000")...))
		world.Eventually(t, "the control", func() error {
			if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", control.Pid)); !strings.HasPrefix(string(text), "sleep") {
				return errors.New("not begun")
			}
			return nil
		})
		if !readable(control.Pid) {
			t.Fatal("the control cannot be read either")
		}
		l.runCmd(t, exec.Command(without[0], append(without[1:], "wgjail", "up", l.conf)...))
		if readable(keeperPid(t)) {
			t.Error("the keeper can be read")
		}
		l.do(t, "down", "vpn")

		// One that is stuck: the host's name server is silent.
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 198.51.100.99\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l.Client.Endpoint = "vpn.test:" + world.EndpointPort
		for name, args := range map[string][]string{"up": {"up", l.Conf(t, "slow")}, "run": {"run", l.Conf(t, "slower"), "--", "true"}} {
			p := l.Host.Start(t, exec.Command(without[0], append(append(without[1:], "wgjail", "--debug"), args...)...))
			p.WaitOutput(t, "resolve endpoints")
			if readable(p.Pid) {
				t.Errorf("%s can be read", name)
			}
			p.Signal(t, unix.SIGINT)
			p.Wait()
		}
	})
}

// The folder of a configuration may belong to anybody: what is in it is read,
// and nothing is written there.
func TestStrict(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for _, mode := range []os.FileMode{0o640, 0o604, 0o644} {
			if err := os.Chmod(l.conf, mode); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"up", "--strict", l.conf}, {"run", "--strict", l.conf, "--", "true"}} {
				l.refused(t, 1, []string{fmt.Sprintf("(mode %04o)", mode), "hint: chmod 600 " + l.conf}, args...)
			}
			if r := l.run(t, "run", l.conf, "--", "true"); r.status != 0 || !strings.Contains(r.err, "warning: "+l.conf+": group or others may read it") {
				t.Errorf("mode %04o without --strict: %+v", mode, r)
			}
		}
		if err := os.Chmod(l.conf, 0o600); err != nil {
			t.Fatal(err)
		}
		l.do(t, "run", "--strict", l.conf, "--", "true")
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(l.conf), "*")); len(left) != 1 {
			t.Errorf("in the configuration's folder are %q", left)
		}
	})
}
