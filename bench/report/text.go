package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Text writes the report for people: a table for each workload.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	r.textHead(&b)
	for _, t := range r.Tables() {
		t.text(&b)
	}
	for _, c := range r.Candidates {
		if c.Missing != "" {
			fmt.Fprintf(&b, "not available: %s: %s\n", c.Name, c.Missing)
		}
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) textHead(b *strings.Builder) {
	for _, line := range r.Facts() {
		fmt.Fprintln(b, line)
	}
	fmt.Fprintln(b)
}

// Facts are sentences about the run and the machine.
func (r *Report) Facts() []string {
	m := r.Machine
	lines := []string{
		fmt.Sprintf("%s: %s", r.Date.UTC().Format("2006-01-02 15:04 UTC"), r.Command),
		fmt.Sprintf("%d cores of %s, %d MiB of memory, Linux %s; MTU %d, in the tunnel %d", m.Cores, m.CPU, m.MemoryMiB, m.Kernel, m.MTU, m.TunnelMTU),
		fmt.Sprintf("%d rounds of %d ms each, all candidates in turn; %.0f s in all; load average %.1f before, %.1f after; others used %.0f %% of the processors",
			r.Rounds, r.DurationMS, r.Seconds, m.LoadBefore, m.LoadAfter, 100*m.OtherLoad),
	}
	var versions []string
	for name, v := range m.Versions {
		versions = append(versions, name+" "+v)
	}
	slices.Sort(versions)
	if len(versions) > 0 {
		lines = append(lines, strings.Join(versions, ", "))
	}
	if r.Interrupted {
		lines = append(lines, "interrupted: these are the figures until then")
	}
	return lines
}

// A Table shows one workload.
type Table struct {
	Title   string
	Columns []string
	Units   []string
	Rows    [][]string // the first cell is the candidate
	Notes   []string
}

// Tables returns a table for each workload that has figures.
func (r *Report) Tables() []Table {
	var tables []Table
	for _, w := range r.Workloads {
		if metrics := r.metrics(w.Name); len(metrics) > 0 {
			tables = append(tables, r.table(w, metrics))
		}
	}
	return tables
}

// table has the main metric with its range and ratio, and the medians of the
// others.
func (r *Report) table(w Workload, metrics []string) Table {
	t := Table{Title: w.Title, Columns: []string{""}, Units: []string{""}}
	for i, m := range metrics {
		t.Columns = append(t.Columns, m)
		t.Units = append(t.Units, r.unit(w.Name, m))
		if i == 0 {
			t.Columns = append(t.Columns, "min to max", "to "+r.Reference)
			t.Units = append(t.Units, "", "ratio (95 %)")
		}
	}
	var touched, wide bool
	for _, c := range r.Candidates {
		main := r.Find(w.Name, metrics[0], c.Name)
		if main == nil {
			continue
		}
		touched, wide = touched || main.Ceiling, wide || main.Wide
		t.Rows = append(t.Rows, r.row(w, metrics, c, main))
	}
	if !slices.ContainsFunc(t.Rows, func(row []string) bool { return row[3] != "" }) {
		t.dropColumn(3)
	}
	if touched {
		t.Notes = append(t.Notes, "* within 10 % of what the load generator gives by itself: the true figure may be higher")
	}
	if wide {
		t.Notes = append(t.Notes, "~ the rounds differ by more than half: too wide to conclude from")
	}
	return t
}

func (r *Report) row(w Workload, metrics []string, c Candidate, main *Figure) []string {
	row := []string{c.Name}
	for i, m := range metrics {
		f := r.Find(w.Name, m, c.Name)
		if f == nil {
			row = append(row, "")
			continue
		}
		cell := Number(f.Median)
		if i > 0 {
			row = append(row, cell)
			continue
		}
		if f.Ceiling {
			cell += "*"
		}
		if f.Wide {
			cell += "~"
		}
		row = append(row, cell, Number(f.Min)+" to "+Number(f.Max), r.ratioCell(main))
	}
	return row
}

func (r *Report) ratioCell(f *Figure) string {
	if f.Candidate == r.Reference {
		return "1"
	}
	if f.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", f.Ratio.Value, f.Ratio.Low, f.Ratio.High)
}

func (t *Table) dropColumn(i int) {
	t.Columns = slices.Delete(t.Columns, i, i+1)
	t.Units = slices.Delete(t.Units, i, i+1)
	for k := range t.Rows {
		t.Rows[k] = slices.Delete(t.Rows[k], i, i+1)
	}
}

func (r *Report) unit(workload, metric string) string {
	for _, f := range r.Figures {
		if f.Workload == workload && f.Metric == metric {
			return f.Unit
		}
	}
	return ""
}

func (t Table) text(b *strings.Builder) {
	fmt.Fprintln(b, t.Title)
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.Columns, t.Units}, t.Rows...) {
		fmt.Fprintf(tw, "  %s\n", strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	tw.Flush()
	for _, n := range t.Notes {
		fmt.Fprintf(b, "  %s\n", n)
	}
	fmt.Fprintln(b)
}

// Number writes v with three digits that count.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 1000:
		scale := math.Pow(10, math.Floor(math.Log10(a))-2)
		return fmt.Sprintf("%.0f", math.Round(v/scale)*scale)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}
