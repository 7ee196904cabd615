package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/relay"
	"github.com/wgjail/wgjail/veth"
)

// ForwardOptions say what a forward process serves.
type ForwardOptions struct {
	Into   Place
	Specs  []ForwardSpec
	To     netip.Addr     // inside; zero: the jail's loopback, then its addresses. On the host, if Specs are reverse; zero: its loopback
	Allow  []netip.Prefix // nil: the LAN (see LAN), or the jail itself, if Specs are reverse
	Anyone bool           // serve every client, whatever Allow says
	Mode   Mode           // "" is ModeRelay
	Limits relay.Limits
	Log    *slog.Logger

	// Source is whom services see; "" is SourceJail with ModeRelay, SourceClient
	// with ModeVeth. SourceClient is for TCP, or with ModeVeth for UDP as well,
	// into a jail. Addresses of which there may be another inside, loopback and
	// link-local IPv6 ones, are not shown: SourceJail holds for those clients.
	Source Source
	Proxy  relay.ProxyProtocol // tells services about their clients; zero does not
}

// A Forwarder is a forward process in the making: its ports are bound.
type Forwarder struct {
	opts    ForwardOptions
	ns      *netnsx.Namespace
	process pidfd // of which Into.Path is a file; -1 if it is none of a process
	relay   *relay.Relay
	veth    *veth.Veth // nil unless in veth mode
	entries []*entry
	proxies proxies
	client  *clientWay // nil unless services see their clients

	aborted context.Context // done when connections are to end at once
	abort   context.CancelFunc
}

// OpenForward binds the ports of every spec, sets their rules in veth mode, and
// registers them. Nothing is served before Serve, but clients may connect. If one
// port cannot be bound none is.
func OpenForward(ctx context.Context, opts ForwardOptions) (*Forwarder, error) {
	if opts.reverse() {
		return open(ctx, opts, (*Forwarder).bindReverse)
	}
	return open(ctx, opts, (*Forwarder).bind)
}

// open prepares a forward process and has bind bind its ports.
func open(ctx context.Context, opts ForwardOptions, bind func(*Forwarder) error) (*Forwarder, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := opts.settle(); err != nil {
		return nil, err
	}
	if err := OnHost(); err != nil {
		return nil, err
	}
	f := &Forwarder{opts: opts, process: -1}
	f.aborted, f.abort = context.WithCancel(context.Background())
	lock, err := opts.Into.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if f.ns, err = opts.Into.open(); err != nil {
		return nil, err
	}
	f.process = opts.Into.process()
	if err := opts.Into.forgetKilledLocked(); err != nil {
		f.Close()
		return nil, err
	}
	f.relay = &relay.Relay{Enter: f.ns.Enter, Log: opts.Log, Limits: opts.Limits}
	for _, step := range []func(*Forwarder) error{bind, (*Forwarder).redirect, (*Forwarder).publish} {
		if err := step(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// Serve serves until ctx is done, the place is removed, or every forward has
// been stopped; then connections have Limits.DrainTimeout to end. ready is
// called when every worker is inside and all ports are served; by then the
// process has lost, for good, every capability that it does not need any more.
// The error is ErrGone if the place was removed, and ErrStopped if StopForwards ended it.
func (f *Forwarder) Serve(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped, err := f.watch(ctx, cancel)
	if err != nil {
		f.Close()
		return err
	}
	go func() {
		select {
		case <-f.relay.Ready():
			if err := f.shed(); err != nil {
				cancel(err)
				return
			}
			ready()
		case <-ctx.Done():
		}
	}()
	proxied := f.proxies.serve(ctx, f.relay.Ready())
	ended := f.keepRules(ctx, cancel, stopped)
	err = f.relay.Serve(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-proxied
	<-stopped
	<-ended
	gone := errors.Is(cause, ErrGone) || f.ending()
	f.unregister()
	switch {
	case err != nil:
		return err
	case gone:
		return fmt.Errorf("%s %w", f.opts.Into, ErrGone)
	case errors.Is(cause, context.Canceled):
		return nil
	}
	return cause
}

// Active returns the number of open connections.
func (f *Forwarder) Active() (n uint64) {
	for _, e := range f.entries {
		if e.says.Proto != "udp" {
			n += e.stats.Load().Active
		}
	}
	return n + f.activeRules()
}

// Abort ends connections at once; Serve returns soon.
func (f *Forwarder) Abort() {
	f.abort()
	f.relay.Close()
}

// Close undoes OpenForward, if Serve is not called.
func (f *Forwarder) Close() {
	if f.relay != nil {
		f.relay.Close()
	}
	f.proxies.close()
	f.closeRules()
	f.unregister()
	if f.ns != nil {
		f.ns.Close()
	}
	if f.process >= 0 {
		f.process.close()
	}
}

// ErrGone is the error of a forward whose namespace is removed.
var ErrGone = errors.New("was removed: the forward has ended")

// ErrStopped is the error of a forward that was ended by StopForwards.
var ErrStopped = errors.New("the forward was stopped")

// ForwardLog opens the file that forwards in the background write to. It is
// removed with the jail; for a namespace that is not a jail there is none.
func ForwardLog(p Place) (*os.File, error) {
	if p.Jail == "" {
		return nil, nil
	}
	path := filepath.Join(stateDir(p.Jail), "forward.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notUp(p.Jail)
	}
	return f, err
}
