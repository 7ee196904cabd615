package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// A Target is a Server as a client sees it, or what stands before it.
type Target struct {
	Enter                            Enter // to where the client is
	HTTP, Source, Sink, UDP, UDPSink netip.AddrPort
}

// A Window says when to measure.
type Window struct {
	Warm, Length time.Duration
	// Look is called twice, when the counters are read at the beginning and at the
	// end, for what else is to be measured between the two. It may be nil.
	Look func()
}

// A Result is what was counted in a window.
type Result struct {
	Elapsed time.Duration
	Ops     uint64                  // requests answered, datagrams returned or delivered
	Bytes   uint64                  // delivered
	Failed  uint64                  // requests that ended without an answer
	Sent    uint64                  // datagrams
	Latency *hdrhistogram.Histogram // of each op in nanoseconds; nil: not measured
}

// The phases of a run.
const (
	warming int32 = iota
	measuring
	stopping
)

// A run is one measurement.
type run struct {
	Target
	phase   atomic.Int32
	workers []*worker
	begin   time.Time
}

// A worker is one thread of a client.
type worker struct {
	*run
	poll                     *poll
	conns                    []conn              // by position, which is the data of an event
	http                     *unix.SockaddrInet4 // Target.HTTP
	bulk                     []byte
	flows                    []flow // for datagrams, by position as well
	burst                    *datagrams
	latency                  *hdrhistogram.Histogram
	ops, bytes, failed, sent atomic.Uint64
}

// longest is the longest latency that is told from longer ones; the histogram
// keeps three digits.
const (
	longest = 10 * time.Second
	digits  = 3
)

// newRun shares conns connections among workers.
func newRun(t Target, conns int) *run {
	r := &run{Target: t, begin: time.Now()}
	n := min(threads(), conns)
	for i := range n {
		share := conns / n
		if i < conns%n {
			share++
		}
		r.workers = append(r.workers, &worker{run: r, conns: make([]conn, share),
			latency: hdrhistogram.New(1, longest.Nanoseconds(), digits)})
	}
	return r
}

// now is the time since the run began.
func (r *run) now() int64 { return int64(time.Since(r.begin)) }

// do runs work on each worker's own thread: prepare, then step until the window
// has passed. arrived puts in what is counted at the other end; nil: nothing is.
func (r *run) do(ctx context.Context, w Window, prepare, step func(*worker) error, arrived func(*counts)) (Result, error) {
	ready := make(chan error, len(r.workers))
	var running sync.WaitGroup
	failed := make([]error, len(r.workers))
	for i, worker := range r.workers {
		running.Go(func() { failed[i] = worker.work(ready, prepare, step) })
	}
	var err error
	for range r.workers {
		err = errors.Join(err, <-ready)
	}
	var result Result
	if err == nil {
		result, err = r.measure(ctx, w, arrived)
	}
	r.phase.Store(stopping)
	running.Wait()
	if err = errors.Join(err, errors.Join(failed...)); err != nil {
		return Result{}, err
	}
	result.Latency = hdrhistogram.New(1, longest.Nanoseconds(), digits)
	for _, worker := range r.workers {
		result.Latency.Merge(worker.latency)
	}
	return result, nil
}

// work is one worker's life.
func (w *worker) work(ready chan<- error, prepare, step func(*worker) error) (err error) {
	defer w.closeAll()
	err = w.enterAnd(prepare)
	ready <- err
	if err != nil {
		return nil // it has been said
	}
	for w.phase.Load() != stopping {
		if err := step(w); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) enterAnd(prepare func(*worker) error) (err error) {
	if err := w.Enter.enter(); err != nil {
		return err
	}
	if w.poll, err = newPoll(); err != nil {
		return err
	}
	return prepare(w)
}

func (w *worker) closeAll() {
	for i := range w.conns {
		if w.conns[i].open {
			rawClose(w.conns[i].fd)
		}
	}
	if w.poll != nil {
		w.poll.close()
	}
}

// measure looks at the counters, waits, and looks again.
func (r *run) measure(ctx context.Context, w Window, arrived func(*counts)) (Result, error) {
	if err := sleep(ctx, w.Warm); err != nil {
		return Result{}, err
	}
	look := w.Look
	if look == nil {
		look = func() {}
	}
	look()
	r.phase.Store(measuring)
	before, start := r.count(arrived), time.Now()
	after, elapsed := before, time.Duration(0)
	for wait := w.Length; wait > 0; wait = more(before, after, elapsed) {
		if err := sleep(ctx, wait); err != nil {
			return Result{}, err
		}
		after, elapsed = r.count(arrived), time.Since(start)
	}
	r.phase.Store(warming) // nothing is recorded any more
	look()
	return Result{
		Elapsed: elapsed,
		Ops:     after.ops - before.ops,
		Bytes:   after.bytes - before.bytes,
		Failed:  after.failed, // those before count as well
		Sent:    after.sent - before.sent,
	}, nil
}

// What is slow has a rate too: a window lasts longer, up to grace, until fewest
// ops, or some bytes, have been counted.
const (
	grace  = 3 * time.Second
	fewest = 20
)

// more says how long to go on.
func more(before, after counts, elapsed time.Duration) time.Duration {
	if after.ops >= before.ops+fewest || after.bytes > before.bytes || elapsed > grace {
		return 0
	}
	return 10 * time.Millisecond
}

type counts struct{ ops, bytes, failed, sent uint64 }

func (r *run) count(arrived func(*counts)) counts {
	var c counts
	for _, w := range r.workers {
		c.ops += w.ops.Load()
		c.bytes += w.bytes.Load()
		c.failed += w.failed.Load()
		c.sent += w.sent.Load()
	}
	if arrived != nil {
		arrived(&c)
	}
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// none is the error when a window passed in which nothing was counted.
func (r Result) none(what string, to netip.AddrPort) error {
	return fmt.Errorf("no %s in %s through %v", what, r.Elapsed.Round(time.Millisecond), to)
}
