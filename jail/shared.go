package jail

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// uapiDir is where userspace WireGuard listens for wg(8).
const uapiDir = "/var/run/wireguard"

// shared says which folders and mounts wgjail made for the first jail. They
// are removed after the last one, if nobody else uses them by then.
type shared struct {
	Netns    netnsx.DirState `json:"netns"`
	EtcMade  bool            `json:"etc_made"`
	UAPIMade bool            `json:"uapi_made"`
}

var sharedPath = filepath.Join(runDir, ".made")

func loadShared() (shared, error) {
	var s shared
	data, err := readOwned(sharedPath)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(data, &s)
}

func (s shared) save() error {
	if s == (shared{}) {
		return removeFile(sharedPath)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeWhole(sharedPath, append(data, '\n'), 0o600)
}

// prepareShared makes the folders and mounts that all jails share. What it is
// about to make is written down first, so that a crash loses track of nothing.
func prepareShared() error {
	l, err := lockShared()
	if err != nil {
		return err
	}
	defer l.Release()
	s, err := loadShared()
	if err != nil {
		return err
	}
	s.Netns.Made = s.Netns.Made || missing(netnsx.Dir)
	s.Netns.Mounted = s.Netns.Mounted || !netnsx.DirMounted()
	s.EtcMade = s.EtcMade || missing(etcNetns())
	s.UAPIMade = s.UAPIMade || missing(uapiDir)
	if err := s.save(); err != nil {
		return err
	}
	if _, err := netnsx.PrepareDir(); err != nil {
		return err
	}
	if err := makeDir(etcNetns()); err != nil {
		return err
	}
	return makeDir(uapiDir)
}

// cleanShared removes what prepareShared made and nobody uses. It goes on past
// errors.
func cleanShared() error {
	l, err := lockShared()
	if err != nil {
		return err
	}
	defer l.Release()
	left, _ := filepath.Glob(filepath.Join(runDir, ".new-*")) // of an interrupted save
	for _, path := range left {
		if err := removeFile(path); err != nil {
			return err
		}
	}
	if names, err := List(); err != nil || len(names) > 0 {
		return err
	}
	s, err := loadShared()
	if err != nil {
		return err
	}
	var errs []error
	if s.Netns != (netnsx.DirState{}) {
		errs = append(errs, netnsx.RemoveDir(s.Netns))
	}
	if s.EtcMade && empty(etcNetns()) {
		errs = append(errs, removeFile(etcNetns()))
	}
	if s.UAPIMade && empty(uapiDir) {
		errs = append(errs, removeFile(uapiDir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return shared{}.save() // what is left, others use by now: it is theirs
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

func empty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}
