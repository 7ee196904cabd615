package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/bench/report"
)

// A measurement is one workload, put through one candidate, in one round.
type measurement struct {
	*runner
	*instance
	workload  *workload
	candidate string
	round     int
	held      int // connections that the candidate's processes can hold idle
}

// add notes a value.
func (m *measurement) add(metric, unit string, better report.Better, value float64) {
	m.report.Add(report.Figure{Workload: m.workload.name, Metric: metric, Unit: unit, Better: better, Candidate: m.candidate},
		m.round, value)
}

// A bill is what a window has cost.
type bill struct{ forwarder, everything cost }

// drive runs a kind of load, and says what it has cost.
func (m *measurement) drive(ctx context.Context, kind func(context.Context, load.Window) (load.Result, error)) (load.Result, bill, error) {
	type state struct{ forwarder, own cost }
	var before, after state
	w := load.Window{Warm: min(m.cfg.Duration/4, 250*time.Millisecond), Length: m.cfg.Duration, Look: func() {
		before, after = after, state{groupCost(m.group()), ownCost()}
	}}
	r, err := kind(ctx, w)
	if err != nil {
		return r, bill{}, err
	}
	m.settle(ctx)
	forwarder := after.forwarder.minus(before.forwarder)
	return r, bill{forwarder, forwarder.plus(after.own.minus(before.own))}, nil
}

// settle waits until the connections of a measurement have ended, so that the
// next one has the machine to itself.
func (m *measurement) settle(ctx context.Context) {
	for end := time.Now().Add(2 * time.Second); m.server.Open() > 0 && ctx.Err() == nil && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// cost notes a bill per n units of work, in the unit, of which a second has
// scale. Where there is no forwarder, or the kernel is it, there is only what
// everything together has cost: client, kernel, forwarder and server.
func (m *measurement) cost(b bill, n float64, unit string, scale float64) {
	if n == 0 {
		return
	}
	per := func(t time.Duration) float64 { return t.Seconds() / n * scale }
	m.add("CPU", unit, report.Lower, per(b.everything.exact))
	if m.group() != 0 {
		m.add("forwarder", unit, report.Lower, per(b.forwarder.exact))
		m.add("user", unit, report.Lower, per(b.forwarder.user()))
		m.add("system", unit, report.Lower, per(b.forwarder.system()))
	}
}

// latency notes percentiles in microseconds, and keeps the distribution.
func (m *measurement) latency(h *hdrhistogram.Histogram) {
	if h.TotalCount() == 0 {
		return
	}
	for _, p := range []struct {
		name string
		at   float64
	}{{"p50", 50}, {"p99", 99}, {"p99.9", 99.9}} {
		m.add(p.name, "µs", report.Lower, float64(h.ValueAtQuantile(p.at))/1000)
	}
	m.keep(h)
}

// keep adds a round's latencies to those of the rounds before.
func (m *measurement) keep(h *hdrhistogram.Histogram) {
	key := [2]string{m.workload.name, m.candidate}
	if m.latencies[key] == nil {
		m.latencies[key] = h
		return
	}
	m.latencies[key].Merge(h)
}

// curvePoints are the percentiles that a curve shows.
var curvePoints = []float64{1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

// curves turns what keep has kept into the report's curves.
func (r *runner) curves() {
	for _, w := range workloadList {
		for _, c := range r.report.Candidates {
			h := r.latencies[[2]string{w.name, c.Name}]
			if h == nil {
				continue
			}
			curve := report.Curve{Workload: w.name, Candidate: c.Name}
			for _, p := range curvePoints {
				if float64(h.TotalCount())*(100-p)/100 >= 1 { // else it is the maximum
					curve.Points = append(curve.Points, report.Point{Percentile: p, Microseconds: float64(h.ValueAtQuantile(p)) / 1000})
				}
			}
			r.report.Curves = append(r.report.Curves, curve)
		}
	}
}

func perSecond(n uint64, t time.Duration) float64 { return float64(n) / t.Seconds() }

// A problem is why a measurement gave nothing, in some rounds.
type problem struct {
	candidate, what string
	err             error // of the first
	rounds          int
}

// problem notes that a measurement gave nothing in a round.
func (r *runner) problem(candidate, what string, err error) {
	for i := range r.problems {
		if p := &r.problems[i]; p.candidate == candidate && p.what == what {
			p.rounds++
			return
		}
	}
	r.problems = append(r.problems, problem{candidate, what, err, 1})
}

// tellProblems puts them into the report.
func (r *runner) tellProblems() {
	for _, p := range r.problems {
		r.once(fmt.Sprintf("%s, %s: in %d of %d rounds: %v", p.candidate, p.what, p.rounds, r.cfg.Rounds, p.err))
	}
}
