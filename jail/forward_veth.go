package jail

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/veth"
)

// In veth mode a forward's process keeps rules that redirect its clients, and
// repairs them. Its relay serves who is not redirected: clients on the host's
// loopback, clients that may not connect, and everybody while the rules are gone.

// vethOptions describe the jail to package veth.
func (s *state) vethOptions(ns *netnsx.Namespace, log *slog.Logger) veth.Options {
	opts := veth.Options{Name: s.Name, Namespace: ns, TunnelAddrs: s.Addresses, Log: log}
	for _, a := range s.DNS {
		opts.Avoid = append(opts.Avoid, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, p := range s.Peers {
		opts.Avoid = append(opts.Avoid, p.AllowedIPs...)
	}
	return opts
}

// redirection is what rules do for spec. Its ID is not that of the forward alone:
// the connections of one that was stopped may go on beside the next one's.
func (f *Forwarder) redirection(spec ForwardSpec, allow []netip.Prefix) *veth.Forward {
	if f.opts.Mode != ModeVeth {
		return nil
	}
	return &veth.Forward{
		ID: fmt.Sprintf("%s.%d", forwardID(spec), os.Getpid()), Network: spec.Network, Listen: spec.Addr,
		First: spec.First, Last: spec.Last, Target: spec.Target, Allow: allow, Source: string(f.opts.Source),
	}
}

// redirect sets the rules of all entries.
func (f *Forwarder) redirect() error {
	if f.opts.Mode != ModeVeth {
		return nil
	}
	s, err := loadState(f.opts.Into.Jail)
	if err != nil {
		return err
	}
	var list []veth.Forward
	for _, e := range f.entries {
		if err := e.holdRules(rulesPath(f.opts.Into.Jail, e.redirect.ID)); err != nil {
			return err
		}
		list = append(list, *e.redirect)
	}
	f.veth, err = veth.Open(s.vethOptions(f.ns, f.opts.Log), list...)
	return err
}

// rulesPath is a file that is held while there may be rules, or connections, of a
// redirection. It outlives the record of a forward that was stopped.
func rulesPath(name, id string) string { return filepath.Join(forwardDir(name), id+rulesSuffix) }

const rulesSuffix = ".veth"

// keepRules watches the rules until ctx is done and then ends them: nobody new is
// redirected, and connections have the drain time to end, unless Abort is called.
// The channel is closed when nothing of them is left. Trouble goes to cancel, and
// stopped is what watch has returned.
func (f *Forwarder) keepRules(ctx context.Context, cancel context.CancelCauseFunc, stopped <-chan struct{}) <-chan struct{} {
	ended := make(chan struct{})
	if f.veth == nil {
		close(ended)
		return ended
	}
	go func() {
		defer close(ended)
		if err := f.veth.Watch(ctx); err != nil {
			cancel(fmt.Errorf("watch the rules: %w", err))
		}
		<-ctx.Done()
		<-stopped // it looks at entries, too
		var ids []string
		for _, e := range f.entries {
			e.hide()
			ids = append(ids, e.redirect.ID)
		}
		if f.ending() {
			return // down takes everything away at once
		}
		f.complain(f.veth.Remove(ids...))
		f.drain()
		f.closeRules()
	}()
	return ended
}

// complain logs what goes wrong while nobody waits for it.
func (f *Forwarder) complain(err error) {
	if err != nil {
		f.opts.Log.Error("the rules are not removed as they should be", "error", err)
	}
}

// drainTime is how long redirected connections may go on.
func (f *Forwarder) drainTime() time.Duration {
	const usual = 10 * time.Second // as in package relay
	if d := f.opts.Limits.DrainTimeout; d != 0 {
		return max(0, d)
	}
	return usual
}

// drain waits until the connections of removed forwards have ended, or must.
func (f *Forwarder) drain() {
	ctx, stop := context.WithTimeout(f.aborted, f.drainTime())
	defer stop()
	for ctx.Err() == nil {
		n, err := f.veth.Active()
		if err != nil || n == 0 {
			f.complain(err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // the table tells nobody
		}
	}
}

// endRules ends the redirection of an entry while others go on.
func (f *Forwarder) endRules(ctx context.Context, e *entry) {
	if f.veth == nil {
		return
	}
	f.complain(f.veth.Remove(e.redirect.ID))
	time.AfterFunc(f.drainTime(), func() {
		if ctx.Err() == nil { // else all end
			err := f.veth.Cut(e.redirect.ID)
			f.complain(err)
			e.letGo(err != nil)
		}
	})
}

// closeRules removes all that is left of the rules.
func (f *Forwarder) closeRules() {
	var err error
	if f.veth != nil {
		err = f.veth.Close()
		f.complain(err)
	}
	for _, e := range f.entries {
		e.letGo(err != nil)
	}
}

// activeRules returns the number of redirected connections.
func (f *Forwarder) activeRules() (n uint64) {
	if f.veth == nil {
		return 0
	}
	r, err := f.veth.Inspect()
	if err != nil {
		return 0
	}
	for _, e := range f.entries {
		if e.says.Proto == "tcp" {
			n += r.Forwards[e.redirect.ID].Active
		}
	}
	return n
}

// LoopbackOnly warns of services in a jail that veth mode does not reach, because they
// listen on the jail's loopback only. It returns "" if there are none.
func LoopbackOnly(p Place, specs []ForwardSpec) (string, error) {
	s, err := loadState(p.Jail)
	if err != nil {
		return "", err
	}
	ns, err := s.openNamespace()
	if err != nil {
		return "", err
	}
	defer ns.Close()
	var list []veth.Forward
	for _, spec := range specs {
		list = append(list, veth.Forward{Network: spec.Network, First: spec.First, Last: spec.Last, Target: spec.Target})
	}
	services, err := veth.ListLoopbackServices(ns, s.Addresses)
	return loopbackOnly(services.Of(list...)), err
}

func loopbackOnly(ports []uint16) string {
	if len(ports) == 0 {
		return ""
	}
	word := "port"
	if len(ports) > 1 {
		word = "ports"
	}
	return fmt.Sprintf("the service on %s %s listens on the jail's loopback only, where veth mode does not lead: use relay mode, or let it listen on all addresses",
		word, strings.Trim(fmt.Sprint(ports), "[]"))
}

// pruneRules removes the rules of forwards whose processes were killed.
func (p Place) pruneRules() error {
	s, err := loadState(p.Jail)
	if err != nil {
		return veth.Teardown(p.Jail, nil)
	}
	ns, err := s.openNamespace()
	if err != nil { // the pair is gone with it
		return veth.Teardown(p.Jail, nil)
	}
	defer ns.Close()
	_, err = veth.Prune(s.vethOptions(ns, nil), func(id string) bool {
		alive, err := held(rulesPath(p.Jail, id))
		return alive || err != nil
	})
	return err
}
