package jail

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A working directory that is covered is looked up again, and one that is gone
// becomes /.
func TestExecWorkingDirectory(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		for _, dir := range []string{"/run/nscd/deep", "/run/open/deep", "/run/wgjail"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		tests := []struct{ dir, want, above string }{
			{"/", "/", ""},
			{"/usr/lib", "/usr/lib", ""},
			{"/run", "/run", ""},
			{"/run/open/deep", "/run/open/deep", "deep"},
			{"/run/nscd/deep", "/", ""},
			{"/run/wgjail", "/", ""},
			{"/etc", "/etc", ""},
			{"/sys/class/net", "/sys/class/net", ""},
		}
		for _, tt := range tests {
			t.Run(tt.dir, func(t *testing.T) {
				p := enter(t, w, execRequest{}, nil, func(cmd *exec.Cmd) { cmd.Dir = tt.dir })
				if got := p.want(t, "cwd"); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if got := p.want(t, "list .."); tt.above != "" && got != tt.above {
					t.Errorf("above it: %q, want %q", got, tt.above)
				}
				// The way up must not lead below the masks.
				p.wantErr(t, unix.ENOENT, "list ../nscd")
				p.wantErr(t, unix.ENOENT, "list ../../nscd")
				if tt.dir != tt.want {
					p.WaitOutput(t, "the working directory is not in the jail")
				} else if out := p.Output(); out != "" {
					t.Errorf("it printed %q", out)
				}
			})
		}
		t.Run("removed", func(t *testing.T) {
			dir := "/run/nscd/gone"
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p := enter(t, w, execRequest{}, nil, func(cmd *exec.Cmd) {
				cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "rmdir " + dir + "; exec /proc/" + fmt.Sprint(os.Getpid()) + "/exe"}
				cmd.Dir = dir
			})
			if got := p.want(t, "cwd"); got != "/" {
				t.Errorf("working directory %q", got)
			}
			p.wantErr(t, unix.ENOENT, "list ../nscd")
		})
	})
}

func TestExecSys(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		jail := newJailForExec(t, w)
		w.Link(t, w.Host.End("hostside"), jail.End("jailside"))
		if err := unix.Mount("more", "/sys/kernel/debug", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		put(t, "/sys/kernel/debug/marker", "")
		cgroups, err := listNames("/sys/fs/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		p := enter(t, w, execRequest{}, nil, nil)
		if got := p.want(t, "list /sys/class/net"); got != "jailside lo" {
			t.Errorf("network devices %q", got)
		}
		if got := p.want(t, "list /sys/fs/cgroup"); got != cgroups {
			t.Errorf("cgroups %q, the host has %q", got, cgroups)
		}
		if got := p.want(t, "list /sys/kernel/debug"); got != "marker" {
			t.Errorf("mounted below /sys: %q", got)
		}
		table := p.want(t, "read /proc/self/mountinfo")
		own, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(table, " - cgroup"), strings.Count(string(own), " - cgroup"); got < want {
			t.Errorf("%d cgroup mounts, the host has %d", got, want)
		}
	})
}

// The host's mounts are the same before, during and after.
func TestExecLeavesTheHostAlone(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		put(t, "/run/nscd/x", "")
		if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil { // others use the machine's
			t.Fatal(err)
		}
		look := func() (lines []string) {
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			lines = strings.Split(string(mounts), "\n")
			for _, dir := range []string{"/etc", "/run", "/run/nscd", "/sys/class/net", "/tmp"} {
				names, err := listNames(dir)
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, dir+": "+names)
			}
			return lines
		}
		before := look()
		unchanged := func(t *testing.T, when string) {
			t.Helper()
			now := look()
			for _, line := range now {
				if !slices.Contains(before, line) {
					t.Errorf("%s there is %s", when, line)
				}
			}
			for _, line := range before {
				if !slices.Contains(now, line) {
					t.Errorf("%s there is no %s", when, line)
				}
			}
		}
		for name, r := range map[string]execRequest{"plain": {}, "isolated": {Isolate: true}, "capable": {KeepCaps: true}} {
			t.Run(name, func(t *testing.T) {
				p := enter(t, w, r, nil, nil)
				p.want(t, "ids")
				unchanged(t, "while it runs,")
				p.Signal(t, syscall.SIGKILL)
				p.Wait()
			})
		}
		cmd := execCommand(t, execRequest{Argv: []string{"nosuchprogram"}})
		if err := cmd.Run(); err == nil {
			t.Error("nosuchprogram ran")
		}
		unchanged(t, "afterwards")
	})
}
