package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// scrape fetches the metrics at a port of the host's loopback.
func (l *lab) scrape(t *testing.T, port string) string {
	t.Helper()
	return l.Host.Run(t, "curl", "--noproxy", "*", "-sSf", "-m", "20", "http://127.0.0.1:"+port+"/metrics")
}

// value returns the value of the one line of metrics that matches.
func value(t *testing.T, metrics, line string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^`+line+` (.*)$`).FindAllStringSubmatch(metrics, -1)
	if len(found) != 1 {
		t.Fatalf("%d lines %s in:\n%s", len(found), line, metrics)
	}
	return found[0][1]
}

// The keeper and a forward tell about themselves, in the text that Prometheus
// reads, at loopback alone, and not unless they are asked to.
func TestMetrics(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.up(t, "--metrics", "9586", "-p", "8080")
		l.do(t, "forward", "-d", "--metrics", "127.0.0.1:9587", "--allow", "any", "8081:7")
		serve(t, w.Open(t, "vpn"), "inside", "tcp", "127.0.0.1:7")
		l.usable(t, "with metrics")
		v, err := visitTo(l.LAN, world.HostLANV4+":8081")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(v, "hello")
		v.Close()
		keeper := l.scrape(t, "9586")
		peer := regexp.QuoteMeta(l.status(t).Peers[0].PublicKey)
		for line, want := range map[string]string{
			`wgjail_jail_state{jail="vpn",state="up"}`:     "1",
			`wgjail_jail_state{jail="vpn",state="broken"}`: "0",
			`wgjail_jail_mtu_bytes{jail="vpn"}`:            "1420",
			`wgjail_jail_processes{jail="vpn"}`:            "0",
			`wgjail_forward_active{id="tcp-8080",jail="vpn",listen="\*:8080",mode="relay",proto="tcp",target="127.0.0.1:8080"}`: "0",
		} {
			if got := value(t, keeper, line); got != want {
				t.Errorf("%s is %s, want %s", line, got, want)
			}
		}
		for _, name := range []string{"peer_received_bytes_total", "peer_sent_bytes_total", "peer_latest_handshake_timestamp_seconds"} {
			if got := value(t, keeper, fmt.Sprintf(`wgjail_%s{jail="vpn",peer="%s"}`, name, peer)); got == "0" {
				t.Errorf("%s is 0 after traffic", name)
			}
		}
		const labels = `{id="tcp-8081",jail="vpn",listen="\*:8081",mode="relay",proto="tcp",target="127.0.0.1:7"}`
		world.Eventually(t, "what the forward counts", func() error {
			own := l.scrape(t, "9587")
			for name, want := range map[string]string{"in_bytes_total": "5", "active": "0", "connections_total": "1", "refused_total": "0"} {
				if got := value(t, own, "wgjail_forward_"+name+labels); got != want {
					return fmt.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if strings.Contains(own, "tcp-8080") || strings.Contains(own, "wgjail_jail_state") {
				return fmt.Errorf("more than its own:\n%s", own)
			}
			return nil
		})
		l.mustHaveNoSecret(t, "metrics", keeper)
		if c, err := l.LAN.Dial("tcp", world.HostLANV4+":9586"); err == nil {
			c.Close()
			t.Error("the LAN reaches the keeper's metrics")
		}
		// A port that is taken fails what was to serve it.
		l.refused(t, 1, []string{"serve metrics: ", "address already in use", "hint: choose another port with --metrics"}, "forward", "-d", "--metrics", "9586", "8082")
		l.do(t, "down", "vpn")
		l.refused(t, 1, []string{"serve metrics: ", "address already in use"}, "up", "--metrics", taken(t, l.Host), l.conf)
		l.unchanged(t, before, "down")
	})
}

// taken is a port of the node that somebody has.
func taken(t *testing.T, n *world.Node) string {
	t.Helper()
	listener, err := n.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// What is served, the list of it in docs and the dashboard tell of the same.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(dashboard) {
		t.Error("docs/grafana.json is not JSON")
	}
	var served []string
	for _, m := range metrics {
		name := regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)"`).FindStringSubmatch(m.Desc.String())
		served = append(served, name[1])
		if line := "| `" + name[1] + "` | "; !strings.Contains(string(text), line) || !strings.Contains(string(text), name[2]) {
			t.Errorf("not in docs/metrics.md: %s, %s", name[1], name[2])
		}
	}
	for _, name := range regexp.MustCompile(`wgjail_[a-z_]+`).FindAllString(string(text)+string(dashboard), -1) {
		if !slices.Contains(served, name) {
			t.Errorf("in docs, but not served: %s", name)
		}
	}
}

// The logs of what goes on in the background are as they were asked for.
func TestLogFormat(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.do(t, "--log-format", "json", "up", l.conf, "-p", "8080")
		for _, name := range []string{"keeper.log", "forward.log"} {
			text, err := os.ReadFile("/run/wgjail/vpn/" + name)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				var entry struct{ Time, Level, Msg string }
				if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Msg == "" {
					t.Errorf("%s: %v: %s", name, err, line)
				}
			}
			if name == "keeper.log" && !strings.Contains(string(text), `"msg":"keeper started"`) {
				t.Errorf("%s holds %q", name, text)
			}
		}
		l.do(t, "down", "vpn")
		got := l.runCmd(t, exec.Command("wgjail", "--debug", "--log-format=json", "up", l.conf)).err
		if !strings.Contains(got, `"msg":"step","do":"make the namespace","jail":"vpn"}`) {
			t.Errorf("no step as JSON in:\n%s", got)
		}
		l.refused(t, 2, []string{`invalid argument "xml" for "--log-format" flag: it is text or json`}, "--log-format", "xml", "status")
	})
}
