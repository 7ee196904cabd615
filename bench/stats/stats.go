// Package stats says what a few measurements of the same thing allow to say.
//
// It knows numbers. Nothing here assumes how they are distributed: there are a
// handful of rounds, on a machine that does other things as well. So it reports
// medians, and intervals from resampling (B. Efron, "Bootstrap methods: another
// look at the jackknife", Annals of Statistics 7, 1979).
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A Summary is what a table shows of a sample.
type Summary struct{ Median, Min, Max float64 }

// Summarise returns the summary of a sample that is not empty.
func Summarise(values []float64) Summary {
	return Summary{Median(values), slices.Min(values), slices.Max(values)}
}

// Spread is how far apart the ends are, as a part of the median; 0 if that is 0.
func (s Summary) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / s.Median
}

// Median returns the median of a sample, and NaN for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return middle(slices.Clone(values))
}

// middle is Median for a sample that it may sort.
func middle(values []float64) float64 {
	slices.Sort(values)
	mid := len(values) / 2
	if len(values)%2 == 1 {
		return values[mid]
	}
	return (values[mid-1] + values[mid]) / 2
}

// An Interval is an estimate with its bounds.
type Interval struct{ Value, Low, High float64 }

// Excludes says whether v is outside the bounds.
func (i Interval) Excludes(v float64) bool { return v < i.Low || v > i.High }

// resamples is how often a bootstrap draws: enough for bounds at 1 in 1000.
const resamples = 2000

// Ratio estimates the ratio of a to b, whose values at one position were
// measured right after each other: the median of the ratios, with an interval at
// the level (0.95, say). It is all NaN if no position has both.
func Ratio(a, b []float64, level float64) Interval {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if r := a[i] / b[i]; !math.IsNaN(r) && !math.IsInf(r, 0) {
			ratios = append(ratios, r)
		}
	}
	return bootstrap(Median(ratios), level, len(ratios) == 0, func(random *rand.Rand, buf []float64) float64 {
		return middle(draw(random, ratios, buf))
	})
}

// Change estimates the ratio of the medians of two samples that have nothing to
// do with each other, now to before, with an interval at the level.
func Change(now, before []float64, level float64) Interval {
	value := Median(now) / Median(before)
	empty := math.IsNaN(value) || math.IsInf(value, 0)
	return bootstrap(value, level, empty, func(random *rand.Rand, buf []float64) float64 {
		n := middle(draw(random, now, buf))
		return n / middle(draw(random, before, buf))
	})
}

// bootstrap returns value with the percentiles of what sample returns. Equal
// samples have equal intervals: the seed is always the same.
func bootstrap(value, level float64, empty bool, sample func(*rand.Rand, []float64) float64) Interval {
	if empty {
		return Interval{math.NaN(), math.NaN(), math.NaN()}
	}
	random := rand.New(rand.NewPCG(1, 2))
	buf := make([]float64, 0, 64)
	got := make([]float64, 0, resamples)
	for range resamples {
		if v := sample(random, buf); !math.IsNaN(v) {
			got = append(got, v)
		}
	}
	slices.Sort(got)
	tail := (1 - level) / 2
	return Interval{value, Quantile(got, tail), Quantile(got, 1-tail)}
}

// draw draws as many values as there are, with replacement.
func draw(random *rand.Rand, values, buf []float64) []float64 {
	buf = buf[:0]
	for range values {
		buf = append(buf, values[random.IntN(len(values))])
	}
	return buf
}

// Quantile returns the value below which the part q of a sorted sample lies.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := int(math.Round(q * float64(len(sorted)-1)))
	return sorted[min(max(at, 0), len(sorted)-1)]
}
