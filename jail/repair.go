package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// repair puts back what is missing of a jail that is up. Nothing is removed,
// and a failure leaves things as they are: programs may run inside.
func (m *maker) repair(ctx context.Context, before *state) (*Jail, error) {
	name := m.cfg.Name
	if differs(before, newState(m.cfg, before.Backend)) {
		return nil, hint.Wrap(fmt.Errorf("jail %s is up with another configuration", name),
			"apply the new one with: wgjail down %s, then up again", name)
	}
	if b := m.opts.Backend; b != "" && b != Auto && b != before.Backend {
		return nil, hint.Wrap(fmt.Errorf("jail %s is up with the %s backend", name, before.Backend),
			"change it with: wgjail down %s, then up again", name)
	}
	lacks, err := before.missingParts()
	if err != nil {
		return nil, err
	}
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
	m.state.Namespace, m.state.Complete, m.state.Hooks = before.Namespace, before.Complete, nil
	j, err := m.make(ctx)
	if err != nil {
		if m.keeper != nil {
			m.keeper.Abandon()
		}
		return nil, err
	}
	j.Repaired = lacks
	m.state.Hooks = before.Hooks // PreUp and PostUp have run; PreDown has not
	return j, m.state.save()
}

// differs reports whether the two jails are not of one configuration.
func differs(a, b *state) bool {
	configured := func(s *state) state {
		c := state{Addresses: s.Addresses, DNS: s.DNS, Search: s.Search, Routes: s.Routes}
		for _, p := range s.Peers {
			p.Endpoint, p.AllowedIPs = a.Peers[0].Endpoint, append(p.AllowedIPs[:0:0], p.AllowedIPs...)
			c.Peers = append(c.Peers, p)
		}
		return c
	}
	return len(a.Peers) != len(b.Peers) || !reflect.DeepEqual(normal(configured(a)), normal(configured(b)))
}

// normal makes empty lists nil, as which JSON brings them back or not.
func normal(s state) state {
	if len(s.DNS) == 0 {
		s.DNS = nil
	}
	if len(s.Search) == 0 {
		s.Search = nil
	}
	if len(s.Routes) == 0 {
		s.Routes = nil
	}
	for i := range s.Peers {
		if len(s.Peers[i].AllowedIPs) == 0 {
			s.Peers[i].AllowedIPs = nil
		}
	}
	return s
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
		return nil, hint.Wrap(fmt.Errorf("network namespace %s is not the one that wgjail made: someone has replaced it", s.Name),
			"remove the jail with: wgjail down %s", s.Name)
	}
	return ns, nil
}

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
	for _, err := range []error{
		checkLink(ns, s),
		ns.Do(func() error { return checkSettings(settings) }),
		checkRules(ns, s.DNS),
		s.checkDNS(),
	} {
		if err != nil {
			lacks = append(lacks, err.Error())
		}
	}
	alive, err := held(keeperFile(s.Name))
	if err != nil {
		return nil, err
	}
	if !alive {
		lacks = append(lacks, "the keeper is not running")
	}
	return lacks, nil
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
