package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// runHidden lists what of /run a program in a jail never sees: the sockets of
// name services, which answer from the host whatever the network namespace of
// the one who asks, and what belongs to wgjail. It is for /var/run, too, where
// that is a directory of its own.
//
// The system bus is one of them: through it resolvectl(1) has names resolved,
// and much else done, outside.
var runHidden = []string{
	"avahi-daemon",
	"dbus",
	"mdnsd",
	"nscd",
	"nslcd",
	"resolvconf",
	"samba/winbindd",
	"systemd/machine",
	"systemd/resolve",
	"systemd/resolve.hook",
	"unscd",
	"wgjail",
	"wireguard", // where the embedded WireGuard is told its keys and peers
}

// runIsolated lists what of /run is left under Isolate. What is not here,
// known or not, cannot be a way to a program outside: engines (docker, podman,
// containerd), sessions and their buses (/run/user), screen(1), databases.
var runIsolated = []string{
	"booted-system", "current-system", "opengl-driver", "opengl-driver-32", // NixOS
	"lock",
	"shm",
	"systemd/journal", // where /dev/log leads
	"systemd/notify",
	"udev/data", "udev/tags", // what libudev reads
}

// masks returns the mirrors for a program in the jail called name, none of
// them mounted yet. cwd is the caller's working directory, or "".
func masks(name, cwd string, isolate bool) ([]mirror, error) {
	run := mirrorRule{hide: runHidden}
	if isolate {
		run.only = runIsolated
	}
	etc := mirrorRule{netns: name, copied: []string{"resolv.conf", "nsswitch.conf"}}
	if rootless() {
		etc.files = os.DirFS(etcNetns())
	}
	const size = "size=10%," // of the memory
	wanted := []struct {
		dir     string
		options string
		rule    mirrorRule
	}{
		{"/etc", "", etc},
		{"/run", size, run},
		{"/var/run", size, run},
		{"/var/lib/sss", "", mirrorRule{hide: []string{"pipes"}}},
	}
	mirrors, err := worldMasks()
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		dir, err := filepath.EvalSymlinks(w.dir) // /var/run is mostly /run
		if errors.Is(err, os.ErrNotExist) && w.dir != "/etc" {
			continue
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(mirrors, func(m mirror) bool { return m.dir == dir }) {
			continue
		}
		m, err := newMirror(dir, w.options, w.rule)
		if err != nil {
			return nil, err
		}
		m.readonly = w.dir == "/etc"
		mirrors = append(mirrors, m)
	}
	if !isolate {
		return mirrors, nil
	}
	tmp, err := privateTmp(cwd)
	return append(mirrors, tmp), err
}

// worldMasks hide the state of a world's jails where it is kept: programs in
// them are the same user's. They come first, and are mirrored with what they are in.
func worldMasks() ([]mirror, error) {
	if !rootless() {
		return nil, nil
	}
	dir, err := userDir()
	if err != nil {
		return nil, err
	}
	return []mirror{{dir: dir, options: "mode=0755", readonly: true}}, nil
}

func newMirror(dir, options string, rule mirrorRule) (mirror, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return mirror{}, err
	}
	steps, err := rule.plan(os.DirFS(dir))
	if err != nil {
		return mirror{}, fmt.Errorf("%s: %w", dir, err)
	}
	o := ownerOf(info)
	options += fmt.Sprintf("mode=%04o", o.mode)
	if !rootless() { // see fileOwner.own
		options += fmt.Sprintf(",uid=%d,gid=%d", o.uid, o.gid)
	}
	return mirror{dir: dir, options: options, steps: steps}, nil
}

// privateTmp is an empty /tmp. Displays, tmux(1), agents and browsers have
// their sockets in the host's, under names that cannot all be known, and make
// them at any time. Of the host's it holds the working directory.
func privateTmp(cwd string) (mirror, error) {
	dir, err := filepath.EvalSymlinks("/tmp")
	if err != nil {
		return mirror{}, err
	}
	m, err := newMirror(dir, "", mirrorRule{only: []string{}})
	if err != nil {
		return mirror{}, err
	}
	below, inside := strings.CutPrefix(cwd, dir+"/")
	if !inside {
		return m, nil
	}
	steps, err := wayTo(os.DirFS(dir), below)
	if errors.Is(err, os.ErrNotExist) { // removed, or itself covered: there is nothing to keep
		return m, nil
	}
	m.steps = steps
	return m, err
}

// wayTo returns the steps for a directory and those above it, without what
// else is in those.
func wayTo(host fs.FS, path string) ([]mountStep, error) {
	var steps []mountStep
	for i := range path {
		if path[i] != '/' {
			continue
		}
		step, err := dirStep(host, path[:i])
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	if _, err := fs.Lstat(host, path); err != nil {
		return nil, err
	}
	return append(steps, mountStep{kind: stepBind, path: path, source: path, dir: true}), nil
}
