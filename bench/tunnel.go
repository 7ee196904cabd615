package bench

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/jail"
)

// A backend is a kind of WireGuard, as wgjail up --backend names it.
type backend struct{ name, what string }

var backends = []*backend{
	{"userspace", "the embedded WireGuard"},
	{"kernel", "the kernel's WireGuard"},
}

// tunnelName is the jail that is made anew for each round.
const tunnelName = "tunnel"

// try says why a backend cannot be used here; "": it can.
func (b *backend) try(l *lab) string {
	conf, err := l.conf(tunnelName)
	if err == nil {
		err = l.wgjail("up", "--backend", b.name, conf)
	}
	if err == nil {
		err = l.wgjail("down", tunnelName)
	}
	if err != nil {
		return strings.TrimPrefix(err.Error(), "wgjail up: ")
	}
	return ""
}

// roundOfTunnel makes a jail, puts the workloads through its tunnel, and removes it. The
// commands are timed on the way.
func (r *runner) roundOfTunnel(ctx context.Context, b *backend, work []*workload, round int) error {
	conf, err := r.lab.conf(tunnelName)
	if err != nil {
		return err
	}
	m := &measurement{runner: r, candidate: b.name, round: round}
	for _, w := range work {
		if w.name == "commands" {
			m.workload = w
		}
	}
	if err := m.timed("up", "up", "--backend", b.name, conf); err != nil {
		return err
	}
	ns, err := netnsx.OpenNamed(tunnelName)
	if err != nil {
		return err
	}
	defer ns.Close()
	r.lab.nodes[tunnelName] = ns
	err = m.timed("exec", "exec", tunnelName, "--", "true")
	m.instance = &instance{target: r.lab.target(tunnelName, provider.ServerV4, 0), server: r.lab.inExit}
	if b.name == "userspace" { // else the kernel does the work, for nobody's account
		m.keeper = keeperOf(tunnelName)
	}
	for _, w := range work {
		if w.run != nil && err == nil && ctx.Err() == nil {
			r.one(ctx, m.of(w))
		}
	}
	r.used = r.used.plus(groupCost(m.group()))
	if downErr := m.timed("down", "down", tunnelName); err == nil {
		err = downErr
	}
	return err
}

// of is the measurement of another workload.
func (m *measurement) of(w *workload) *measurement {
	other := *m
	other.workload = w
	return &other
}

// timed runs wgjail and notes how long it took, if commands are measured.
func (m *measurement) timed(metric string, args ...string) error {
	start := time.Now()
	err := m.lab.wgjail(args...)
	if err == nil && m.workload != nil {
		m.add(metric, "ms", report.Lower, float64(time.Since(start))/float64(time.Millisecond))
	}
	return err
}

// keeperOf returns the process group of a jail's keeper; 0: it is not found.
func keeperOf(name string) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		text, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		words := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		if len(words) > 2 && words[1] == jail.KeeperCommand && words[len(words)-1] == name {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(d)))
			return pid
		}
	}
	return 0
}
