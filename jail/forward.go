package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/relay"
)

// ForwardOptions say what a forward process serves.
type ForwardOptions struct {
	Into   Place
	Specs  []ForwardSpec
	To     netip.Addr     // inside; zero: the jail's loopback, then its addresses
	Allow  []netip.Prefix // nil: the LAN; see LAN
	Anyone bool           // serve every client, whatever Allow says
	Limits relay.Limits
	Log    *slog.Logger
}

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

// A Forwarder is a forward process in the making: its ports are bound.
type Forwarder struct {
	opts    ForwardOptions
	ns      *netnsx.Namespace
	relay   *relay.Relay
	entries []*entry
}

// OpenForward binds the ports of every spec and registers them. Nothing is
// served before Serve, but clients may connect. If one port cannot be bound
// none is.
func OpenForward(ctx context.Context, opts ForwardOptions) (*Forwarder, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	f := &Forwarder{opts: opts}
	lock, err := opts.Into.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	if f.ns, err = opts.Into.open(); err != nil {
		return nil, err
	}
	if err := opts.Into.forgetKilledLocked(); err != nil {
		return nil, err
	}
	f.relay = &relay.Relay{Enter: f.ns.Enter, Log: opts.Log, Limits: opts.Limits}
	if err := f.bind(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock keeps the jail from going away while a forward registers itself.
func (p Place) lock(ctx context.Context) (*fileLock, error) {
	return lockJail(ctx, p.register(), true)
}

// open opens the namespace; a jail must be up.
func (p Place) open() (*netnsx.Namespace, error) {
	if p.Jail == "" {
		ns, err := netnsx.Open(p.Path)
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

// bind binds and registers every spec.
func (f *Forwarder) bind() error {
	allow, err := f.allow()
	if err != nil {
		return err
	}
	dial, err := f.opts.Into.dialPlan(f.ns, f.opts.To)
	if err != nil {
		return err
	}
	for i, spec := range f.opts.Specs {
		if slices.ContainsFunc(f.opts.Specs[:i], func(s ForwardSpec) bool { return hostPorts(s) == hostPorts(spec) }) {
			return fmt.Errorf("forward %q: the port is given twice", spec)
		}
		e, err := newEntry(f.opts.Into, spec, dial, allow)
		if err != nil {
			return err
		}
		f.entries = append(f.entries, e)
		if err := f.listen(e, dial); err != nil {
			return err
		}
	}
	return nil
}

func (f *Forwarder) allow() ([]netip.Prefix, error) {
	if f.opts.Anyone {
		return nil, nil
	}
	if len(f.opts.Allow) > 0 {
		return f.opts.Allow, nil
	}
	return LAN()
}

// listen binds every port of the entry, in both families unless it names an
// address.
func (f *Forwarder) listen(e *entry, dial dialPlan) error {
	addrs := []netip.Addr{e.spec.Addr}
	if !e.spec.Addr.IsValid() {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for i := 0; i <= int(e.spec.Last-e.spec.First); i++ {
		for _, a := range addrs {
			at := netip.AddrPortFrom(a, e.spec.First+uint16(i))
			l, err := f.relay.Listen(relay.Forward{
				Network: e.spec.Network, Listen: at,
				Targets: dial.targets(e.spec.Target + uint16(i)), Source: dial.source,
				Allow: e.allow, Stats: e.stats,
			})
			if len(addrs) == 2 && a.Is6() && errors.Is(err, syscall.EAFNOSUPPORT) {
				continue // a host without IPv6
			}
			if err != nil {
				return bindError(at, e.spec.Network, err)
			}
			e.listeners = append(e.listeners, l)
		}
	}
	return nil
}

func bindError(at netip.AddrPort, network string, err error) error {
	wrapped := fmt.Errorf("listen on %s port %d/%s: %w", at.Addr(), at.Port(), network, errnoOf(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint.Wrap(wrapped, "another program has the port (see: ss -lnp 'sport = :%d'); choose another one with: wgjail forward OTHER:%d", at.Port(), at.Port())
	case errors.Is(err, syscall.EACCES):
		return hint.Wrap(wrapped, "ports below 1024 need root, or a lower net.ipv4.ip_unprivileged_port_start")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return hint.Wrap(wrapped, "the host has no such address (see: ip address)")
	case errors.Is(err, syscall.EMFILE):
		return hint.Wrap(wrapped, "a forward needs open files, two for each port and more for clients: raise the limit (ulimit -Hn), or forward fewer ports")
	}
	return wrapped
}

// errnoOf returns the system's error in err: the rest is said already.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// Serve serves until ctx is done, the place is removed, or every forward has
// been stopped; then connections have Limits.DrainTimeout to end. ready is
// called when every worker is inside and all ports are served. The error is
// ErrGone if the place was removed, and ErrStopped if StopForwards ended it.
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
			ready()
		case <-ctx.Done():
		}
	}()
	err = f.relay.Serve(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-stopped
	gone := errors.Is(cause, ErrGone) || f.opts.Into.Jail != "" && !missing(endingPath(f.opts.Into.Jail))
	f.unregister()
	switch {
	case err != nil:
		return err
	case gone:
		return fmt.Errorf("%s %w", f.opts.Into, ErrGone)
	case errors.Is(cause, ErrStopped):
		return ErrStopped
	}
	return nil
}

// Active returns the number of open connections.
func (f *Forwarder) Active() (n uint64) {
	for _, e := range f.entries {
		if e.spec.Network == "tcp" {
			n += e.stats.Load().Active
		}
	}
	return n
}

// Abort ends connections at once; Serve returns soon.
func (f *Forwarder) Abort() { f.relay.Close() }

// Close undoes OpenForward, if Serve is not called.
func (f *Forwarder) Close() {
	if f.relay != nil {
		f.relay.Close()
	}
	f.unregister()
	if f.ns != nil {
		f.ns.Close()
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
