package report

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/bench/stats"
)

// simulated is a report of many figures, on a machine of some speed, with noise;
// slower makes one workload of relay slower by that factor.
func simulated(random *rand.Rand, rounds int, speed, noise, slower float64) *Report {
	r := &Report{Schema: Schema, Rounds: rounds, Reference: "relay", Candidates: []Candidate{{Name: "native"}, {Name: "relay"}, {Name: "haproxy"}}}
	for _, w := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		r.Workloads = append(r.Workloads, Workload{w, w})
		for _, c := range []string{"native", "relay", "haproxy"} {
			for round := range rounds {
				v := 1000 * speed * math.Exp(noise*random.NormFloat64())
				if c == "relay" && w == "c" {
					v /= slower
				}
				r.Add(Figure{Workload: w, Metric: Rate, Unit: "req/s", Better: Higher, Candidate: c}, round, v)
				r.Add(Figure{Workload: w, Metric: "p50", Unit: "µs", Better: Lower, Candidate: c}, round, 1e6/v)
			}
		}
	}
	for i := range r.Figures { // what Finish does takes long, and nothing here needs it
		r.Figures[i].Median = stats.Median(r.Figures[i].Values)
	}
	return r
}

var ours = []string{"relay", "veth"}

func compared(t *testing.T, now, before *Report) *Comparison {
	t.Helper()
	c, err := Compare(now, before, ours, "native")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCompareFindsARegression(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	before, now := simulated(random, 5, 1, 0.03, 1), simulated(random, 5, 1, 0.03, 1.4)
	c := compared(t, now, before)
	if !c.Regressed() || len(c.Moved) != 2 {
		t.Fatalf("moved: %+v; want the rate and the latency of c", c.Moved)
	}
	for _, m := range c.Moved {
		if m.Figure.Workload != "c" || m.Figure.Candidate != "relay" || !m.Worse {
			t.Errorf("moved: %+v", m)
		}
	}
	var b bytes.Buffer
	if err := c.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"WORSE   relay, c, rate: 6", "WORSE   relay, c, p50: 1", "20 figures compared: 2 worse, 0 better"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("no %q in\n%s", text, b.String())
		}
	}
	// The other way round it is an improvement.
	if c := compared(t, before, now); c.Regressed() || len(c.Moved) != 2 {
		t.Errorf("moved: %+v; want two improvements", c.Moved)
	}
}

// A machine that is slower altogether is no regression, and a peer's is not ours.
func TestCompareKnowsWhatIsNotOurs(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	before := simulated(random, 5, 1, 0.03, 1)
	if c := compared(t, simulated(random, 5, 0.5, 0.03, 1), before); len(c.Moved) > 0 {
		t.Errorf("on a slower machine these moved: %+v", c.Moved)
	}
	now := simulated(random, 5, 1, 0.03, 1)
	for i := range now.Figures {
		if f := &now.Figures[i]; f.Candidate == "haproxy" && f.Metric == Rate {
			for k := range f.Values {
				f.Values[k] /= 3
			}
		}
	}
	if c := compared(t, now, before); len(c.Moved) > 0 {
		t.Errorf("of a peer these moved: %+v", c.Moved)
	}
}

// Where nothing has changed, few comparisons say that something has, even on a
// noisy machine.
func TestCompareBearsNoise(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	const runs = 20
	wrong := 0
	for range runs {
		if c := compared(t, simulated(random, 5, 1, 0.15, 1), simulated(random, 5, 0.9, 0.15, 1)); c.Regressed() {
			wrong++
		}
	}
	if wrong > runs/8 {
		t.Errorf("%d of %d comparisons found a regression where there is none", wrong, runs)
	}
}

func TestCompareRefuses(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	few, many := simulated(random, 2, 1, 0.1, 1), simulated(random, 5, 1, 0.1, 1)
	if _, err := Compare(few, many, ours, "native"); err == nil {
		t.Error("two rounds were compared")
	}
	if _, err := Compare(many, &Report{}, ours, "native"); err == nil {
		t.Error("nothing was compared")
	}
	other := simulated(random, 5, 1, 0.1, 1)
	other.Machine.Kernel = "9.9"
	if c := compared(t, other, many); len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "kernel was  and is 9.9") {
		t.Errorf("notes are %q", c.Notes)
	}
}
