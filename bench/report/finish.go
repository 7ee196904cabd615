package report

import (
	"fmt"
	"math"

	"github.com/wgjail/wgjail/bench/stats"
)

const (
	// tooWide is the spread from which nothing can be concluded.
	tooWide = 0.5
	// ceilingPart is how near to the generator's own ceiling a figure touches it.
	ceilingPart = 0.9
	level       = 0.95
)

// Finish computes medians, ratios and marks from the values. The candidate
// ceiling is what the load generator gives by itself.
func (r *Report) Finish(ceiling string) {
	var kept []Figure
	for _, f := range r.Figures {
		values := f.Values.Present()
		if len(values) == 0 {
			continue
		}
		s := stats.Summarise(values)
		f.Median, f.Min, f.Max = s.Median, s.Min, s.Max
		f.Wide = s.Spread() > tooWide && len(values) > 1
		kept = append(kept, f)
	}
	r.Figures = kept
	for i := range r.Figures {
		r.relate(&r.Figures[i], ceiling)
	}
	r.warn()
}

// relate compares a figure with the reference's and the ceiling's.
func (r *Report) relate(f *Figure, ceiling string) {
	if ref := r.Find(f.Workload, f.Metric, r.Reference); ref != nil && ref != f {
		if i := stats.Ratio(f.Values, ref.Values, level); !math.IsNaN(i.Value) {
			f.Ratio = &Ratio{i.Value, i.Low, i.High}
		}
	}
	top := r.Find(f.Workload, f.Metric, ceiling)
	if top != nil && top != f && f.Metric == Rate {
		f.Ceiling = f.Median >= ceilingPart*top.Median
	}
}

// Rate is the name of the metric that a ceiling limits.
const Rate = "rate"

// warn says what hinders conclusions.
func (r *Report) warn() {
	if wide, all := r.wide(); wide > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d of %d main figures differ by more than half between rounds (marked ~): too wide to conclude from; "+
			"try again on a quieter machine, or with more --rounds or a longer --duration", wide, all))
	}
	if r.Machine.OtherLoad > 0.1 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("other programs used %.0f %% of the processor time meanwhile", 100*r.Machine.OtherLoad))
	}
	if r.Rounds < 3 {
		r.Warnings = append(r.Warnings, "fewer than three rounds: intervals say nothing")
	}
}

// wide counts the main figures that say little, among all main figures.
func (r *Report) wide() (wide, all int) {
	for _, w := range r.Workloads {
		main := r.metrics(w.Name)
		for _, f := range r.Figures {
			if f.Workload == w.Name && f.Metric == main[0] {
				all++
				if f.Wide {
					wide++
				}
			}
		}
	}
	return wide, all
}

// metrics lists the metrics of a workload, in their order.
func (r *Report) metrics(workload string) []string {
	var names []string
	seen := map[string]bool{}
	for _, f := range r.Figures {
		if f.Workload == workload && !seen[f.Metric] {
			seen[f.Metric] = true
			names = append(names, f.Metric)
		}
	}
	return names
}
