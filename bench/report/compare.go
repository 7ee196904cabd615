package report

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/wgjail/wgjail/bench/stats"
)

// Moved is a figure that differs from an older run's beyond noise.
type Moved struct {
	Figure   Figure  // the new one
	Before   float64 // the old median
	Change   Ratio   // new to old
	Worse    bool
	Relative *Ratio // the change against that of the anchor; nil: there is none
}

// A Comparison is of two runs.
type Comparison struct {
	Moved    []Moved
	Compared int
	Notes    []string
}

// Regressed says whether a figure has got worse.
func (c *Comparison) Regressed() bool {
	for _, m := range c.Moved {
		if m.Worse {
			return true
		}
	}
	return false
}

// leastChange is what is not worth reporting, however certain.
const leastChange = 0.05

// Compare says which figures of now have moved since before. The judged are
// those of the candidates in ours; others are peers, and not ours to answer for.
//
// Whole machines move, too: with what else they do, and from one to another. So
// a figure has moved if it has by itself, and also against the same figure of
// anchor, a candidate without a forwarder, in the same run. Both intervals are
// so wide that chance alone moves one figure of all in one comparison of twenty
// (Bonferroni), as far as the number of rounds allows.
func Compare(now, before *Report, ours []string, anchor string) (*Comparison, error) {
	c := &Comparison{}
	pairs := c.pairs(now, before, ours)
	if len(pairs) == 0 {
		return nil, errors.New("the two runs have no figure in common")
	}
	level := 1 - 0.05/float64(len(pairs))
	c.Compared = len(pairs)
	for _, p := range pairs {
		if m, ok := p.moved(level, now, before, anchor); ok {
			c.Moved = append(c.Moved, m)
		}
	}
	c.note(now, before)
	return c, nil
}

type pair struct{ now, before *Figure }

// leastRounds is how many values a judgement takes on both sides.
const leastRounds = 3

func (c *Comparison) pairs(now, before *Report, ours []string) []pair {
	mine := " " + strings.Join(ours, " ") + " "
	var pairs []pair
	few := 0
	for i := range now.Figures {
		f := &now.Figures[i]
		old := before.Find(f.Workload, f.Metric, f.Candidate)
		if old == nil || !strings.Contains(mine, " "+f.Candidate+" ") {
			continue
		}
		if min(len(f.Values.Present()), len(old.Values.Present())) < leastRounds {
			few++
			continue
		}
		pairs = append(pairs, pair{f, old})
	}
	if few > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d figures have fewer than %d rounds and were not compared", few, leastRounds))
	}
	return pairs
}

func (p pair) moved(level float64, now, before *Report, anchor string) (Moved, bool) {
	change := stats.Change(p.now.Values.Present(), p.before.Values.Present(), level)
	if !change.Excludes(1) || math.Abs(change.Value-1) < leastChange {
		return Moved{}, false
	}
	m := Moved{Figure: *p.now, Before: p.before.Median, Change: Ratio(change),
		Worse: (change.Value < 1) == (p.now.Better == Higher)}
	a, b := now.Find(p.now.Workload, p.now.Metric, anchor), before.Find(p.now.Workload, p.now.Metric, anchor)
	if a == nil || b == nil {
		return m, true
	}
	relative := stats.Change(divide(p.now.Values, a.Values), divide(p.before.Values, b.Values), level)
	if math.IsNaN(relative.Value) {
		return m, true
	}
	m.Relative = (*Ratio)(&relative)
	agree := (relative.Value < 1) == (change.Value < 1)
	return m, agree && relative.Excludes(1) && math.Abs(relative.Value-1) >= leastChange
}

// divide returns the ratios of the rounds that both have.
func divide(a, b Sample) []float64 {
	var q Sample
	for i := range min(len(a), len(b)) {
		q = append(q, a[i]/b[i])
	}
	return q.Present()
}

// note says what makes the two runs different from the start.
func (c *Comparison) note(now, before *Report) {
	for _, d := range []struct {
		what     string
		was, are any
	}{
		{"kernel", before.Machine.Kernel, now.Machine.Kernel},
		{"processor", before.Machine.CPU, now.Machine.CPU},
		{"number of cores", before.Machine.Cores, now.Machine.Cores},
		{"MTU", before.Machine.MTU, now.Machine.MTU},
		{"duration", before.DurationMS, now.DurationMS},
	} {
		if d.was != d.are {
			c.Notes = append(c.Notes, fmt.Sprintf("the %s was %v and is %v", d.what, d.was, d.are))
		}
	}
}

// Text writes the comparison for people.
func (c *Comparison) Text(w io.Writer) error {
	var b strings.Builder
	worse := 0
	for _, m := range c.Moved {
		word := "better"
		if m.Worse {
			word = "WORSE"
			worse++
		}
		fmt.Fprintf(&b, "%-6s  %s, %s, %s: %s, was %s %s: %+.0f %% (%+.0f to %+.0f)\n", word,
			m.Figure.Candidate, m.Figure.Workload, m.Figure.Metric, Number(m.Figure.Median), Number(m.Before), m.Figure.Unit,
			percent(m.Change.Value), percent(m.Change.Low), percent(m.Change.High))
	}
	fmt.Fprintf(&b, "%d figures compared: %d worse, %d better, the others the same within noise\n", c.Compared, worse, len(c.Moved)-worse)
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func percent(ratio float64) float64 { return 100 * (ratio - 1) }
