package main

import (
	"encoding/csv"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/bench"
	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/world"
)

// newBench prepares a world with nothing but lo for wgjail bench, and returns it
// with what must be there afterwards.
func newBench(t *testing.T, w *world.World) (l *lab, before string) {
	t.Helper()
	install(t)
	return &lab{Lab: &world.Lab{Host: w.Host}, w: w}, w.Snapshot(t)
}

// runBench runs wgjail bench with args.
func (l *lab) runBench(t *testing.T, args ...string) result {
	t.Helper()
	r, err := runIn(l.Host, exec.Command("wgjail", append([]string{"bench"}, args...)...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// doBench is runBench for a run that must succeed, and returns the report.
func (l *lab) doBench(t *testing.T, args ...string) *report.Report {
	t.Helper()
	got := l.runBench(t, append(args, "--json")...)
	if got.status != 0 || got.err != "" {
		t.Fatalf("wgjail bench: exit status %d\n%s", got.status, got.err)
	}
	r, err := report.Read(strings.NewReader(got.out))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A short run of everything measures something everywhere, and leaves nothing.
func TestBench(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newBench(t, w)
		dir := t.TempDir()
		csvFile, page := filepath.Join(dir, "r.csv"), filepath.Join(dir, "r.html")
		r := l.doBench(t, "--rounds", "1", "--duration", "100ms", "--csv", csvFile, "--html", page,
			"--modes", "generator,direct,native,relay,relay-source,veth,dnat,socket-proxyd,userspace,kernel")
		for _, name := range []string{"generator", "direct", "native", "relay", "relay-source", "veth", backend()} {
			for _, c := range r.Candidates {
				if c.Name == name && c.Missing != "" {
					t.Errorf("%s is not available: %s", name, c.Missing)
				}
			}
		}
		for _, warning := range r.Warnings {
			// What a peer breaks is said, and no fault of ours: socket-proxyd ends a connection with one of its directions.
			if strings.Contains(warning, "in 1 of 1 rounds") && !strings.HasPrefix(warning, "socket-proxyd,") {
				t.Error(warning)
			}
		}
		checkFigures(t, r)
		rows, err := csv.NewReader(must(os.Open(csvFile))).ReadAll()
		if err != nil || len(rows) != len(r.Figures)+1 {
			t.Errorf("the CSV has %d lines (%v), want %d", len(rows), err, len(r.Figures)+1)
		}
		if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "<canvas") {
			t.Errorf("the page has no chart (%v)", err)
		}
		l.unchanged(t, before, "bench")
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// checkFigures wants each workload measured of all that can do it, with figures
// that a machine can have.
func checkFigures(t *testing.T, r *report.Report) {
	t.Helper()
	_, workloads := bench.Names()
	for _, w := range workloads {
		names := []string{"relay", "relay-source", "veth"}
		switch {
		case w == "udp" || w == "udp-flood": // only TCP tells who the client is
			names = []string{"relay", "veth", "generator", "direct", "native"}
		case w == "idle": // the kernel holds what veth forwards
			names = names[:2]
		case strings.HasPrefix(w, "wrk-") || strings.HasPrefix(w, "iperf3-"):
			continue
		case w == "commands" || strings.HasPrefix(w, "tunnel-"):
			names = []string{backend()}
		case w != "start":
			names = append(names, "generator", "direct", "native")
		}
		for _, name := range names {
			metric := map[string]string{"commands": "up", "idle": "descriptors", "start": "time"}[w]
			if metric == "" {
				metric = report.Rate
			}
			if f := r.Find(w, metric, name); f == nil || !(f.Median > 0) {
				t.Errorf("%s, %s: %s is %+v", name, w, metric, f)
			}
		}
	}
	for _, f := range r.Figures {
		if f.Median < 0 && f.Metric != "memory" || f.Metric == "lost" && f.Median > 100 || f.Unit == "Gbit/s" && f.Median > 1000 {
			t.Errorf("no machine has %+v", f)
		}
	}
	for _, w := range []string{"requests-64", "connections", "udp"} {
		cpu, p50, p99 := r.Find(w, "forwarder", "relay"), r.Find(w, "p50", "relay"), r.Find(w, "p99", "relay")
		if cpu == nil || p50 == nil || p99 == nil || !(cpu.Median > 0) || p50.Median > p99.Median {
			t.Errorf("%s, relay: processor time %+v, p50 %+v, p99 %+v", w, cpu, p50, p99)
		}
	}
	if m := r.Machine; m.Cores < 1 || m.Kernel == "" || m.CPU == "" || m.MTU != 1500 || m.Versions["wgjail"] == "" {
		t.Errorf("the machine is %+v", m)
	}
}

// Ctrl-C ends it with what there is, and nothing is left.
func TestBenchIsInterrupted(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newBench(t, w)
		term := startOnTerminal(t, l.Host, exec.Command("wgjail", "bench", "--rounds", "1000", "--duration", "50ms",
			"--modes", "relay", "--workloads", "requests-1"))
		term.waitFor(t, "round 2 of 1000: relay")
		term.press(t, "\x03") // Ctrl-C
		if status := term.status(); status != 1 {
			t.Errorf("exit status %d, want 1", status)
		}
		for _, text := range []string{"█", "requests-1: requests on one kept connection", "wgjail: error: interrupted: these are the figures until then"} {
			term.waitFor(t, text) // what it has written last may still be on its way
		}
		l.unchanged(t, before, "Ctrl-C")
	})
}

// Even killed it leaves nothing: what it started dies with it.
func TestBenchIsKilled(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newBench(t, w)
		p := l.start(t, "bench", "--rounds", "1000", "--modes", "relay")
		world.Eventually(t, "the relay to run", func() error {
			if !strings.Contains(w.Snapshot(t), "process wgjail forward") {
				return errors.New("it does not")
			}
			return nil
		})
		p.Signal(t, syscall.SIGKILL)
		p.Wait()
		l.unchanged(t, before, "kill -9")
	})
}

func TestBenchCompares(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, _ := newBench(t, w)
		file := filepath.Join(t.TempDir(), "old.json")
		args := []string{"--rounds", "4", "--duration", "50ms", "--modes", "relay,native", "--workloads", "requests-1"}
		r := l.doBench(t, args...)
		for i := range r.Figures { // as if it had been faster by more than any other load makes of it
			if f := &r.Figures[i]; f.Candidate == "relay" && f.Metric == report.Rate {
				for k := range f.Values {
					f.Values[k] *= 1e6
				}
			}
		}
		to := must(os.Create(file))
		if err := errors.Join(r.Write(to), to.Close()); err != nil {
			t.Fatal(err)
		}
		got := l.runBench(t, append(args, "--compare", file)...)
		if got.status != 1 || !strings.Contains(got.out, "WORSE   relay, requests-1, rate: ") || got.err != "" {
			t.Errorf("status %d, printed\n%s%s", got.status, got.out, got.err)
		}
	})
}

// What cannot be done is said before anything is measured.
func TestBenchRefuses(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newBench(t, w)
		for _, tt := range []struct {
			status int
			text   string
			args   string
		}{
			{2, `unknown mode "rely"`, "--modes rely"},
			{2, "hint: there are generator, direct", "--modes rely"},
			{2, `unknown workload "speed"`, "--workloads speed"},
			{2, "a measurement of 1ms", "--duration 1ms"},
			{2, "0 rounds", "--rounds 0"},
			{2, "both want standard output", "--json --csv -"},
			{1, "missing.json: no such file", "--compare missing.json"},
			{1, "/etc/hosts: not a report of wgjail bench --json", "--compare /etc/hosts"},
			{1, "/missing/r.html: no such file", "--csv new.csv --html /missing/r.html"},
		} {
			got := l.runBench(t, strings.Fields(tt.args)...)
			if got.status != tt.status || got.out != "" || !strings.Contains(got.err, tt.text) {
				t.Errorf("%s: status %d, printed\n%s%s\nwant %d and %q", tt.args, got.status, got.out, got.err, tt.status, tt.text)
			}
		}
		if _, err := os.Lstat("new.csv"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("new.csv is left: %v", err)
		}
		l.unchanged(t, before, "refusals")
	})
}
