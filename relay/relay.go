package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay moves TCP connections and UDP datagrams from the sockets it listens on
// to targets that are dialled somewhere else. Its zero value relays within one
// place. It must not be copied, nor its fields changed, once Listen was called.
type Relay struct {
	// Enter is called by each worker's goroutine before it does anything else.
	// It takes the goroutine to where targets are to be dialled from, and must
	// keep it there: netnsx.Namespace.Enter locks the thread for good. If any
	// worker fails to enter, Serve returns its error and nothing was accepted
	// or dialled by any of them. Nil stays where it is.
	Enter func() error

	// Workers is the number of event loops. Zero means one for every two CPUs
	// that the Go runtime may use, at least one and at most eight.
	Workers int

	// Log gets what a keeper of the relay should know, at most one line of each
	// kind per reportInterval. It is called by Serve's goroutine, never by a
	// worker. Nil is silent.
	Log *slog.Logger

	// Limits bounds what clients may use up.
	Limits Limits

	mu        sync.Mutex // taken before any worker's
	state     state
	listeners []*Listener
	workers   []*worker
	turn      int // which worker gets the next UDP listener

	ready   lazyChan // closed when every worker has entered
	kill    lazyChan // closed by Close
	reports reports
	conns   atomic.Int64 // open TCP connections, counted only if limited
	clients clientCounts
	flows   atomic.Int64 // open UDP flows

	now       func() time.Duration // tests have their own
	deadAfter time.Duration
}

type state int

const (
	idle     state = iota // Serve was not called
	serving               // Serve runs
	draining              // no new clients
	closed                // over
)

func (r *Relay) workerCount() int {
	if r.Workers > 0 {
		return r.Workers
	}
	return min(max(1, runtime.GOMAXPROCS(0)/2), 8)
}

// Ready returns a channel that is closed when every worker has entered and
// clients are served. Nothing that Serve does can fail after that.
func (r *Relay) Ready() <-chan struct{} { return r.ready.get() }

// Serve relays until ctx is done. Then it stops listening, lets connections end
// by themselves for Limits.DrainTimeout, resets the rest and returns nil, when
// the last worker has ended. It returns an error only if it could not start; no
// client was accepted then, and the listeners are closed. It may be called once.
func (r *Relay) Serve(ctx context.Context) error {
	workers, err := r.start()
	if err != nil {
		r.Close()
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, w := range workers {
			<-w.ended
		}
	}()
	r.supervise(ctx, done)
	r.Close()
	return nil
}

// supervise waits for the end of ctx, of the drain and of the workers, and
// writes the log meanwhile.
func (r *Relay) supervise(ctx context.Context, done <-chan struct{}) {
	var drained <-chan time.Time
	stop := ctx.Done()
	kill := r.kill.get()
	report := r.reporter()
	defer report.stop()
	for {
		select {
		case <-stop:
			stop = nil
			r.drain()
			drained = time.After(r.Limits.drainTimeout())
		case <-drained:
			r.Close()
		case <-kill:
			kill = nil
			r.killWorkers()
		case s := <-r.reports.c:
			report.add(s)
		case <-report.tick:
			report.flush()
		case <-done:
			return
		}
	}
}

// Close ends everything at once: listeners are closed and connections reset.
// Serve, if it runs, returns nil soon after. Close is safe at any time, from any
// goroutine, and more than once.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.state = closed
	listeners := r.listeners
	r.mu.Unlock()
	for _, l := range slices.Clone(listeners) {
		l.Close()
	}
	r.kill.close()
	return nil
}

var errServed = errors.New("relay: Serve was called before, or Close")

// start makes the workers and returns when all of them have entered.
func (r *Relay) start() ([]*worker, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != idle {
		return nil, errServed
	}
	r.prepare()
	var workers []*worker
	var err error
	for range r.workerCount() {
		var w *worker
		if w, err = newWorker(r); err != nil {
			break
		}
		workers = append(workers, w)
		go w.run()
	}
	for _, w := range workers {
		if e := <-w.entered; e != nil && err == nil {
			err = fmt.Errorf("start a worker of the relay: %w", e)
		}
	}
	if err != nil {
		for _, w := range workers {
			w.post(func(w *worker) { w.quit = true })
		}
		for _, w := range workers {
			<-w.ended
		}
		return nil, err
	}
	r.state, r.workers = serving, workers
	for _, l := range r.listeners {
		r.attach(l)
	}
	r.ready.close()
	return workers, nil
}

func (r *Relay) prepare() {
	// The Go runtime opens descriptors of its own with the first timer, and
	// dies if clients have taken the last one by then. So that is done now.
	time.AfterFunc(time.Hour, func() {}).Stop()
	r.reports.init()
	r.Limits.MaxFlows = r.Limits.maxFlows()
	r.deadAfter = orDefault(r.deadAfter, deadAfter)
	if r.now == nil {
		begin := time.Now()
		r.now = func() time.Duration { return time.Since(begin) }
	}
}

// add makes l one of the listeners, and its clients be served if Serve runs.
func (r *Relay) add(l *Listener) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state > serving {
		return fmt.Errorf("forward %v: %w", l.forward.Listen, net.ErrClosed)
	}
	r.listeners = append(r.listeners, l)
	if r.state == serving {
		r.attach(l)
	}
	return nil
}

// attach gives l to all workers, or, if it is UDP, to one of them.
func (r *Relay) attach(l *Listener) {
	workers := r.workers
	if l.forward.Network == "udp" {
		r.turn++
		i := r.turn % len(workers)
		workers = workers[i : i+1]
	}
	for _, w := range workers {
		w.post(func(w *worker) { w.attach(l) })
	}
}

// remove returns when no worker uses l's socket any more.
func (r *Relay) remove(l *Listener) {
	r.mu.Lock()
	r.listeners = slices.DeleteFunc(slices.Clone(r.listeners), func(x *Listener) bool { return x == l })
	workers := r.workers
	r.mu.Unlock()
	for _, w := range workers {
		gone := make(chan struct{})
		if w.post(func(w *worker) { w.detach(l); close(gone) }) {
			<-gone
		}
	}
}

// drain stops listening and lets each worker end with its last connection.
func (r *Relay) drain() {
	r.mu.Lock()
	r.state = max(r.state, draining)
	listeners := r.listeners
	r.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	for _, w := range r.workers {
		w.post(func(w *worker) { w.draining = true })
	}
}

func (r *Relay) killWorkers() {
	for _, w := range r.workers {
		w.post(func(w *worker) { w.quit = true })
	}
}

// A lazyChan is a channel whose zero value is ready for use and that may be
// closed more than once.
type lazyChan struct {
	make, stop sync.Once
	c          chan struct{}
}

func (l *lazyChan) get() chan struct{} {
	l.make.Do(func() { l.c = make(chan struct{}) })
	return l.c
}

func (l *lazyChan) close() { l.stop.Do(func() { close(l.get()) }) }
