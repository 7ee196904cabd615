package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestSummarise(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   Summary
		spread float64
	}{
		{[]float64{3}, Summary{3, 3, 3}, 0},
		{[]float64{4, 1, 3}, Summary{3, 1, 4}, 1},
		{[]float64{4, 1, 3, 2}, Summary{2.5, 1, 4}, 1.2},
		{[]float64{0, 0}, Summary{0, 0, 0}, 0},
	} {
		if got := Summarise(tt.values); got != tt.want || math.Abs(got.Spread()-tt.spread) > 1e-12 {
			t.Errorf("%v: %v, spread %v; want %v, %v", tt.values, got, got.Spread(), tt.want, tt.spread)
		}
	}
}

func TestMedianLeavesTheSampleAsItWas(t *testing.T) {
	values := []float64{3, 1, 2}
	Median(values)
	if values[0] != 3 || values[1] != 1 {
		t.Errorf("it is %v now", values)
	}
}

// What drifts with the machine does not touch the ratio of what was measured
// side by side.
func TestRatioIsPaired(t *testing.T) {
	got := Ratio([]float64{50, 100, 200, 400, 800}, []float64{100, 200, 400, 800, 1600}, 0.95)
	if got != (Interval{0.5, 0.5, 0.5}) {
		t.Errorf("got %v, want 0.5 throughout", got)
	}
	got = Ratio([]float64{90, 110, 100, 95, 105}, []float64{100, 100, 100, 100, 100}, 0.95)
	if got.Value != 1 || got.Low < 0.9 || got.Low >= 1 || got.High <= 1 || got.High > 1.1 || got.Excludes(1) {
		t.Errorf("got %v, want 1 with bounds within 0.9 and 1.1", got)
	}
}

func TestNothingToCompare(t *testing.T) {
	for _, got := range []Interval{
		Ratio(nil, []float64{1}, 0.95), Ratio([]float64{1}, []float64{0}, 0.95), Change(nil, []float64{1}, 0.95),
		Change([]float64{1}, []float64{0}, 0.95),
	} {
		if !math.IsNaN(got.Value) || got.Excludes(1) {
			t.Errorf("got %v, want no number, which excludes nothing", got)
		}
	}
}

func TestSameSamplesHaveTheSameInterval(t *testing.T) {
	a, b := []float64{1, 2, 3, 4, 5}, []float64{2, 3, 2, 3, 2}
	if one, two := Change(a, b, 0.95), Change(a, b, 0.95); one != two {
		t.Errorf("%v and %v", one, two)
	}
}

// The interval must hold the true ratio about as often as it claims, for samples
// that are large enough for that.
func TestIntervalHoldsTheTruth(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const runs, n, ratio = 80, 15, 1.3
	held := 0
	for range runs {
		a, b := make([]float64, n), make([]float64, n)
		for i := range n {
			a[i] = ratio * 100 * math.Exp(0.1*random.NormFloat64())
			b[i] = 100 * math.Exp(0.1*random.NormFloat64())
		}
		if !Change(a, b, 0.95).Excludes(ratio) {
			held++
		}
	}
	if part := float64(held) / runs; part < 0.85 || part > 0.995 {
		t.Errorf("the interval held the truth in %.1f %% of runs, want about 95", part*100)
	}
}

func TestQuantile(t *testing.T) {
	sorted := []float64{1, 2, 3, 4, 5}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 1: 5, 0.9: 5, 0.1: 1} {
		if got := Quantile(sorted, q); got != want {
			t.Errorf("Quantile(%v) is %v, want %v", q, got, want)
		}
	}
}
