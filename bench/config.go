package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/hint"
)

// Config says what to measure.
type Config struct {
	Version   string        // of wgjail
	Command   string        // how the user called it, for the report
	Modes     []string      // names of candidates; none: all
	Workloads []string      // names of workloads; none: all but those that only check the generator
	Duration  time.Duration // of each measurement; at least a millisecond
	Rounds    int           // at least one
}

// Progress says how far a run is.
type Progress struct {
	Done, Total int
	What        string // is being measured
}

// Names lists the candidates and the workloads that there are, for help texts.
func Names() (modes, workloads []string) {
	for _, c := range candidates {
		modes = append(modes, c.name)
	}
	for _, b := range backends {
		modes = append(modes, b.name)
	}
	for _, w := range workloadList {
		workloads = append(workloads, w.name)
	}
	return modes, workloads
}

// Check reports what is wrong with a Config.
func (c *Config) Check() error {
	modes, workloads := Names()
	if err := known("mode", c.Modes, modes); err != nil {
		return err
	}
	if err := known("workload", c.Workloads, workloads); err != nil {
		return err
	}
	if c.Duration < 10*time.Millisecond || c.Duration > time.Hour {
		return fmt.Errorf("a measurement of %v: it must take between 10ms and an hour", c.Duration)
	}
	if c.Rounds < 1 || c.Rounds > 1000 {
		return fmt.Errorf("%d rounds: there must be between 1 and 1000", c.Rounds)
	}
	return nil
}

func known(what string, given, names []string) error {
	for _, g := range given {
		if !slices.Contains(names, g) {
			return hint.Wrap(fmt.Errorf("unknown %s %q", what, g), "there are %s", strings.Join(names, ", "))
		}
	}
	return nil
}

// wants says whether the user wants a candidate.
func (c *Config) wants(name string) bool {
	return len(c.Modes) == 0 || slices.Contains(c.Modes, name)
}

// does says whether the user wants a workload.
func (c *Config) does(w *workload) bool {
	if len(c.Workloads) == 0 {
		return !w.check
	}
	return slices.Contains(c.Workloads, w.name)
}

// Ours are the candidates that a comparison judges: those that are wgjail.
func Ours() []string {
	var names []string
	for _, c := range candidates {
		if c.ours {
			names = append(names, c.name)
		}
	}
	for _, b := range backends {
		names = append(names, b.name)
	}
	return names
}

// Anchor is the candidate that moves with the machine, and not with wgjail.
const Anchor = "native"

// ceiling is the candidate that shows what the load generator gives by itself:
// client and server in one namespace.
const ceiling = "generator"

// references are the candidates that ratios may be to, the best first.
var references = []string{"relay", "veth", "relay-source", "dnat", "native", "direct", "generator"}

func reference(r *report.Report) string {
	for _, name := range references {
		if slices.ContainsFunc(r.Figures, func(f report.Figure) bool { return f.Candidate == name }) {
			return name
		}
	}
	return ""
}
