package report

import (
	"encoding/csv"
	"io"
	"math"
	"strconv"
)

// CSV writes each value on a line of its own (RFC 4180, with a header).
func (r *Report) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	c.Write([]string{"workload", "metric", "unit", "better", "candidate", "round", "value"})
	for _, f := range r.Figures {
		for round, v := range f.Values {
			if math.IsNaN(v) {
				continue
			}
			c.Write([]string{f.Workload, f.Metric, f.Unit, string(f.Better), f.Candidate,
				strconv.Itoa(round + 1), strconv.FormatFloat(v, 'g', 8, 64)})
		}
	}
	c.Flush()
	return c.Error()
}
