package jail

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// A Place is a network namespace that ports can be opened into: a jail, or any
// other one.
type Place struct {
	Jail string // name of a jail, or
	Path string // file of a namespace
}

// String names the place for people.
func (p Place) String() string {
	if p.Jail != "" {
		return "jail " + p.Jail
	}
	return "namespace " + p.Path
}

// flag names the place on the command line.
func (p Place) flag() string {
	if p.Jail != "" {
		return "--jail " + p.Jail
	}
	return "--netns " + p.Path
}

// lock keeps the jail from going away while a forward registers itself.
func (p Place) lock(ctx context.Context) (*filelock.Lock, error) {
	return lockJail(ctx, p.register(), true)
}

// open opens the namespace; a jail must be up.
func (p Place) open() (*netnsx.Namespace, error) {
	if p.Jail == "" {
		ns, err := netnsx.Open(p.Path)
		if err == nil && rootless() {
			if err = ns.Do(func() error { return nil }); err != nil {
				ns.Close()
			}
		}
		if err != nil && rootless() {
			return nil, hint.Wrap(err, "without root, forwards lead into jails of one's own: name one with --jail; or try again with sudo")
		}
		if err != nil {
			return nil, hint.Wrap(err, "give --netns a name out of /run/netns (ip netns list) or a file such as /proc/PID/ns/net")
		}
		if err := notHere(ns); err != nil {
			ns.Close()
			return nil, fmt.Errorf("%s %w", p, err)
		}
		return ns, nil
	}
	return Open(p.Jail)
}

// notHere reports whether ns is the namespace in which ports are opened: a
// forward into it would call itself.
func notHere(ns *netnsx.Namespace) error {
	here, err := netnsx.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	if ns.ID() == here.ID() {
		return errors.New("is where wgjail runs: there is nothing to forward into")
	}
	return nil
}

// Open opens the namespace of the jail called name. The error is ErrNotUp if
// there is no such jail.
func Open(name string) (*netnsx.Namespace, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	s, err := loadState(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notUp(name)
	}
	if err != nil {
		return nil, err
	}
	ns, err := s.openNamespace()
	if errors.Is(err, os.ErrNotExist) {
		return nil, hint.Wrap(fmt.Errorf("jail %s has lost its namespace %s", name, netnsx.Path(name)),
			"put it back with: wgjail up %s.conf", name)
	}
	return ns, err
}

// register returns the name under which forwards into the place are kept: the
// jail's, or one that no jail can have.
func (p Place) register() string {
	if p.Jail != "" {
		return p.Jail
	}
	sum := sha256.Sum256([]byte(p.Path))
	return placePrefix + hex.EncodeToString(sum[:6])
}

// placePrefix begins the registers of places that are not jails.
const placePrefix = ".netns-"

// PlaceOf returns the place that the file of a namespace, or its name as
// ip-netns(8) knows it, stands for: a jail if it is one's.
func PlaceOf(file string) (Place, error) {
	if !strings.Contains(file, "/") {
		file = netnsx.Path(file)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return Place{}, err
	}
	name := filepath.Base(path)
	if path == netnsx.Path(name) && CheckName(name) == nil && !missing(stateDir(name)) {
		return Place{Jail: name}, nil
	}
	return Place{Path: path}, nil
}
