package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/bench/report"
)

// A runner is a run under way.
type runner struct {
	cfg       Config
	lab       *lab
	report    *report.Report
	latencies map[[2]string]*hdrhistogram.Histogram // by workload and candidate
	progress  func(Progress)
	done      int
	total     int
	used      cost // by processes that others have started
	problems  []problem
}

// Run measures. It must run in a machine of its own (internal/machine), where it
// leaves everything as it happens to be. When ctx is done it returns what it has
// until then. The error means that there is nothing to report.
func Run(ctx context.Context, cfg Config, progress func(Progress)) (*report.Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := manyFiles(); err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(runtime.NumCPU() + load.Places())
	progress(Progress{What: "building the lab"})
	before := lookAtMachine()
	lab, err := newLab()
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, lab: lab, progress: progress, latencies: map[[2]string]*hdrhistogram.Histogram{},
		report: &report.Report{Schema: report.Schema, Date: time.Now().UTC().Truncate(time.Second), Command: cfg.Command,
			DurationMS: cfg.Duration.Milliseconds(), Rounds: cfg.Rounds, Warnings: []string{}, Curves: []report.Curve{}}}
	r.rounds(ctx)
	if len(r.report.Figures) == 0 {
		return nil, r.nothing(ctx)
	}
	r.finish(ctx, before)
	return r.report, nil
}

// nothing is the error of a run without figures.
func (r *runner) nothing(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("interrupted before there was anything to report")
	}
	r.tellProblems()
	return fmt.Errorf("nothing could be measured: %s", strings.Join(r.report.Warnings, "; "))
}

// manyFiles lets this process and its children have as many files as allowed:
// forwarders hold several for each connection.
func manyFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = min(limit.Max, 20000)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // an explicit call: children inherit it
}

func (r *runner) rounds(ctx context.Context) {
	plans := r.plan()
	for _, p := range plans {
		r.total += len(p.work) * r.cfg.Rounds
	}
	r.checkers()
	for round := range r.cfg.Rounds {
		// Another one is first in each round.
		at := round % max(1, len(plans))
		for _, p := range slices.Concat(plans[at:], plans[:at]) {
			if ctx.Err() != nil {
				r.report.Interrupted = true
				return
			}
			if p.backend != nil {
				r.backendRound(ctx, p, round)
			} else {
				r.candidateRound(ctx, p, round)
			}
		}
	}
}

// candidateRound starts a candidate, puts its workloads through it, and stops it.
func (r *runner) candidateRound(ctx context.Context, p plan, round int) {
	c := p.candidate
	if r.gone(c.name) {
		r.done += len(p.work)
		return
	}
	m := &measurement{runner: r, instance: &instance{}, candidate: c.name, round: round, held: c.idle}
	switch {
	case c.kernel:
		m.held = 0
	case m.held == 0:
		m.held = idleConnections
	}
	r.say(round, c.name+" starts")
	began := time.Now()
	err := c.start(r.lab, m.instance)
	if err == nil {
		err = m.ready(ctx)
		m.took = time.Since(began)
	}
	if err == nil {
		m.rest(ctx)
		for _, w := range p.work {
			r.one(ctx, m.of(w))
		}
	} else {
		r.done += len(p.work)
	}
	if stopErr := m.stop(); stopErr != nil && err == nil {
		r.problem(c.name, "its end", stopErr)
	}
	if err != nil && ctx.Err() == nil {
		r.failed(c.name, round, err)
	}
}

// backendRound is a round of a kind of WireGuard.
func (r *runner) backendRound(ctx context.Context, p plan, round int) {
	r.say(round, p.backend.name+" WireGuard")
	done := r.done
	if err := r.roundOfTunnel(ctx, p.backend, p.work, round); err != nil && ctx.Err() == nil {
		r.problem(p.backend.name, "its jail", err)
	}
	r.done = done + len(p.work)
}

// failed notes that a candidate did not start. In the first round that is the
// reason why it is not available.
func (r *runner) failed(name string, round int, err error) {
	if round > 0 {
		r.problem(name, "its start", err)
		return
	}
	for i := range r.report.Candidates {
		if c := &r.report.Candidates[i]; c.Name == name {
			c.Missing = err.Error()
		}
	}
}

// gone says whether a candidate has turned out not to be available.
func (r *runner) gone(name string) bool {
	return slices.ContainsFunc(r.report.Candidates, func(c report.Candidate) bool { return c.Name == name && c.Missing != "" })
}

// one makes one measurement.
func (r *runner) one(ctx context.Context, m *measurement) {
	r.say(m.round, m.candidate+", "+m.workload.name)
	r.done++
	if ctx.Err() != nil {
		return
	}
	if err := m.workload.run(ctx, m); err != nil && ctx.Err() == nil {
		r.problem(m.candidate, m.workload.name, err)
	}
}

func (r *runner) say(round int, what string) {
	r.progress(Progress{Done: r.done, Total: r.total, What: fmt.Sprintf("round %d of %d: %s", round+1, r.cfg.Rounds, what)})
}

// finish turns what was measured into the report.
func (r *runner) finish(ctx context.Context, before look) {
	r.report.Interrupted = r.report.Interrupted || ctx.Err() != nil
	r.report.Machine = r.lab.describe(before, lookAtMachine(), r.used, r.cfg.Version)
	r.report.Seconds = time.Since(before.at).Round(100 * time.Millisecond).Seconds()
	r.report.Reference = reference(r.report)
	r.curves()
	r.tellProblems()
	r.report.Finish(ceiling)
	r.progress(Progress{Done: r.total, Total: r.total, What: "done"})
}
