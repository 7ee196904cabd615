// Package report holds what a run of wgjail bench has found, and shows it: as
// text, JSON, CSV and a page, and next to an older run.
//
// It knows figures. It does not know how they were measured.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Schema is the number of the JSON format. It grows when a field changes its
// meaning or goes; new fields may come without.
const Schema = 1

// A Report is a whole run.
type Report struct {
	Schema      int         `json:"schema"`
	Date        time.Time   `json:"date"`
	Command     string      `json:"command"`
	Seconds     float64     `json:"seconds"`               // it took
	Interrupted bool        `json:"interrupted,omitempty"` // it was to take longer
	DurationMS  int64       `json:"duration_ms"`           // of each measurement
	Rounds      int         `json:"rounds"`
	Reference   string      `json:"reference,omitempty"` // the candidate that ratios are to
	Machine     Machine     `json:"machine"`
	Candidates  []Candidate `json:"candidates"`
	Workloads   []Workload  `json:"workloads"`
	Figures     []Figure    `json:"figures"`
	Curves      []Curve     `json:"curves"`
	Warnings    []string    `json:"warnings"`
}

// A Machine is where it ran.
type Machine struct {
	Kernel     string            `json:"kernel"`
	CPU        string            `json:"cpu"`
	Cores      int               `json:"cores"`
	MemoryMiB  int               `json:"memory_mib"`
	MTU        int               `json:"mtu"`        // of the lab's links
	TunnelMTU  int               `json:"tunnel_mtu"` // of the jail's interface
	LoadBefore float64           `json:"load_before"`
	LoadAfter  float64           `json:"load_after"`
	OtherLoad  float64           `json:"other_load"` // part of the processor time that others used meanwhile
	Versions   map[string]string `json:"versions"`
}

// A Candidate is a way into the jail, or a kind of WireGuard.
type Candidate struct {
	Name    string `json:"name"`
	What    string `json:"what"`
	Missing string `json:"missing,omitempty"` // why there are no figures
}

// A Workload is what is done with a candidate.
type Workload struct {
	Name  string `json:"name"`
	Title string `json:"title"`
}

// Better says which way is an improvement.
type Better string

const (
	Higher Better = "higher"
	Lower  Better = "lower"
)

// A Figure is what was measured of a candidate at a workload.
type Figure struct {
	Workload  string  `json:"workload"`
	Metric    string  `json:"metric"` // the first of a workload is its main one
	Unit      string  `json:"unit"`
	Better    Better  `json:"better"`
	Candidate string  `json:"candidate"`
	Values    Sample  `json:"values"` // by round
	Median    float64 `json:"median"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	// To the reference, measured side by side; nil: there is nothing to divide by.
	Ratio *Ratio `json:"ratio,omitempty"`
	// The load generator gives hardly more: the figure may be its limit.
	Ceiling bool `json:"ceiling,omitempty"`
	// The rounds differ so much that little can be said.
	Wide bool `json:"wide,omitempty"`
}

// A Ratio has the bounds of a 95 % interval.
type Ratio struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// A Curve is the distribution of a latency over all rounds.
type Curve struct {
	Workload  string  `json:"workload"`
	Candidate string  `json:"candidate"`
	Points    []Point `json:"points"`
}

// A Point says that a part of a curve took no longer than that.
type Point struct {
	Percentile   float64 `json:"percentile"`
	Microseconds float64 `json:"us"`
}

// A Sample has a value for each round; NaN, null in JSON, where there is none.
type Sample []float64

// MarshalJSON implements json.Marshaler.
func (s Sample) MarshalJSON() ([]byte, error) {
	values := make([]*float64, len(s))
	for i := range s {
		if !math.IsNaN(s[i]) && !math.IsInf(s[i], 0) {
			values[i] = &s[i]
		}
	}
	return json.Marshal(values)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Sample) UnmarshalJSON(text []byte) error {
	var values []*float64
	if err := json.Unmarshal(text, &values); err != nil {
		return err
	}
	*s = make(Sample, len(values))
	for i, v := range values {
		(*s)[i] = math.NaN()
		if v != nil {
			(*s)[i] = *v
		}
	}
	return nil
}

// Present returns the values that there are.
func (s Sample) Present() []float64 {
	var values []float64
	for _, v := range s {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	return values
}

// Add notes the value of a round, counted from 0, of a figure that is described
// by f, whose Values are not looked at.
func (r *Report) Add(f Figure, round int, value float64) {
	at := r.Find(f.Workload, f.Metric, f.Candidate)
	if at == nil {
		f.Values = make(Sample, r.Rounds)
		for i := range f.Values {
			f.Values[i] = math.NaN()
		}
		r.Figures = append(r.Figures, f)
		at = &r.Figures[len(r.Figures)-1]
	}
	at.Values[round] = value
}

// Find returns a figure; nil if there is none.
func (r *Report) Find(workload, metric, candidate string) *Figure {
	for i := range r.Figures {
		if f := &r.Figures[i]; f.Workload == workload && f.Metric == metric && f.Candidate == candidate {
			return f
		}
	}
	return nil
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// Read reads a report that Write has written.
func Read(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("not a report of wgjail bench --json: %w", err)
	}
	if r.Schema == 0 {
		return nil, errors.New("not a report of wgjail bench --json")
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("a report in format %d; this wgjail reads format %d", r.Schema, Schema)
	}
	return &r, nil
}
