package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

func TestCheck(t *testing.T) {
	good := Config{Duration: time.Second, Rounds: 1}
	for _, tt := range []struct {
		change func(*Config)
		want   string // "": nothing is wrong
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Modes, c.Workloads = []string{"veth", "kernel"}, []string{"udp", "wrk-requests-64"} }, ""},
		{func(c *Config) { c.Modes = []string{"relay", "vet"} }, `unknown mode "vet"`},
		{func(c *Config) { c.Workloads = []string{""} }, `unknown workload ""`},
		{func(c *Config) { c.Duration = 0 }, "between 10ms and an hour"},
		{func(c *Config) { c.Duration = 2 * time.Hour }, "between 10ms and an hour"},
		{func(c *Config) { c.Rounds = -1 }, "between 1 and 1000"},
	} {
		c := good
		tt.change(&c)
		if err := c.Check(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", c, err, tt.want)
		}
	}
}

// By default everything is done but what checks the generator.
func TestWhatIsDone(t *testing.T) {
	var all, some Config
	some.Workloads = []string{"wrk-requests-64"}
	for _, w := range workloadList {
		if got := all.does(w); got == w.check {
			t.Errorf("%s by default: %v", w.name, got)
		}
		if got := some.does(w); got != (w.name == "wrk-requests-64") {
			t.Errorf("%s when wrk-requests-64 is asked for: %v", w.name, got)
		}
	}
}

// What must come first does, whatever the order of the report.
func TestFreshWorkComesFirst(t *testing.T) {
	r := &runner{report: &report.Report{}}
	work := r.work(func(w *workload) bool { return !w.tunnel })
	if len(work) < 5 || !work[0].fresh || !work[1].fresh || work[2].fresh {
		t.Errorf("the order is %v", work)
	}
	if first := r.report.Workloads[0].Name; first != workloadList[0].name {
		t.Errorf("the report begins with %s", first)
	}
}

func TestReference(t *testing.T) {
	r := &report.Report{}
	for _, tt := range []struct{ add, want string }{{"socat", ""}, {"direct", "direct"}, {"veth", "veth"}, {"relay", "relay"}} {
		r.Figures = append(r.Figures, report.Figure{Candidate: tt.add})
		if got := reference(r); got != tt.want {
			t.Errorf("with %s it is %q, want %q", tt.add, got, tt.want)
		}
	}
}

func TestReason(t *testing.T) {
	err := errors.New("exit status 1")
	for printed, want := range map[string]string{
		"": "exit status 1",
		"wgjail: warning: x\nwgjail: error: unknown mode\n": "unknown mode",
		"Failed to send 46 bytes to syslog\nNo interface\n": "exit status 1: No interface",
	} {
		if got := reason(printed, err); got != want {
			t.Errorf("%q: %q, want %q", printed, got, want)
		}
	}
}

func TestBusy(t *testing.T) {
	//                 user nice system idle iowait irq softirq steal guest guest_nice
	if got := busy("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3\n"); got != 171*tick {
		t.Errorf("busy for %v, want 1.71s", got)
	}
}

func TestVersions(t *testing.T) {
	for printed, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2023/12/16":      "2.6.12-1+deb12u4",
		"iptables v1.8.9 (nf_tables)":                      "1.8.9",
		"systemd 252 (252.39-1~deb12u1)":                   "252",
		"wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012": "4.1.0-3+b2",
		"pasta unknown version\nCopyright Red Hat":         "",
	} {
		if got := string(versionPattern.Find([]byte(printed))); got != want {
			t.Errorf("%q: %q, want %q", printed, got, want)
		}
	}
}

// The cost of a group is what its processes have used, those that have ended
// among their children as well.
func TestGroupCost(t *testing.T) {
	cmd := exec.Command("sh", "-c", `
		sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done'
		echo; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo; read x`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen []cost
	for range 2 {
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, groupCost(cmd.Process.Pid))
	}
	stdin.Close()
	cmd.Wait()
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if child := seen[0].exact; child <= 0 || seen[1].exact <= child || seen[1].exact > used+5*tick || seen[1].exact < used/2 {
		t.Errorf("costs are %v, of %v in all", seen, used)
	}
	if c := seen[1]; c.user()+c.system() != c.exact || c.user() < c.system() {
		t.Errorf("user %v and system %v of %v", c.user(), c.system(), c.exact)
	}
	if c := groupCost(cmd.Process.Pid); c.exact != 0 {
		t.Errorf("it still costs %v", c)
	}
	if c := groupCost(0); c.exact != 0 {
		t.Errorf("no group costs %v", c)
	}
}

func TestGroupHolding(t *testing.T) {
	cmd := exec.Command("sh", "-c", "echo; read x; exec 7</dev/null 8</dev/null; echo; read x")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen []holding
	for range 2 {
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, groupHolding(cmd.Process.Pid))
		io.WriteString(stdin, "\n")
	}
	cmd.Wait()
	if more := seen[1].files - seen[0].files; seen[0].files < 3 || more != 2 {
		t.Errorf("it holds %d files, then %d more; want 2", seen[0].files, more)
	}
	if m := seen[1].memory; m < 50<<10 || m > 50<<20 {
		t.Errorf("it holds %d bytes", m)
	}
}

// Each candidate has a colour of its own on the page, light and dark.
func TestColours(t *testing.T) {
	script, err := os.ReadFile("report/assets/page.js")
	if err != nil {
		t.Fatal(err)
	}
	modes, _ := Names()
	for _, m := range modes {
		plain, quoted := strings.Count(string(script), m+": '#"), strings.Count(string(script), fmt.Sprintf("'%s': '#", m))
		if plain < 2 && quoted != 2 {
			t.Errorf("%s has no colours in page.js", m)
		}
	}
}
