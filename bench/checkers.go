package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/wgjail/wgjail/bench/report"
)

// Other people's generators, as a check of this one's figures: the same
// candidates, in the same run.

// checkers starts what they need at the other end, if one is wanted.
func (r *runner) checkers() {
	for _, w := range r.report.Workloads {
		if w.Name != "iperf3-download" && w.Name != "iperf3-upload" {
			continue
		}
		for _, node := range []string{"host", jailName, "pasta"} {
			// It goes with the machine.
			if err := r.lab.nodes[node].Do(exec.Command("iperf3", "-s", "-p", strconv.Itoa(portIperf)).Start); err != nil {
				r.once("iperf3: " + err.Error())
			}
		}
		return
	}
}

// seconds is how long they run: they know whole seconds.
func (m *measurement) seconds() string {
	return strconv.Itoa(max(1, int(m.cfg.Duration.Round(time.Second)/time.Second)))
}

// clientOutput runs a command where the client is.
func (m *measurement) clientOutput(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := m.lab.nodes[m.from].Do(cmd.Run)
	if err != nil {
		err = fmt.Errorf("%s: %s", program, reason(out.String(), err))
	}
	return out.Bytes(), err
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)

func wrk(conns int, anew bool) func(context.Context, *measurement) error {
	return func(ctx context.Context, m *measurement) error {
		args := []string{"-t1", fmt.Sprintf("-c%d", conns), "-d" + m.seconds(), fmt.Sprintf("http://%v/", m.target.HTTP)}
		if anew {
			args = append([]string{"-H", "Connection: close"}, args...)
		}
		out, err := m.clientOutput(ctx, "wrk", args...)
		if err != nil {
			return err
		}
		m.settle(ctx)
		found := wrkRate.FindSubmatch(out)
		if found == nil {
			return fmt.Errorf("wrk printed no rate: %.200q", out)
		}
		rate, err := strconv.ParseFloat(string(found[1]), 64)
		if err == nil {
			m.add(report.Rate, "req/s", report.Higher, rate)
		}
		return err
	}
}

func iperf3(up bool) func(context.Context, *measurement) error {
	return func(ctx context.Context, m *measurement) error {
		at := m.target.HTTP
		args := []string{"-J", "-c", at.Addr().String(), "-p", fmt.Sprint(at.Port() - 8080 + portIperf), "-t", m.seconds()}
		if !up {
			args = append(args, "-R")
		}
		out, err := m.clientOutput(ctx, "iperf3", args...)
		if err != nil {
			return err
		}
		var result struct {
			End struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		if err := json.Unmarshal(out, &result); err != nil {
			return fmt.Errorf("read what iperf3 printed: %w", err)
		}
		m.add(report.Rate, "Gbit/s", report.Higher, result.End.Received.Rate/1e9)
		return nil
	}
}
