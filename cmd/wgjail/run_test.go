package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// Standard output and the exit status are the command's, and nothing is left.
func TestRun(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
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
			{"crashed", []string{"sh", "-c", "ulimit -c 0; kill -SEGV $$"}, 128 + 11, "", ""},
			{"no program", []string{"no-such-program"}, 127, "", "wgjail: error: no-such-program: "},
			{"not executable", []string{"/etc/passwd"}, 126, "", "wgjail: error: /etc/passwd: permission denied"},
			{"daemon left", []string{"sh", "-c", "setsid sh -c 'sleep 12345 & sleep 12345' >/dev/null 2>&1 </dev/null & echo started"}, 0, "started\n", ""},
			{"its user", []string{"sh", "-c", "id -u; grep NoNewPrivs /proc/self/status"}, 0, "0\nNoNewPrivs:\t1\n", ""},
		} {
			t.Run(tt.what, func(t *testing.T) {
				r := l.run(t, append([]string{"run", l.conf, "--"}, tt.command...)...)
				if r.status != tt.status || r.out != tt.out || !strings.Contains(r.err, tt.says) {
					t.Errorf("it ended with %+v, want status %d, output %q, %q", r, tt.status, tt.out, tt.says)
				}
				l.unchanged(t, before, "run")
			})
		}
		t.Run("standard input", func(t *testing.T) {
			cmd := exec.Command("wgjail", "run", l.conf, "--", "wc", "-c")
			cmd.Stdin = strings.NewReader(strings.Repeat("x", 300000))
			if r := l.runCmd(t, cmd); strings.TrimSpace(r.out) != "300000" {
				t.Errorf("it ended with %+v", r)
			}
		})
		t.Run("user", func(t *testing.T) {
			r := l.runCmd(t, withEnv([]string{"SUDO_UID=65534", "SUDO_GID=65534", "SUDO_USER=nobody"}, "run", l.conf, "--", "id", "-u"))
			if r.out != "65534\n" {
				t.Errorf("it ended with %+v", r)
			}
		})
		l.unchanged(t, before, "all of it")
	})
}

// When it cannot begin, nothing is run and nothing is left.
func TestRunThatCannotBegin(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		busy, err := l.Host.Listen("tcp", "0.0.0.0:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
		ran := filepath.Join(t.TempDir(), "ran")
		bad := l.write(t, "vpn", "Address = nonsense", "")
		before := w.Snapshot(t)
		for _, tt := range []struct {
			status int
			says   string
			args   []string
		}{
			{1, "no such file", []string{"/nowhere/vpn.conf", "--", "touch", ran}},
			{1, "vpn.conf:3: ", []string{bad, "--", "touch", ran}},
			{1, "port 8080/tcp: address already in use", []string{l.conf, "-p", "8080", "--", "touch", ran}},
			{1, `user "nosuch"`, []string{l.conf, "--user", "nosuch", "--", "touch", ran}},
			{2, "nonsense", []string{l.conf, "-p", "nonsense", "--", "touch", ran}},
			{2, "after --", []string{l.conf, "--"}},
			{2, "hint: put it after --", []string{l.conf, "touch", ran}},
			{2, "which configuration file?", []string{"--", "touch", ran}},
		} {
			l.refused(t, tt.status, []string{tt.says}, append([]string{"run"}, tt.args...)...)
			l.unchanged(t, before, "it")
		}
		if _, err := os.Stat(ran); err == nil {
			t.Error("the command was run")
		}
	})
}

// A signal to wgjail is the command's; what it does with it is the end of both.
func TestRunPassesSignals(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, tt := range []struct {
			sig    syscall.Signal
			script string
			status int
		}{
			{syscall.SIGINT, "", 128 + 2},
			{syscall.SIGTERM, "", 128 + 15},
			{syscall.SIGHUP, "", 128 + 1},
			{syscall.SIGTERM, "trap 'echo caught; exit 9' TERM; ", 9},
			{syscall.SIGINT, "trap 'echo caught; exit 0' INT; ", 0},
		} {
			run := l.start(t, "run", l.conf, "--", "sh", "-c", tt.script+"echo ready; while :; do sleep 0.01; done")
			run.WaitOutput(t, "ready\n")
			run.Signal(t, tt.sig)
			if status := exitCode(run.Wait()); status != tt.status {
				t.Errorf("after %v and %q it ended with status %d, want %d", tt.sig, tt.script, status, tt.status)
			}
			l.unchanged(t, before, "run")
		}
		// While the jail is being made there is no command yet.
		slow := l.write(t, "vpn", "Address = 10.64.0.2/32\nPostUp = echo in the hook; exec sleep 12345", "Endpoint = "+l.Client.Endpoint)
		run := l.start(t, "run", "--allow-hooks", slow, "--", "echo", "the command")
		run.WaitOutput(t, "in the hook\n")
		run.Signal(t, syscall.SIGTERM)
		if status := exitCode(run.Wait()); status != 128+15 || strings.Contains(run.Output(), "the command\n") {
			t.Errorf("it ended with status %d", status)
		}
		l.unchanged(t, before, "run")
	})
}

// Whenever the signal comes, run ends, and so does what it has begun.
func TestRunInterruptedAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		const begun = "do="
		for steps := 1; ; steps++ {
			run := l.start(t, "run", "--debug", l.conf, "-p", "8080", "--", "sh", "-c", "echo the command; exec sleep 12345")
			world.Eventually(t, fmt.Sprintf("%d steps", steps), func() error {
				if out := run.Output(); strings.Count(out, begun) < steps && !strings.Contains(out, "the command\n") {
					return fmt.Errorf("there are %d", strings.Count(out, begun))
				}
				return nil
			})
			last := strings.Contains(run.Output(), "the command\n")
			run.Signal(t, syscall.SIGTERM)
			select {
			case <-run.Done():
			case <-time.After(30 * time.Second):
				t.Fatalf("a signal after %d steps did not end it", steps)
			}
			if status := exitCode(run.Wait()); status != 128+15 {
				t.Errorf("after %d steps it ended with status %d", steps, status)
			}
			l.unchanged(t, before, fmt.Sprintf("a signal after %d steps", steps))
			if last {
				return
			}
		}
	})
}

func TestRunOnATerminal(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		t.Run("Ctrl-C", func(t *testing.T) {
			term := startOnTerminal(t, l.Host, exec.Command("wgjail", "run", l.conf, "--", "sh", "-c",
				"stty size; trap 'n=$((n+1)); echo INT $n' INT; trap 'exit 3' USR1; echo ready; while :; do sleep 0.01; done"))
			term.waitFor(t, "33 77\nready\n")
			for n := range 3 { // each of them once
				term.press(t, "\x03")
				term.waitFor(t, fmt.Sprintf("INT %d\n", n+1))
			}
			l.Host.Run(t, "sh", "-c", "kill -USR1 $(pgrep -f '^sh -c stty size')")
			if status := term.status(); status != 3 || strings.Contains(term.text(), "INT 4") {
				t.Errorf("it ended with status %d and shows %q", status, term.text())
			}
			l.unchanged(t, before, "run")
		})
		t.Run("Ctrl-C by default", func(t *testing.T) {
			term := startOnTerminal(t, l.Host, exec.Command("wgjail", "run", l.conf, "--", "sh", "-c", "echo ready; exec sleep 12345"))
			term.waitFor(t, "ready\n")
			term.press(t, "\x03")
			if status := term.status(); status != 128+2 {
				t.Errorf("it ended with status %d", status)
			}
			l.unchanged(t, before, "run")
		})
		t.Run("a shell with jobs", func(t *testing.T) {
			term := startOnTerminal(t, l.Host, exec.Command("wgjail", "run", l.conf, "--", "bash", "--norc", "-i"))
			term.press(t, "PS1='$'; sleep 12345\n")
			term.waitFor(t, "sleep 12345\n")
			world.Eventually(t, "the job", func() error {
				_, err := l.Host.Try(t, "pgrep", "-f", "^sleep 12345")
				return err
			})
			term.press(t, "\x03")
			term.press(t, "echo status $?; exit 4\n")
			term.waitFor(t, "status 130\n")
			if status := term.status(); status != 4 {
				t.Errorf("it ended with status %d", status)
			}
			l.unchanged(t, before, "run")
		})
	})
}

// page fetches the page of a service from a node.
func page(from *world.Node, addr string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return from.Dial(network, addr)
		},
	}}
	r, err := client.Get("http://" + addr + "/")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", r.Status)
	}
	return nil
}

func TestRunForwards(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		run := l.start(t, "run", l.conf, "-p", "8080", "-p", "9000:8080", "--", "wgjail", "demo-page")
		run.WaitOutput(t, "listening\n")
		for _, addr := range []string{world.HostLANV4 + ":8080", "[" + world.HostLANV6 + "]:8080", world.HostLANV4 + ":9000"} {
			if err := page(l.LAN, addr); err != nil {
				t.Errorf("from the LAN: %v", err)
			}
		}
		if out := l.do(t, "status", "vpn"); strings.Count(out, "forward ") != 2 {
			t.Errorf("status shows %s", out)
		}
		run.Signal(t, syscall.SIGTERM)
		run.Wait()
		if err := page(l.LAN, world.HostLANV4+":8080"); err == nil {
			t.Error("the port is still open")
		}
		l.unchanged(t, before, "run")
	})
}

// A jail that is up is used, and is afterwards as it was.
func TestRunInAJailThatIsUp(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		c := connect(t, jail)
		before := w.Snapshot(t)
		r := l.run(t, "run", l.conf, "--", "readlink", "/proc/self/ns/net")
		if r.status != 0 || r.out != jail.ID().String()+"\n" || !strings.Contains(r.err, "jail vpn is already up: it is used, and stays up") {
			t.Errorf("it ended with %+v", r)
		}
		l.unchanged(t, before, "run")
		run := l.start(t, "run", l.conf, "-p", "8080", "--", "wgjail", "demo-page")
		run.WaitOutput(t, "listening\n")
		if err := page(l.LAN, world.HostLANV4+":8080"); err != nil {
			t.Error(err)
		}
		run.Signal(t, syscall.SIGTERM)
		run.Wait()
		l.Host.Run(t, "rm", "-f", "/run/wgjail/vpn/forward.log")
		l.unchanged(t, before, "run with a port")
		c.goesOn(t, "both")
	})
}
