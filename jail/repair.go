package jail

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// repair puts back what is missing of a jail that is up. Nothing is removed,
// and a failure leaves things as they are: programs may run inside.
func (m *maker) repair(ctx context.Context, before *state) (*Jail, error) {
	name := m.cfg.Name
	if before.Config != fingerprint(m.cfg) {
		return nil, hint.Wrap(fmt.Errorf("jail %s is up with another configuration", name),
			"apply the new one with: wgjail down %s, then up again", name)
	}
	if b := m.opts.Backend; b != "" && b != Auto && b != before.Backend {
		return nil, hint.Wrap(fmt.Errorf("jail %s is up with the %s backend", name, before.Backend),
			"change it with: wgjail down %s, then up again", name)
	}
	if err := m.samePort(before); err != nil {
		return nil, err
	}
	if err := settleKeeper(ctx, name); err != nil {
		return nil, err
	}
	lacks, err := before.missingParts()
	if err != nil {
		return nil, err
	}
	rules, err := before.missingRules()
	if err != nil {
		return nil, err
	}
	lacks = append(lacks, rules...)
	if len(lacks) == 0 {
		if !m.opts.Started.IsZero() && before.Complete.After(m.opts.Started) {
			return nil, fmt.Errorf("jail %s: %w: it has just been brought up", name, ErrBusy)
		}
		return nil, fmt.Errorf("jail %s %w", name, ErrUp)
	}
	m.opts.Backend = before.Backend
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	m.state.Namespace, m.state.Complete, m.state.Hooks, m.state.Port = before.Namespace, before.Complete, before.Hooks, before.Port
	m.state.DNSFolder = before.DNSFolder
	m.repairing = true
	j, err := m.make(ctx)
	if err != nil {
		if m.keeper != nil {
			m.keeper.Abandon()
		}
		return nil, err
	}
	j.Repaired = lacks
	return j, nil
}

// fingerprint tells configurations apart and says nothing else of them: keys
// are as random as the hash. Hooks and warnings do not count.
func fingerprint(cfg *Config) string {
	c := *cfg
	c.Hooks, c.Warnings = Hooks{}, nil
	sum := sha256.New()
	if err := json.NewEncoder(sum).Encode(c); err != nil { // none of its fields can fail
		return ""
	}
	secrets := []Secret{c.PrivateKey} // which JSON hides
	for _, p := range c.Peers {
		secrets = append(secrets, p.PresharedKey)
	}
	for _, s := range secrets {
		key := s.Key()
		sum.Write(key[:])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// openNamespace opens the jail's namespace and checks that it is the one that
// was made for it. The error is os.ErrNotExist if its name is gone.
func (s *state) openNamespace() (*netnsx.Namespace, error) {
	ns, err := netnsx.OpenNamed(s.Name)
	if err != nil {
		return nil, err
	}
	if s.Namespace != (netnsx.ID{}) && ns.ID() != s.Namespace {
		ns.Close()
		return nil, hint.Wrap(fmt.Errorf("network namespace %s %w", s.Name, errReplaced),
			"remove the jail with: wgjail down %s", s.Name)
	}
	return ns, nil
}

// errReplaced is the error for a name that stands for a foreign namespace.
var errReplaced = errors.New("is not the one that wgjail made: someone has replaced it")

// missingParts says what a complete jail lacks; nothing means that it is whole.
func (s *state) missingParts() ([]string, error) {
	ns, err := s.openNamespace()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, netnsx.ErrNotNamespace) {
		return []string{"the namespace's name " + netnsx.Path(s.Name)}, nil
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var lacks []string
	for _, p := range s.parts(ns) {
		if err := p.missing(); err != nil {
			lacks = append(lacks, err.Error())
		}
	}
	return lacks, nil
}

// A part is something that a complete jail has.
type part struct {
	name    string
	missing func() error // says what is not as it was made
}

const (
	partLoopback = "loopback"
	partTunnel   = "tunnel"
	partSysctls  = "sysctls"
	partInbound  = "inbound"
	partRules    = "rules"
	partFiles    = "files"
	partKeeper   = "keeper"
)

// parts returns all parts of the jail, whose namespace is ns.
func (s *state) parts(ns *netnsx.Namespace) []part {
	return []part{
		{partLoopback, func() error { return checkLoopback(ns, s.Addresses) }},
		{partTunnel, func() error { return checkLink(ns, s) }},
		{partSysctls, func() error { return ns.Do(func() error { return checkSettings(settings) }) }},
		{partInbound, func() error {
			return s.checkInbound(func(open openPort) error { return checkRules(ns, s, open, inputChain) })
		}},
		{partRules, func() error { return checkRules(ns, s, openPort{}, outputChain, namesChain) }},
		{partFiles, s.checkDNS},
		{partKeeper, s.checkKeeper},
	}
}

func (s *state) checkKeeper() error {
	alive, err := held(keeperFile(s.Name))
	if err == nil && !alive {
		err = errors.New("the keeper is not running")
	}
	return err
}

// nameless finds the jail's namespace when it has lost its name: the keeper has
// it open, and programs run in it. It returns a file that stands for it, or "".
func (s *state) nameless() string {
	if s.Namespace == (netnsx.ID{}) {
		return ""
	}
	if f, err := os.Open(keeperFile(s.Name)); err == nil {
		defer f.Close()
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", holderPid(f)))
		for _, path := range open {
			if isNamespace(path, s.Namespace) {
				return path
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && inNamespace(pid, s.Namespace) {
			return dir + "/ns/net"
		}
	}
	return ""
}

// linkThere reports whether the interface is in the jail. What an interrupted
// move left there under its first name is removed.
func (m *maker) linkThere() bool {
	there := false
	withJail(m.ns, func(h *netlink.Handle) error {
		if left, err := h.LinkByName(temporaryLink(m.cfg.Name)); err == nil {
			h.LinkDel(left)
		}
		_, err := h.LinkByName(m.cfg.Name)
		there = err == nil
		return nil
	})
	return there
}
