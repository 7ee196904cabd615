package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A program cannot go back to the host's network, but for one that kept the
// capabilities.
func TestExecCannotLeave(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		outside := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
		for name, r := range map[string]execRequest{"root": {}, "user": {User: "7000:7000"}, "isolated": {Isolate: true}} {
			t.Run(name, func(t *testing.T) {
				p := enter(t, w, r, nil, nil)
				if a := p.ask(t, "setns %s", outside); a.Err == "" {
					t.Error("it entered the host's namespace")
				}
				if a := p.ask(t, "run unshare --user --map-root-user nsenter --net=%s true", outside); a.Err == "" {
					t.Error("it entered the host's namespace from a user namespace of its own")
				}
				if a := p.ask(t, "run unshare --user --map-root-user --mount umount /etc"); a.Err == "" {
					t.Error("it took a mask away in a user namespace of its own")
				}
			})
		}
		p := enter(t, w, execRequest{KeepCaps: true}, nil, nil)
		p.want(t, "setns %s", outside)
	})
}

// What is not a name service stays, unless the program is isolated.
func TestExecIsolate(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		addUsers(t)
		if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			t.Fatal(err)
		}
		reachable := []string{
			"/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/user/4321/bus",
			"/run/screen/S-ann/1.pts", "/tmp/.X11-unix/X0", "/tmp/tmux-4321/default", "/tmp/ssh-abc/agent.1",
		}
		var decoys []*decoy
		for _, path := range reachable {
			decoys = append(decoys, newDecoy(t, path))
		}
		put(t, "/tmp/project/deep/file", "of the user\n")
		put(t, "/tmp/project/sibling", "")
		for _, dir := range []string{"/tmp/project", "/tmp/project/deep"} {
			if err := os.Chown(dir, 4321, 4322); err != nil {
				t.Fatal(err)
			}
		}
		session := func(cmd *exec.Cmd) {
			bySudo(cmd)
			cmd.Dir = "/tmp/project/deep"
			cmd.Env = append(cmd.Env, "DISPLAY=:0", "XDG_RUNTIME_DIR=/run/user/4321", "TMUX=/tmp/tmux-4321/default,1,0")
		}
		free := enter(t, w, execRequest{}, nil, session)
		shut := enter(t, w, execRequest{Isolate: true}, nil, session)
		for _, d := range decoys {
			free.want(t, "connect %s", d.path)
			if n := d.strangers(t); n != 1 {
				t.Errorf("%s: %d connections from the program that is not isolated, want 1", d.path, n)
			}
			shut.wantErr(t, unix.ENOENT, "connect %s", d.path)
		}
		if got := shut.want(t, "list /tmp"); got != "project" {
			t.Errorf("the isolated /tmp holds %q", got)
		}
		if got := shut.want(t, "list /tmp/project"); got != "deep" {
			t.Errorf("beside the working directory: %q", got)
		}
		if got := shut.want(t, "cwd"); got != "/tmp/project/deep" {
			t.Errorf("working directory %q", got)
		}
		shut.want(t, "write new")
		if _, err := os.Stat("/tmp/project/deep/new"); err != nil {
			t.Errorf("what the program wrote in its working directory: %v", err)
		}
		shut.want(t, "write /tmp/private")
		if _, err := os.Stat("/tmp/private"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the isolated /tmp is the host's: %v", err)
		}
		for _, name := range []string{"DISPLAY", "XDG_RUNTIME_DIR", "TMUX"} {
			if got := getVariable(strings.Split(free.want(t, "env"), "\n"), name); got == "" {
				t.Errorf("%s is gone without isolation", name)
			}
			if got := getVariable(strings.Split(shut.want(t, "env"), "\n"), name); got != "" {
				t.Errorf("%s is %q under isolation", name, got)
			}
		}
		if got := shut.want(t, "list /run"); got != "lock" {
			t.Errorf("the isolated /run holds %q", got)
		}
	})
}

// A working directory that something is mounted over cannot be kept.
func TestExecIsolateCoveredDirectory(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir("/tmp/covered", 0o755); err != nil {
			t.Fatal(err)
		}
		t.Chdir("/tmp/covered")
		if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			t.Fatal(err)
		}
		p := enter(t, w, execRequest{Isolate: true}, nil, nil)
		if got := p.want(t, "cwd"); got != "/" {
			t.Errorf("working directory %q", got)
		}
		p.WaitOutput(t, "the working directory is not in the jail")
	})
}

// Isolated programs cannot look into or signal processes outside.
func TestExecIsolateProcesses(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		requireLandlock(t)
		other := sleeper(t, w)
		free := enter(t, w, execRequest{User: "7000:7000"}, nil, nil)
		free.want(t, "list /proc/%d/root/", other)
		free.want(t, "kill %d", other)
		shut := enter(t, w, execRequest{User: "7000:7000", Isolate: true}, nil, nil)
		shut.wantErr(t, unix.EACCES, "list /proc/%d/root/", other)
		shut.wantErr(t, unix.EPERM, "kill %d", other)
		if got := shut.want(t, "run sleep 100 & kill $! && wait $! || echo killed its own"); !strings.Contains(got, "killed its own") {
			t.Errorf("its own child: %q", got)
		}
	})
}

// Older versions of Landlock's interface do as much as they can, and nothing
// else.
func TestShutInVersions(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		newest := requireLandlock(t)
		other := sleeper(t, w)
		for version := 2; version <= newest; version++ {
			t.Run(fmt.Sprint(version), func(t *testing.T) {
				p := enter(t, w, execRequest{Landlock: version}, nil, func(cmd *exec.Cmd) {
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 7000, Gid: 7000},
						AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}} // to enter the namespace
					cmd.Dir = "/run/tmp"
				})
				p.wantErr(t, unix.EACCES, "list /proc/%d/root/", other)
				if signals := p.ask(t, "kill %d", other).Err == ""; signals != (version < 6) {
					t.Errorf("can signal: %v", signals)
				}
				p.want(t, "run mkdir a b && touch a/x && mv a/x b/y && ln b/y a/z && rm -r a b")
			})
		}
	})
	if err := shutInWith(1); !errors.Is(err, errNoLandlock) {
		t.Errorf("version 1: %v", err)
	}
}

// requireLandlock returns the version of the kernel's Landlock.
func requireLandlock(t *testing.T) int {
	t.Helper()
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < 6 {
		world.Skip(t, "the kernel has no Landlock of version 6 or later: %d, %v", version, errno)
	}
	return int(version)
}

// sleeper starts a program of user 7000 outside and returns its number.
func sleeper(t *testing.T, w *world.World) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 7000, Gid: 7000}}
	return w.Host.Start(t, cmd).Pid
}
