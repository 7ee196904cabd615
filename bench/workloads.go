package bench

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/bench/report"
)

// A workload is one thing to do with a candidate.
type workload struct {
	name, title string
	udp         bool     // takes a candidate that forwards datagrams
	check       bool     // checks the generator with another one: only when asked for
	tunnel      bool     // is for the kinds of WireGuard
	fresh       bool     // comes first, when the forwarder has done nothing yet
	needs       []string // programs
	run         func(context.Context, *measurement) error
}

// How many connections the workloads with many have.
const (
	manyStreams     = 8
	keptConnections = 64
	atOnce          = 16
	idleConnections = 1000
)

var workloadList = []*workload{
	{name: "requests-64", title: "requests on 64 kept connections", run: requests(keptConnections)},
	{name: "requests-1", title: "requests on one kept connection", run: requests(1)},
	{name: "connections", title: "a new connection for each request, 16 at a time", run: connections},
	{name: "download", title: "bulk from the jail, one stream", run: bulk(1, false)},
	{name: "download-8", title: "bulk from the jail, 8 streams", run: bulk(manyStreams, false)},
	{name: "upload", title: "bulk into the jail, one stream", run: bulk(1, true)},
	{name: "upload-8", title: "bulk into the jail, 8 streams", run: bulk(manyStreams, true)},
	{name: "udp", title: "UDP, 64 bytes there and back, 16 flows with 8 under way each", udp: true, run: datagrams},
	{name: "udp-flood", title: "UDP, 64 bytes one way, one flow as fast as it can", udp: true, run: flood},
	{name: "idle", title: "an idle connection, of 1000 (socat: 20)", fresh: true, run: idle},
	{name: "start", title: "time from the start of the forwarder to the first byte through it", fresh: true, run: startTime},
	{name: "wrk-requests-64", title: "the same as requests-64, by wrk", check: true, needs: []string{"wrk"}, run: wrk(keptConnections, false)},
	{name: "wrk-connections", title: "the same as connections, by wrk", check: true, needs: []string{"wrk"}, run: wrk(atOnce, true)},
	{name: "iperf3-download", title: "the same as download, by iperf3", check: true, needs: []string{"iperf3"}, run: iperf3(false)},
	{name: "iperf3-upload", title: "the same as upload, by iperf3", check: true, needs: []string{"iperf3"}, run: iperf3(true)},
	{name: "commands", title: "commands, as whole processes, without a forward", tunnel: true},
	{name: "tunnel-download", title: "bulk through the tunnel to the jail, one stream; both ends share the processors", tunnel: true, run: bulk(1, false)},
	{name: "tunnel-upload", title: "bulk through the tunnel from the jail, one stream", tunnel: true, run: bulk(1, true)},
	{name: "tunnel-requests", title: "requests through the tunnel on one kept connection", tunnel: true, run: requests(1)},
}

func startTime(_ context.Context, m *measurement) error {
	if m.group() != 0 {
		m.add("time", "ms", report.Lower, float64(m.took)/float64(time.Millisecond))
	}
	return nil
}

// idle looks at what connections cost that do nothing. Later than first
// it would find memory that other connections have left.
func idle(ctx context.Context, m *measurement) error {
	if m.group() == 0 || m.held == 0 {
		return nil
	}
	before := groupHolding(m.group())
	h, err := load.Hold(m.target, m.held)
	if err != nil {
		return err
	}
	after := groupHolding(m.group())
	h.Close()
	m.settle(ctx)
	m.add("memory", "KiB", report.Lower, float64(after.memory-before.memory)/1024/float64(m.held))
	// To the hundredth: a forwarder opens and closes files of its own.
	m.add("descriptors", "", report.Lower, math.Round(100*float64(after.files-before.files)/float64(m.held))/100+0) // and no -0
	return nil
}

func bulk(streams int, up bool) func(context.Context, *measurement) error {
	return func(ctx context.Context, m *measurement) error {
		r, b, err := m.drive(ctx, func(ctx context.Context, w load.Window) (load.Result, error) {
			if up {
				return load.Upload(ctx, m.target, m.server, streams, w)
			}
			return load.Download(ctx, m.target, streams, w)
		})
		if err != nil {
			return err
		}
		m.add(report.Rate, "Gbit/s", report.Higher, perSecond(r.Bytes, r.Elapsed)*8/1e9)
		m.cost(b, float64(r.Bytes)/(1<<30), "s/GiB", 1)
		return nil
	}
}

func requests(conns int) func(context.Context, *measurement) error {
	return func(ctx context.Context, m *measurement) error {
		r, b, err := m.drive(ctx, func(ctx context.Context, w load.Window) (load.Result, error) {
			return load.Requests(ctx, m.target, conns, w)
		})
		if err != nil {
			return err
		}
		m.answered(r, b, "req/s", "µs/req")
		return nil
	}
}

func connections(ctx context.Context, m *measurement) error {
	r, b, err := m.drive(ctx, func(ctx context.Context, w load.Window) (load.Result, error) {
		return load.Connections(ctx, m.target, atOnce, w)
	})
	if err != nil {
		return err
	}
	m.answered(r, b, "conn/s", "µs/conn")
	if r.Failed > 0 {
		m.problem(m.candidate, m.workload.name, fmt.Errorf("%d of %d connections failed", r.Failed, r.Failed+r.Ops))
	}
	return nil
}

// answered notes what was asked and answered.
func (m *measurement) answered(r load.Result, b bill, unit, costUnit string) {
	m.add(report.Rate, unit, report.Higher, perSecond(r.Ops, r.Elapsed))
	m.latency(r.Latency)
	m.cost(b, float64(r.Ops), costUnit, 1e6)
}

func datagrams(ctx context.Context, m *measurement) error {
	r, b, err := m.drive(ctx, func(ctx context.Context, w load.Window) (load.Result, error) {
		return load.Datagrams(ctx, m.target, w)
	})
	if err != nil {
		return err
	}
	m.add(report.Rate, "trips/s", report.Higher, perSecond(r.Ops, r.Elapsed))
	m.lost(r)
	m.latency(r.Latency)
	m.cost(b, float64(r.Ops), "µs/trip", 1e6)
	return nil
}

func flood(ctx context.Context, m *measurement) error {
	r, b, err := m.drive(ctx, func(ctx context.Context, w load.Window) (load.Result, error) {
		return load.Flood(ctx, m.target, m.server, w)
	})
	if err != nil {
		return err
	}
	m.add(report.Rate, "arrived/s", report.Higher, perSecond(r.Ops, r.Elapsed))
	m.lost(r)
	m.add("sent", "/s", report.Higher, perSecond(r.Sent, r.Elapsed))
	m.cost(b, float64(r.Ops), "µs", 1e6)
	return nil
}

// lost notes the part of what was sent that did not arrive.
func (m *measurement) lost(r load.Result) {
	if r.Sent > 0 {
		m.add("lost", "%", report.Lower, 100*max(0, 1-float64(r.Ops)/float64(r.Sent)))
	}
}
