package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// StopForwards ends the forwards into p that listen where specs say, or all of
// them if there are no specs, and returns their IDs. Their ports are free when
// it returns; connections may go on for a while. The error names the first spec
// that is not forwarded; the others are stopped all the same.
func StopForwards(ctx context.Context, p Place, specs []ForwardSpec) ([]string, error) {
	if p.Jail != "" && missing(stateDir(p.Jail)) {
		return nil, notUp(p.Jail)
	}
	if err := p.forgetKilled(ctx); err != nil {
		return nil, err
	}
	defer p.forgetEmpty() // whoever is last, this or the forward's process
	dir := forwardDir(p.register())
	var ids []string
	for _, s := range specs {
		ids = append(ids, forwardID(s))
	}
	if len(specs) == 0 {
		all, err := forwardsIn(p.register())
		if err != nil {
			return nil, err
		}
		for _, f := range all {
			if f.Mode != ProxyMode {
				ids = append(ids, f.ID)
			}
		}
	}
	return stopEntries(ctx, dir, ids, func(i int) error {
		if len(specs) == 0 {
			return nil // it has just ended by itself
		}
		return hint.Wrap(fmt.Errorf("%s is not forwarded %s %s", specs[i], direction(specs[i]), p), "see what is: wgjail status")
	})
}

// stopEntries ends the entries with these IDs and returns the IDs of those that
// it has ended. absent is the error for the one with that index if it does not
// live.
func stopEntries(ctx context.Context, dir string, ids []string, absent func(int) error) ([]string, error) {
	var stopped []string
	var errs []error
	for i, id := range ids {
		path := filepath.Join(dir, id+".json")
		if alive, err := held(path); err != nil || !alive {
			errs = append(errs, err, absent(i))
			continue
		}
		if err := stopForward(ctx, path); err != nil {
			errs = append(errs, fmt.Errorf("stop forward %s: %w", id, err))
			continue
		}
		stopped = append(stopped, id)
	}
	return stopped, errors.Join(errs...)
}

func direction(s ForwardSpec) string {
	if s.Reverse {
		return "out of"
	}
	return "into"
}

// stopForward takes the record away and waits until its process has noticed. A
// process that does not is ended.
func stopForward(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := removeFile(path); err != nil {
		return err
	}
	polite, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if waitFree(polite, f) == nil {
		return removeFile(statsPath(path))
	}
	if pid := holderPid(f); pid > 0 && !free(f) {
		unix.Kill(pid, unix.SIGKILL)
	}
	return errors.Join(waitFree(ctx, f), removeFile(statsPath(path)))
}

const (
	soon     = 50 * time.Millisecond // for connections to end by themselves
	patience = 5 * time.Second       // for a process to undo its rules: with many at once iptables takes its time
)

// stopForwards ends every forward into the jail, connections included: the
// first SIGTERM lets them end, the second does not.
func stopForwards(ctx context.Context, name string) error {
	paths, err := filepath.Glob(filepath.Join(forwardDir(name), "*.json"))
	if err != nil {
		return err
	}
	// The processes say why they end. Where there is no room for it they do not.
	os.WriteFile(endingPath(name), nil, 0o600)
	errs := []error{}
	for _, path := range paths {
		wake(path) // one that is stopped may have a lock that another one needs to end
	}
	for _, path := range paths {
		errs = append(errs, stopHolder(ctx, path, soon, patience), removeFile(path), removeFile(statsPath(path)))
	}
	rules, err := filepath.Glob(filepath.Join(forwardDir(name), "*"+rulesSuffix))
	for _, path := range rules { // of forwards that were stopped, whose connections go on
		errs = append(errs, stopHolder(ctx, path, soon, patience))
	}
	return errors.Join(append(errs, err, removeFile(endingPath(name)))...)
}

// endingPath is a file that is there while the jail's forwards are ended with
// it.
func endingPath(name string) string { return filepath.Join(stateDir(name), "ending") }

// ending reports whether the forward is ended because its jail is removed.
func (f *Forwarder) ending() bool {
	return f.opts.Into.Jail != "" && !missing(endingPath(f.opts.Into.Jail))
}

// forgetKilled removes what forwards into p that were killed left in the
// register.
func (p Place) forgetKilled(ctx context.Context) error {
	lock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	return p.forgetKilledLocked()
}

// forgetKilledLocked is forgetKilled for those who hold the place's lock:
// without it, a new forward could be taken for the killed one.
func (p Place) forgetKilledLocked() error {
	paths, err := filepath.Glob(filepath.Join(forwardDir(p.register()), "*"))
	if err != nil {
		return err
	}
	var left []string
	rules := false
	for _, path := range paths {
		record := strings.TrimSuffix(path, ".stats")
		if record != path {
			record += ".json"
		}
		if alive, err := held(record); err == nil && !alive {
			left = append(left, path)
			rules = rules || strings.HasSuffix(path, rulesSuffix)
		}
	}
	if rules {
		if err := p.pruneRules(); err != nil {
			return err // the files tell what is left to do
		}
	}
	var errs []error
	for _, path := range left {
		errs = append(errs, removeFile(path))
	}
	p.forgetEmpty()
	if p.Jail != "" {
		ns, _, err := ownNamespace(p.Jail)
		errs = append(errs, err)
		if ns != nil {
			errs = append(errs, forgetClientWay(p.Jail, ns))
			ns.Close()
		}
	}
	return errors.Join(errs...)
}

// watch starts a goroutine that ends forwards whose record is taken away, and
// all of them, through cancel, when the place is gone. The channel is closed
// when the goroutine has ended.
func (f *Forwarder) watch(ctx context.Context, cancel context.CancelCauseFunc) (<-chan struct{}, error) {
	file := f.opts.Into.Path
	if file == "" {
		file = netnsx.Path(f.opts.Into.Jail)
	}
	events, err := watchDirs(filepath.Dir(file), forwardDir(f.opts.Into.register()))
	if err != nil {
		return nil, err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer events.Close()
		stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		for ctx.Err() == nil {
			if !f.placeThere(file) {
				cancel(ErrGone)
				f.Abort() // what is connected is connected to nothing
				return
			}
			if f.dropStopped(ctx) == 0 {
				cancel(ErrStopped)
				return
			}
			waitEvent(ctx, events)
		}
	}()
	return stopped, nil
}

// placeThere reports whether file still names the namespace. A file that cannot
// be looked at is there as long as the process whose file it is.
func (f *Forwarder) placeThere(file string) bool {
	ns, err := netnsx.Open(file)
	if errors.Is(err, os.ErrPermission) && f.process >= 0 {
		return f.process.alive()
	}
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == f.ns.ID()
}

// dropStopped ends the forwards whose record is gone and returns how many are
// left.
func (f *Forwarder) dropStopped(ctx context.Context) int {
	left := 0
	for _, e := range f.entries {
		if e.record == nil {
			continue
		}
		if filelock.Names(e.path, e.record) {
			left++
			continue
		}
		for _, l := range e.listeners {
			l.Close()
		}
		f.endRules(ctx, e)
		f.opts.Log.Info("forward stopped", "listen", e.says.Listen, "proto", e.says.Proto)
		e.remove()
	}
	return left
}

// watchDirs returns a file that becomes readable when a name in one of the
// folders changes (inotify(7)). Folders of procfs do not tell.
func watchDirs(dirs ...string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	for _, dir := range dirs {
		const mask = unix.IN_DELETE | unix.IN_CREATE | unix.IN_MOVE | unix.IN_ATTRIB | unix.IN_DELETE_SELF
		if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
			unix.Close(fd)
			return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
		}
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// waitEvent waits for something to look at: an event, or two seconds, since
// not every place sends events.
func waitEvent(ctx context.Context, events *os.File) {
	events.SetReadDeadline(time.Now().Add(2 * time.Second))
	if ctx.Err() != nil { // its end may have come between
		return
	}
	var buf [4096]byte
	events.Read(buf[:])
}
