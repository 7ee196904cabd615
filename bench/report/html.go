package report

import (
	_ "embed"
	"html/template"
	"io"
	"slices"
	"strings"
)

// The page is one file that needs no other: Chart.js is in it, and its policy
// forbids it to load anything (Content-Security-Policy, default-src 'none').
var (
	//go:embed assets/chart.js
	chartJS string
	//go:embed assets/page.html
	pageHTML string
	//go:embed assets/page.css
	pageCSS string
	//go:embed assets/page.js
	pageJS string

	// Without its last line, which names a file for debuggers to load.
	chartOnly, _, _ = strings.Cut(chartJS, "\n//# sourceMappingURL=")

	page = template.Must(template.New("page").Parse(pageHTML))
)

// pageData is what the template and its script are given.
type pageData struct {
	*Report
	Facts   []string
	Cards   []card
	Missing []Candidate
	Chart   template.JS
	Script  template.JS
	Style   template.CSS
}

// A card shows one workload: its charts, and its table under them.
type card struct {
	Name, Title, Text string
	Charts            []chart
	Table             Table
}

// A chart is what page.js draws on one canvas.
type chart struct {
	Kind  string    `json:"kind"` // bars, stack or curves
	Title string    `json:"title"`
	Unit  string    `json:"unit"`
	Bars  []barData `json:"bars,omitempty"`
	Lines []Curve   `json:"lines,omitempty"`
}

// barData is a candidate's bar: of the median, with a whisker from the least to
// the greatest round, or of two parts.
type barData struct {
	Candidate string    `json:"candidate"`
	Parts     []float64 `json:"parts"`
	Min       float64   `json:"min"`
	Max       float64   `json:"max"`
}

// HTML writes the report as a page.
func (r *Report) HTML(w io.Writer) error {
	d := pageData{Report: r, Facts: r.Facts(), Chart: template.JS(chartOnly), Script: template.JS(pageJS), Style: template.CSS(pageCSS)}
	for _, c := range r.Candidates {
		if c.Missing != "" {
			d.Missing = append(d.Missing, c)
		}
	}
	for _, wl := range r.Workloads {
		if metrics := r.metrics(wl.Name); len(metrics) > 0 {
			d.Cards = append(d.Cards, r.card(wl, metrics))
		}
	}
	return page.Execute(w, d)
}

func (r *Report) card(w Workload, metrics []string) card {
	name, text, _ := strings.Cut(w.Title, ": ")
	c := card{Name: w.Name, Title: name, Text: text, Table: r.table(w, metrics)}
	if metrics[0] == Rate {
		c.Charts = append(c.Charts, chart{Kind: "bars", Title: "rate: more is better", Unit: r.unit(w.Name, Rate), Bars: r.bars(w.Name, Rate)})
	} else {
		for _, m := range metrics {
			c.Charts = append(c.Charts, chart{Kind: "bars", Title: m + ": less is better", Unit: r.unit(w.Name, m), Bars: r.bars(w.Name, m)})
		}
	}
	if lines := r.lines(w.Name); len(lines) > 0 {
		c.Charts = append(c.Charts, chart{Kind: "curves", Title: "latency distribution: lower is better", Unit: "µs", Lines: lines})
	}
	if slices.Contains(metrics, "user") {
		c.Charts = append(c.Charts, chart{Kind: "stack", Title: "processor time of the forwarder, user and system: less is better",
			Unit: r.unit(w.Name, "user"), Bars: r.bars(w.Name, "user", "system")})
	}
	return c
}

// bars has a bar for each candidate that has the first metric; its parts are the
// metrics.
func (r *Report) bars(workload string, metrics ...string) []barData {
	var bars []barData
	for _, c := range r.Candidates {
		first := r.Find(workload, metrics[0], c.Name)
		if first == nil {
			continue
		}
		b := barData{Candidate: c.Name, Min: first.Min, Max: first.Max}
		for _, m := range metrics {
			if f := r.Find(workload, m, c.Name); f != nil {
				b.Parts = append(b.Parts, f.Median)
			}
		}
		bars = append(bars, b)
	}
	return bars
}

func (r *Report) lines(workload string) []Curve {
	var lines []Curve
	for _, c := range r.Curves {
		if c.Workload == workload {
			lines = append(lines, c)
		}
	}
	return lines
}
