package jail

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/wgjail/wgjail/veth"
)

// redirections returns those of the jail's living forwards in veth mode.
func redirections(name string) ([]veth.Forward, error) {
	records, err := livingRecords(name)
	var list []veth.Forward
	for _, r := range records {
		if r.Redirect != nil {
			list = append(list, *r.Redirect)
		}
	}
	return list, err
}

// inspectRules looks at the rules of the jail's forwards; nil if there are none.
func (s *state) inspectRules() (*veth.Report, error) {
	list, err := redirections(s.Name)
	if err != nil {
		return nil, err
	}
	return s.inspect(list)
}

// inspect is inspectRules for forwards that have just been listed.
func (s *state) inspect(list []veth.Forward) (*veth.Report, error) {
	for {
		if len(list) == 0 {
			return nil, nil
		}
		ns, err := s.openNamespace()
		if err != nil {
			return nil, nil // said already, and the forwards are about to end
		}
		report, err := veth.Inspect(s.vethOptions(ns, nil), list)
		ns.Close()
		if err == nil && len(report.Missing) == 0 {
			return report, nil
		}
		again, listErr := redirections(s.Name)
		if listErr != nil || len(again) == len(list) {
			return report, errors.Join(err, listErr)
		}
		list = again // one has ended meanwhile: its rules are not missing
	}
}

// missingRules says what the jail's forwards lack; see missingParts.
func (s *state) missingRules() ([]string, error) {
	report, err := s.inspectRules()
	if err != nil || report == nil {
		return nil, err
	}
	return report.Missing, nil
}

// addRules adds to a status what the rules of the jail's forwards tell.
func (st *Status) addRules(s *state) {
	var list []veth.Forward
	for _, f := range st.Forwards {
		if f.redirect != nil {
			list = append(list, *f.redirect)
		}
	}
	report, err := s.inspect(list)
	switch {
	case err != nil:
		st.State, st.Missing = StateBroken, append(st.Missing, err.Error())
	case report == nil:
		return
	case len(report.Missing) > 0:
		st.State, st.Missing = StateBroken, append(st.Missing, report.Missing...)
	}
	hidden := s.loopbackServices()
	for i := range st.Forwards {
		if f := &st.Forwards[i]; f.redirect != nil {
			f.addRules(report)
			f.Warning = loopbackOnly(hidden.Of(*f.redirect))
		}
	}
}

// loopbackServices returns those that veth mode does not reach; none if they cannot
// be listed.
func (s *state) loopbackServices() veth.LoopbackServices {
	ns, err := s.openNamespace()
	if err != nil {
		return nil
	}
	defer ns.Close()
	list, _ := veth.ListLoopbackServices(ns, s.Addresses)
	return list
}

// addRules adds what came by rules to what came by the relay.
func (f *ForwardStatus) addRules(report *veth.Report) {
	if report != nil {
		c := report.Forwards[f.redirect.ID]
		f.Active, f.Total = f.Active+c.Active, f.Total+c.Total
		f.BytesIn, f.BytesOut = f.BytesIn+c.BytesIn, f.BytesOut+c.BytesOut
		f.PacketsIn, f.PacketsOut = c.PacketsIn, c.PacketsOut
	}
}

// restoreRules puts back what is missing of the rules of forwards.
func (m *maker) restoreRules(context.Context) error {
	list, err := redirections(m.cfg.Name)
	if err != nil || len(list) == 0 {
		return err
	}
	return veth.Restore(m.state.vethOptions(m.ns, m.opts.Log), list)
}

// forgetKilledRules removes the rules of forwards that were killed, if there are
// such and nobody changes the jail.
func forgetKilledRules(name string) error {
	paths, err := filepath.Glob(filepath.Join(forwardDir(name), "*"+rulesSuffix))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if alive, err := held(path); err != nil || alive {
			continue
		}
		lock, err := lockJail(context.Background(), name, false)
		if errors.Is(err, ErrBusy) {
			return nil // another command sees to it, or the next status
		}
		if err != nil {
			return err
		}
		defer lock.Release()
		return Place{Jail: name}.forgetKilledLocked()
	}
	return nil
}
