package bench

import (
	"fmt"
	"os/exec"
	"slices"

	"github.com/wgjail/wgjail/bench/report"
)

// A plan is a candidate, or a kind of WireGuard, and what it is to do.
type plan struct {
	candidate *candidate
	backend   *backend
	work      []*workload
}

// plan decides who does what. Those that cannot run here are named with the
// reason.
func (r *runner) plan() []plan {
	var plans []plan
	for _, c := range candidates {
		// The ceiling is always measured: figures are marked by it.
		if !r.cfg.wants(c.name) && c.name != ceiling {
			continue
		}
		work := r.work(func(w *workload) bool { return !w.tunnel && !(w.udp && c.noUDP) })
		if len(work) == 0 {
			continue
		}
		why := c.missing()
		r.report.Candidates = append(r.report.Candidates, report.Candidate{Name: c.name, What: c.what, Missing: why})
		if why == "" {
			plans = append(plans, plan{candidate: c, work: work})
		}
	}
	for _, b := range backends {
		work := r.work(func(w *workload) bool { return w.tunnel })
		if !r.cfg.wants(b.name) || len(work) == 0 {
			continue
		}
		why := b.try(r.lab)
		r.report.Candidates = append(r.report.Candidates, report.Candidate{Name: b.name, What: b.what, Missing: why})
		if why == "" {
			plans = append(plans, plan{backend: b, work: work})
		}
	}
	return plans
}

// work lists the workloads that the user wants and that fit, and notes them for
// the report.
func (r *runner) work(fit func(*workload) bool) []*workload {
	var list []*workload
	for _, w := range workloadList {
		if !r.cfg.does(w) || !fit(w) {
			continue
		}
		if why := w.missing(); why != "" {
			r.once(fmt.Sprintf("%s: not done: %s", w.name, why))
			continue
		}
		list = append(list, w)
		if !slices.ContainsFunc(r.report.Workloads, func(have report.Workload) bool { return have.Name == w.name }) {
			r.report.Workloads = append(r.report.Workloads, report.Workload{Name: w.name, Title: w.name + ": " + w.title})
		}
	}
	slices.SortStableFunc(list, func(a, b *workload) int {
		switch {
		case a.fresh == b.fresh:
			return 0
		case a.fresh:
			return -1
		}
		return 1
	})
	return list
}

// missing says why a workload cannot be done here; "": it can.
func (w *workload) missing() string {
	for _, program := range w.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not installed"
		}
	}
	return ""
}

// once adds a warning, unless it is there.
func (r *runner) once(warning string) {
	if !slices.Contains(r.report.Warnings, warning) {
		r.report.Warnings = append(r.report.Warnings, warning)
	}
}
