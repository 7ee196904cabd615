package relay

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// reportInterval is the time between two log lines of the same kind.
const reportInterval = 10 * time.Second

// A report tells Serve's goroutine of something worth a line in the log.
type report struct {
	kind reportKind
	addr netip.AddrPort // of the client, or the target
	port netip.AddrPort // of the listener
	err  error
}

type reportKind uint8

const (
	reportRefused     reportKind = iota // a client was not served
	reportDescriptors                   // the process or the system is short of something
	reportDial                          // a target did not accept
	reportKinds
)

var (
	errNotAllowed      = errors.New("not in the networks that are allowed")
	errTooMany         = errors.New("too many connections")
	errTooManyOfClient = errors.New("too many connections of this client")
)

const errDialTimeout = unix.ETIMEDOUT

// reports carries reports from the workers. Sending never blocks and formats
// nothing: most are only counted.
type reports struct {
	c     chan report
	count [reportKinds]atomic.Uint64 // since the last line
	sent  [reportKinds]atomic.Bool   // one is in c or waits for the interval to end
}

func (rs *reports) init() { rs.c = make(chan report, reportKinds) }

func (rs *reports) send(r report) {
	rs.count[r.kind].Add(1)
	if !rs.sent[r.kind].Swap(true) {
		rs.c <- r // there is room for one of each kind
	}
}

// A reporter writes the log lines. It is used by one goroutine.
type reporter struct {
	*reports
	log    *slog.Logger
	held   [reportKinds]*report // waits for the end of the interval
	quiet  [reportKinds]bool    // a line was written in this interval
	ticker *time.Ticker
	tick   <-chan time.Time
}

func (r *Relay) reporter() *reporter {
	log := r.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := time.NewTicker(reportInterval)
	return &reporter{reports: &r.reports, log: log, ticker: t, tick: t.C}
}

func (rp *reporter) stop() { rp.ticker.Stop() }

// add writes the line now, unless there was one in this interval.
func (rp *reporter) add(r report) {
	if rp.quiet[r.kind] {
		rp.held[r.kind] = &r
		return
	}
	rp.write(r)
}

// flush begins a new interval with what was held back.
func (rp *reporter) flush() {
	for kind, r := range rp.held {
		rp.quiet[kind], rp.held[kind] = false, nil
		if r != nil {
			rp.write(*r)
		}
	}
}

func (rp *reporter) write(r report) {
	rp.quiet[r.kind] = true
	rp.sent[r.kind].Store(false)
	n := rp.count[r.kind].Swap(0)
	attrs := []slog.Attr{slog.Any("error", r.err), slog.Uint64("times", n)}
	if r.port.IsValid() {
		attrs = append(attrs, slog.String("listen", r.port.String()))
	}
	var msg string
	switch r.kind {
	case reportRefused:
		msg = "client refused"
		attrs = append(attrs, slog.String("client", r.addr.String()))
	case reportDescriptors:
		msg = "out of resources, not accepting for a while"
	case reportDial:
		msg = "target does not accept"
		attrs = append(attrs, slog.String("target", r.addr.String()))
	}
	rp.log.LogAttrs(context.Background(), slog.LevelWarn, msg, attrs...)
}
