package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/veth"
)

// DownOptions say how to remove a jail.
type DownOptions struct {
	Kill bool         // end the programs inside
	Log  *slog.Logger // told each step, at debug level; nil is silent
}

// A DownReport says what Down found.
type DownReport struct {
	Existed bool      // there was something to remove
	Inside  []Process // programs that still run, without any network
}

// Down removes the jail called name and everything that was made for it: its
// forwards, keeper, interface, rules, namespace name and files. It needs nothing
// but the name, goes on past errors, and is not surprised by anything that is
// missing: the same call ends a healthy jail, a half-made one and one whose
// processes were killed.
//
// Programs inside go on, in a namespace that has only lo, unless Kill is set.
func Down(ctx context.Context, name string, opts DownOptions) (*DownReport, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := OnHost(); err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockJail(ctx, name, true)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	report := &DownReport{Existed: !missing(stateDir(name)) || !missing(dnsDir(name)) && dnsOwner(name) == nil}
	var errs []error
	ns, _, err := ownNamespace(name)
	if err != nil {
		return report, err
	}
	if ns != nil {
		defer ns.Close()
		if opts.Kill {
			errs = append(errs, killInside(ctx, ns))
		}
	}
	errs = append(errs, teardown(ctx, name, log))
	if ns != nil {
		inside, err := Processes(ns)
		report.Inside = inside
		errs = append(errs, err)
	}
	return report, errors.Join(errs...)
}

// ownNamespace opens the jail's namespace, or returns nil if there is none, or
// none that is ours. named tells whether the jail's name still stands for it: if
// not, only what runs inside keeps it. The error says that it may be there.
func ownNamespace(name string) (ns *netnsx.Namespace, named bool, err error) {
	if missing(stateDir(name)) {
		return nil, false, nil
	}
	s, err := loadState(name)
	if err != nil {
		s = &state{Name: name, Namespace: savedNamespace(name)}
	}
	ns, err = s.openNamespace()
	if err == nil {
		return ns, true, nil
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, netnsx.ErrNotNamespace) && !errors.Is(err, errReplaced) {
		return nil, false, err
	}
	ns, err = netnsx.Open(s.nameless())
	if err != nil || ns.ID() != s.Namespace {
		return nil, false, nil
	}
	return ns, false, nil
}

// savedNamespace reads the one thing that even a state of another version is
// asked for. If it is damaged, that is no namespace, and the folder alone says
// that the name is ours.
func savedNamespace(name string) netnsx.ID {
	var s struct {
		Namespace netnsx.ID `json:"namespace"`
	}
	if data, err := readOwned(statePath(name)); err != nil || json.Unmarshal(data, &s) != nil {
		return netnsx.ID{}
	}
	return s.Namespace
}

// teardown is the one way in which a jail ends. The caller holds its lock.
func teardown(ctx context.Context, name string, log *slog.Logger) error {
	step := func(what string) { log.Debug("step", "do", what, "jail", name) }
	var errs []error
	try := func(what string, do func() error) {
		step(what)
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	s, stateErr := loadState(name)
	ours := !missing(stateDir(name))
	ns, named, nsErr := ownNamespace(name)
	try("open the namespace", func() error { return nsErr })
	if ns != nil {
		defer ns.Close()
	}
	if ours {
		try("stop forwards", func() error { return stopForwards(ctx, name) })
	}
	if !rootless() { // who cannot make any of it cannot look for it either
		try("remove what forwards redirect with", func() error { return veth.Teardown(name, ns) })
	}
	if ours {
		if named && stateErr == nil {
			try("run PreDown", func() error { return s.runHooks(ctx, preDown) })
		}
		if ns != nil {
			try("remove the routes for clients' addresses", func() error { return forgetClientWay(name, ns) })
		}
		try("stop the keeper", func() error { return stopHolder(ctx, keeperFile(name), 2*time.Second) })
		try("remove the interface", func() error { return removeLinks(ns, name) })
		if named && stateErr == nil {
			try("run PostDown", func() error { return s.runHooks(ctx, postDown) })
		}
		try("remove the control socket", func() error { return removeUAPI(name) })
		if named || damagedName(name) {
			try("remove the namespace's name", func() error { return netnsx.Remove(name) })
		}
	}
	try("remove resolv.conf", func() error { return removeDNS(name, ours, s != nil && s.DNSFolder) })
	if len(errs) == 0 {
		try("remove the state", func() error { return os.RemoveAll(stateDir(name)) })
	}
	try("remove shared folders", cleanShared)
	return errors.Join(errs...)
}

// damagedName reports whether the jail's name is there without a namespace, as
// a crash between making the file and mounting it leaves it.
func damagedName(name string) bool {
	_, err := netnsx.OpenNamed(name)
	return errors.Is(err, netnsx.ErrNotNamespace)
}

// removeLinks removes the jail's interface from the jail, so that programs
// which stay have nothing but lo, and from the host, if it never got inside.
func removeLinks(ns *netnsx.Namespace, name string) error {
	errs := []error{removeBirthLink(name)}
	if ns == nil {
		return errors.Join(errs...)
	}
	errs = append(errs, withJail(ns, func(h *netlink.Handle) error {
		return errors.Join(removeLink(h, name), removeLink(h, temporaryLink(name)))
	}))
	return errors.Join(errs...)
}

func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkDel(link)
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

// removeUAPI removes the control socket that a killed keeper left.
func removeUAPI(name string) error {
	if uapiFree(name) != nil {
		return nil // somebody else's, and alive
	}
	return removeFile(uapiPath(name))
}

// killInside ends the programs in the namespace: politely, then not.
func killInside(ctx context.Context, ns *netnsx.Namespace) error {
	const patience = 5 * time.Second
	polite, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for signal := unix.SIGTERM; ; signal = unix.SIGKILL {
		inside, err := Processes(ns)
		if err != nil || len(inside) == 0 {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var files []pidfd
		for _, p := range inside {
			if f, err := openPidfd(p.PID); err == nil {
				f.signal(signal)
				files = append(files, f)
			}
		}
		until := polite
		if signal == unix.SIGKILL {
			until = ctx
		}
		for _, f := range files {
			f.wait(until)
			f.close()
		}
	}
}
