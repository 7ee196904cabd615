package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

// sample is a small report: two workloads, three candidates, one that is missing.
func sample() *Report {
	r := &Report{
		Schema: Schema, Date: time.Date(2026, 11, 26, 3, 4, 5, 0, time.UTC), Command: "wgjail bench --rounds 3",
		Seconds: 12.5, DurationMS: 200, Rounds: 3, Reference: "relay",
		Machine: Machine{Kernel: "6.18.0", CPU: "A <CPU> & more", Cores: 2, MemoryMiB: 4096, MTU: 1500, TunnelMTU: 1420,
			LoadBefore: 0.5, LoadAfter: 2.25, OtherLoad: 0.03, Versions: map[string]string{"wgjail": "devel", "Go": "1.26"}},
		Candidates: []Candidate{{Name: "generator", What: "nothing"}, {Name: "relay", What: "wgjail forward"},
			{Name: "veth", What: "wgjail forward --mode veth"}, {Name: "socat", What: "socat", Missing: "socat is not installed"}},
		Workloads: []Workload{{"requests-64", "requests-64: requests on 64 kept connections"}, {"download", "download: bulk"}},
		Curves:    []Curve{{"requests-64", "relay", []Point{{50, 100}, {99, 300}}}, {"requests-64", "veth", []Point{{50, 80}, {99, 200}}}},
		Warnings:  []string{},
	}
	add := func(workload, metric, unit string, better Better, candidate string, values ...float64) {
		for round, v := range values {
			if !math.IsNaN(v) {
				r.Add(Figure{Workload: workload, Metric: metric, Unit: unit, Better: better, Candidate: candidate}, round, v)
			}
		}
	}
	none := math.NaN()
	add("requests-64", Rate, "req/s", Higher, "generator", 100000, 110000, 90000)
	add("requests-64", Rate, "req/s", Higher, "relay", 50000, 55000, 45000)
	add("requests-64", "p50", "µs", Lower, "relay", 100, 90, 110)
	add("requests-64", "user", "µs/req", Lower, "relay", 2, 3, 4)
	add("requests-64", "system", "µs/req", Lower, "relay", 12, 13, 14)
	add("requests-64", Rate, "req/s", Higher, "veth", 95000, none, 88000)
	add("requests-64", "p50", "µs", Lower, "veth", 80, none, 70)
	add("download", Rate, "Gbit/s", Higher, "relay", 10, 20, 10)
	add("download", Rate, "Gbit/s", Higher, "veth", 11.1, 11.2, 11.3)
	r.Finish("generator")
	return r
}

// golden compares with a file of testdata, which -update writes.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := sample().Text(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.Bytes())
}

// The JSON format is a contract: other programs read it.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := sample().Write(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b.Bytes())
	read, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if again, want := mustJSON(t, read), mustJSON(t, sample()); again != want {
		t.Errorf("read back it is\n%s\nwant\n%s", again, want)
	}
}

func mustJSON(t *testing.T, r *Report) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadRefusesOtherFiles(t *testing.T) {
	for text, want := range map[string]string{
		"":              "not a report of wgjail bench --json",
		"{}":            "not a report of wgjail bench --json",
		"[1]":           "not a report of wgjail bench --json",
		`{"schema": 7}`: "a report in format 7; this wgjail reads format 1",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	if err := sample().CSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"requests-64", "rate", "req/s", "higher", "veth", "3", "88000"}
	n := 0
	for _, row := range rows {
		if reflect.DeepEqual(row, want) {
			n++
		}
	}
	if n != 1 || len(rows) != 1+25 {
		t.Errorf("%d rows, %d of them are %v:\n%v", len(rows), n, want, rows)
	}
}

func TestMarks(t *testing.T) {
	r := sample()
	for _, tt := range []struct {
		workload, candidate string
		ceiling, wide       bool
		ratio               float64
	}{
		{"requests-64", "relay", false, false, 0},
		{"requests-64", "veth", true, false, (1.9 + 88.0/45) / 2},
		{"download", "relay", false, true, 0},
		{"download", "veth", false, false, 1.11},
	} {
		f := r.Find(tt.workload, Rate, tt.candidate)
		var ratio float64
		if f.Ratio != nil {
			ratio = f.Ratio.Value
		}
		if f.Ceiling != tt.ceiling || f.Wide != tt.wide || math.Abs(ratio-tt.ratio) > 1e-9 {
			t.Errorf("%s, %s: ceiling %v, wide %v, ratio %v; want %v, %v, %v",
				tt.workload, tt.candidate, f.Ceiling, f.Wide, ratio, tt.ceiling, tt.wide, tt.ratio)
		}
	}
	if len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0], "1 of 5 main figures differ") {
		t.Errorf("warnings are %q", r.Warnings)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 142345: "142000", 1234: "1230", 999: "999", 15.25: "15.2", 9.876: "9.88", 0.05: "0.05", 0.0012: "0.0012", -3: "-3.00",
	} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) is %s, want %s", v, got, want)
		}
	}
}
