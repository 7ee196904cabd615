package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

const metricsUsage = "serve Prometheus metrics at this `ADDR` ([ADDR:]PORT; without an address on loopback only)"

// metricsAddr reads the argument of --metrics. Who means all addresses has to
// say so: metrics tell which jails there are, and their peers.
func metricsAddr(s string) (netip.AddrPort, error) {
	if port, err := strconv.ParseUint(s, 10, 16); err == nil && port > 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil || at.Port() == 0 {
		return at, hint.Wrap(misused("--metrics %q: not a port, or an address and a port", s), "as in: --metrics 9586, or --metrics 192.168.1.2:9586")
	}
	return at, nil
}

// checkMetrics reports whether --metrics can be what it is; "" is none.
func checkMetrics(s string) error {
	if s == "" {
		return nil
	}
	_, err := metricsAddr(s)
	return err
}

// serveMetrics serves what read returns each time it is asked, until ctx is
// done. Its port is bound when it returns. An empty addr serves nothing.
func serveMetrics(ctx context.Context, addr string, read func() (observed, error)) error {
	if addr == "" {
		return nil
	}
	at, err := metricsAddr(addr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return hint.Wrap(fmt.Errorf("serve metrics: %w", err), "choose another port with --metrics; see who has this one: ss -ltnp 'sport = :%d'", at.Port())
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector{read})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	context.AfterFunc(ctx, func() { server.Close() })
	go server.Serve(l)
	return nil
}

// observed is what metrics tell about.
type observed struct {
	jails    []*jail.Status
	forwards map[string][]jail.ForwardStatus // by jail; "" for those that lead elsewhere
}

// observeJail observes a jail and the forwards into it.
func observeJail(name string) (observed, error) {
	s, err := jail.ReadStatus(name)
	if err != nil {
		return observed{}, err
	}
	return observed{[]*jail.Status{s}, map[string][]jail.ForwardStatus{name: s.Forwards}}, nil
}

// observeForwards observes the forwards into a place that this process serves.
func observeForwards(place jail.Place) (observed, error) {
	list, err := forwardsInto(place)
	list = slices.DeleteFunc(list, func(f jail.ForwardStatus) bool { return f.PID != os.Getpid() })
	return observed{forwards: map[string][]jail.ForwardStatus{place.Jail: list}}, err
}

// A metric is one that is served, with its labels.
type metric struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("wgjail_"+name, help, labels, nil), kind}
}

const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue

var (
	forwardLabels = []string{"jail", "id", "mode", "proto", "listen", "target"}

	buildInfo = newMetric(gauge, "build_info", "1, with the version of wgjail that serves this.", "version")
	jailState = newMetric(gauge, "jail_state", "1 for the state that the jail is in, 0 for the others.", "jail", "state")
	jailMTU   = newMetric(gauge, "jail_mtu_bytes", "MTU of the tunnel.", "jail")
	processes = newMetric(gauge, "jail_processes", "Processes that run in the jail.", "jail")

	peerHandshake = newMetric(gauge, "peer_latest_handshake_timestamp_seconds", "When the latest handshake with the peer was; absent if there was none.", "jail", "peer")
	peerReceived  = newMetric(counter, "peer_received_bytes_total", "Bytes received from the peer.", "jail", "peer")
	peerSent      = newMetric(counter, "peer_sent_bytes_total", "Bytes sent to the peer.", "jail", "peer")

	forwardActive  = newMetric(gauge, "forward_active", "Open connections, or flows of UDP.", forwardLabels...)
	forwardTotal   = newMetric(counter, "forward_connections_total", "Connections, or flows of UDP, that were accepted.", forwardLabels...)
	forwardRefused = newMetric(counter, "forward_refused_total", "Clients that were refused: not allowed, or over a limit.", forwardLabels...)
	forwardErrors  = newMetric(counter, "forward_dial_errors_total", "Tries to reach the service in the jail that failed.", forwardLabels...)
	forwardIn      = newMetric(counter, "forward_in_bytes_total", "Bytes from clients into the jail.", forwardLabels...)
	forwardOut     = newMetric(counter, "forward_out_bytes_total", "Bytes from the jail to clients.", forwardLabels...)

	metrics = []metric{buildInfo, jailState, jailMTU, processes, peerHandshake, peerReceived, peerSent,
		forwardActive, forwardTotal, forwardRefused, forwardErrors, forwardIn, forwardOut}
)

// A collector turns what read returns into metrics.
type collector struct{ read func() (observed, error) }

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range metrics {
		to <- m.Desc
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	send := func(m metric, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(m.Desc, m.kind, value, labels...)
	}
	o, err := c.read()
	if err != nil {
		to <- prometheus.NewInvalidMetric(jailState.Desc, err)
		return
	}
	send(buildInfo, 1, version())
	for _, s := range o.jails {
		collectJail(s, send)
	}
	for name, list := range o.forwards {
		for _, f := range list {
			labels := []string{name, f.ID, string(f.Mode), f.Proto, f.Listen, f.Target}
			send(forwardActive, float64(f.Active), labels...)
			send(forwardTotal, float64(f.Total), labels...)
			send(forwardRefused, float64(f.Refused), labels...)
			send(forwardErrors, float64(f.Errors), labels...)
			send(forwardIn, float64(f.BytesIn), labels...)
			send(forwardOut, float64(f.BytesOut), labels...)
		}
	}
}

func collectJail(s *jail.Status, send func(metric, float64, ...string)) {
	for _, state := range []string{jail.StateUp, jail.StateStale, jail.StateBroken} {
		is := 0.0
		if s.State == state {
			is = 1
		}
		send(jailState, is, s.Name, state)
	}
	send(jailMTU, float64(s.MTU), s.Name)
	send(processes, float64(len(s.Processes)), s.Name)
	for _, p := range s.Peers {
		if p.LatestHandshake != nil {
			send(peerHandshake, float64(p.LatestHandshake.UnixMilli())/1000, s.Name, p.PublicKey)
		}
		send(peerReceived, float64(p.RxBytes), s.Name, p.PublicKey)
		send(peerSent, float64(p.TxBytes), s.Name, p.PublicKey)
	}
}
