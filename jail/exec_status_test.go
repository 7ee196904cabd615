package jail

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

func TestExecStatus(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		put(t, "/run/tmp/script", "#!/bin/sh\nexit 7\n")
		put(t, "/run/tmp/plain", "exit 7\n")
		for _, name := range []string{"script", "plain"} {
			if err := os.Chmod("/run/tmp/"+name, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		tests := []struct {
			name   string
			r      execRequest
			change func(*exec.Cmd)
			status int
			output string
		}{
			{"found in PATH", execRequest{Argv: []string{"sh", "-c", "exit 42"}}, nil, 42, ""},
			{"script", execRequest{Argv: []string{"/run/tmp/script"}}, nil, 7, ""},
			{"relative", execRequest{Argv: []string{"./script"}}, func(c *exec.Cmd) { c.Dir = "/run/tmp" }, 7, ""},
			{"not found", execRequest{Argv: []string{"nosuchprogram"}}, nil, 127, "nosuchprogram: executable file not found"},
			{"no such path", execRequest{Argv: []string{"/run/tmp/none"}}, nil, 127, "/run/tmp/none: file does not exist"},
			{"hidden", execRequest{Argv: []string{"/run/tmp/script"}, Isolate: true}, nil, 127, "does not exist"},
			{"not executable", execRequest{Argv: []string{"/etc/passwd"}}, nil, 126, "permission denied"},
			{"no first line", execRequest{Argv: []string{"/run/tmp/plain"}}, nil, 126, "exec format error"},
			{"nobody may", execRequest{Argv: []string{"/run/locked/x"}, User: "7000:7000"}, nil, 126, "permission denied"},
			{"unknown user", execRequest{Argv: []string{"true"}, User: "nosuchuser"}, nil, 1, "unknown user nosuchuser"},
			{"unprivileged", execRequest{Argv: []string{"true"}}, asNobody, 1, "hint: run wgjail as root"},
		}
		if err := os.Mkdir("/run/locked", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				cmd := execCommand(t, tt.r)
				if tt.change != nil {
					tt.change(cmd)
				}
				out, _ := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != tt.status {
					t.Errorf("status %d, want %d\n%s", got, tt.status, out)
				}
				if !strings.Contains(string(out), tt.output) {
					t.Errorf("printed %q, want %q", out, tt.output)
				}
			})
		}
		t.Run("killed", func(t *testing.T) {
			cmd := execCommand(t, execRequest{Argv: []string{"sh", "-c", "kill -TERM $$"}})
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("got %v, want the signal that killed the program", err)
			}
		})
	})
}

func asNobody(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// ping(8) has a file capability on many systems: it must run, without it.
func TestExecFileCapabilities(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		if err := unix.Mount("lock", "/run/lock", "tmpfs", 0, "mode=1777"); err != nil { // not nosuid, as /run is
			t.Fatal(err)
		}
		const path = "/run/lock/capable"
		makeCapable(t, path)
		for _, r := range []execRequest{{}, {User: "7000:7000"}, {Isolate: true}, {KeepCaps: true}} {
			r.Argv = []string{path}
			if out, err := execCommand(t, r).CombinedOutput(); err != nil {
				t.Errorf("%+v: %v: %s", r, err, out)
			}
		}
	})
}

// If something cannot be masked, the program does not run.
func TestExecFailsClosed(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		try := func(t *testing.T, want string) {
			t.Helper()
			cmd := execCommand(t, execRequest{Argv: []string{"sh", "-c", "echo it ran"}})
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 || strings.Contains(string(out), "it ran") || !strings.Contains(string(out), want) {
				t.Errorf("status %d, printed %q, want %q in it", cmd.ProcessState.ExitCode(), out, want)
			}
		}
		for _, name := range []string{"resolv.conf", "nsswitch.conf"} {
			t.Run("no "+name, func(t *testing.T) {
				path := filepath.Join("/etc/netns/vpn", name)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				defer put(t, path, string(text))
				try(t, "the jail's own "+name)
			})
		}
		t.Run("no way to list", func(t *testing.T) {
			if err := unix.Mount("var", "/var", "tmpfs", 0, "mode=755"); err != nil {
				t.Fatal(err)
			}
			put(t, "/var/lib/sss", "not a directory")
			try(t, "/var/lib/sss: ")
		})
		for name, m := range map[string]mirror{
			"nothing to mount on": {dir: "/run/nosuchdir"},
			"wrong options":       {dir: "/run/lock", options: "nosuchoption"},
			"file of ours":        {dir: "/run/lock", steps: []mountStep{{kind: stepFile, path: "no/such/dir"}}},
		} {
			t.Run(name, func(t *testing.T) {
				if err := m.mount(slog.New(slog.DiscardHandler)); err == nil {
					t.Error("no error")
				}
			})
		}
	})
}

// What cannot be taken over is left out, and said.
func TestMirrorLeavesOut(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		put(t, "/run/lock/file", "")
		put(t, "/run/lock/other", "")
		var said bytes.Buffer
		m := mirror{dir: "/run/lock", steps: []mountStep{
			{kind: stepBind, path: "gone", source: "gone"},
			{kind: stepBind, path: "file", source: "file", dir: true}, // it has become a file meanwhile
			{kind: stepBind, path: "other", source: "other"},
		}}
		if err := m.mount(slog.New(slog.NewTextHandler(&said, nil))); err != nil {
			t.Fatal(err)
		}
		if got, err := listNames("/run/lock"); got != "other" || err != nil {
			t.Errorf("there is %q, error %v", got, err)
		}
		if strings.Contains(said.String(), "/run/lock/gone") || !strings.Contains(said.String(), "path=/run/lock/file") {
			t.Errorf("said %q", said.String())
		}
	})
}
