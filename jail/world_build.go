package jail

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WorldCommand is the hidden command under which wgjail makes a world. It calls
// BuildWorld.
const WorldCommand = "world"

// BuildWorld makes the mounts of a world in the calling process's mount
// namespace, a new one, and says to the maker that it is ready. The state is kept
// in dir. It returns when the maker has opened the namespaces.
func BuildWorld(dir, mark string, log *slog.Logger) error {
	err := buildWorld(dir, mark, log)
	ReportReady(err)
	return err
}

// worldHidden lists what of the host's /run there is another of in a world.
var worldHidden = []string{"netns", "wgjail", "wireguard"}

func buildWorld(dir, mark string, log *slog.Logger) error {
	if !rootless() {
		return fmt.Errorf("%s is started by wgjail, not by hand", WorldCommand)
	}
	if err := checkPrivate(dir); err != nil {
		return err
	}
	if err := keepMounts(); err != nil {
		return err
	}
	for _, path := range []string{"/run", "/var/run"} {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		if real != path {
			continue // /var/run is mostly /run
		}
		m, err := newMirror(path, "", mirrorRule{hide: worldHidden})
		if err != nil {
			return err
		}
		m.source = mark
		if err := m.mount(log); err != nil {
			return err
		}
	}
	if err := os.Mkdir(runDir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(dir, runDir, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount", Path: runDir, Err: err}
	}
	return nil
}
