package jail

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"
)

// A Watcher is told what Supervise sees. Its functions are called one at a
// time; nil ones are not called.
type Watcher struct {
	Alive    func()      // every few seconds, as long as Supervise itself works
	Repaired func(*Jail) // the jail lacked something and is whole again
	Trouble  func(error) // it could not be repaired yet; it will be tried again
}

// A keeper beats with every look (usualTempo), if it does not wait for a name server. One
// that has not for so many turns of ours is stuck. Turns are counted, not time,
// so that a machine that slept kills nobody.
const silentTurns = 9

// Supervise keeps a jail that is up in order until ctx is done: when its keeper
// has ended or is stuck, the jail is repaired under the programs inside, as Up
// does it, with cfg and opts. The error is ErrNotUp if the jail was removed.
func Supervise(ctx context.Context, j *Jail, cfg *Config, opts UpOptions, w Watcher) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.RepairOnly, opts.Started = true, time.Time{}
	s := &supervisor{name: j.Name, cfg: cfg, opts: opts, w: w, turn: usualTempo.look}
	s.reap(j)
	for {
		s.watchKeeper(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := s.repair(ctx); err != nil {
			return err
		}
	}
}

type supervisor struct {
	name string
	cfg  *Config
	opts UpOptions
	w    Watcher
	turn time.Duration
}

// reap waits for the keeper that j has started, so that its end leaves no
// zombie.
func (s *supervisor) reap(j *Jail) {
	if j.Keeper != nil {
		go j.Keeper.Wait()
	}
}

// watchKeeper returns when the jail's keeper has ended or ctx is done. A keeper
// that is stuck it ends itself.
func (s *supervisor) watchKeeper(ctx context.Context) {
	f, err := os.Open(keeperFile(s.name))
	if err != nil {
		return
	}
	defer f.Close()
	keeper, err := openPidfd(holderPid(f))
	if err != nil {
		return
	}
	defer keeper.close()
	if free(f) { // the number may be somebody else's by now
		return
	}
	last, silent := time.Time{}, 0
	for {
		s.alive()
		turn, cancel := context.WithTimeout(ctx, s.turn)
		err := keeper.wait(turn)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		silent++
		if info, err := f.Stat(); err == nil && !info.ModTime().Equal(last) {
			last, silent = info.ModTime(), 0
		}
		if silent >= silentTurns {
			s.opts.Log.Warn("the keeper is stuck and is ended", "jail", s.name)
			stopHolder(ctx, keeperFile(s.name)) // kills at once
			return
		}
	}
}

// repair tries until the jail is whole. The error is ErrNotUp.
func (s *supervisor) repair(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		s.alive()
		j, err := Up(ctx, s.cfg, s.opts)
		switch {
		case err == nil:
			s.reap(j)
			if s.w.Repaired != nil {
				s.w.Repaired(j)
			}
			return nil
		case errors.Is(err, ErrNotUp):
			return err
		case errors.Is(err, ErrUp) || ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrBusy) && s.w.Trouble != nil:
			s.w.Trouble(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (s *supervisor) alive() {
	if s.w.Alive != nil {
		s.w.Alive()
	}
}
