package bench

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/bench/report"
)

// A look is what the real machine was doing at some time.
type look struct {
	at   time.Time
	load float64       // average over the last minute
	busy time.Duration // of all processors together, ever
}

func lookAtMachine() look {
	l := look{at: time.Now()}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		word, _, _ := strings.Cut(string(text), " ")
		l.load, _ = strconv.ParseFloat(word, 64)
	}
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		l.busy = busy(string(text))
	}
	return l
}

// busy adds up the first line of proc_stat(5): all but idle and iowait, and but
// the guests' time, which is in the users' as well. Time that was stolen from
// this machine counts: others had it.
func busy(text string) time.Duration {
	line, _, _ := strings.Cut(text, "\n")
	var sum int64
	for i, word := range strings.Fields(line) {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil && i != 4 && i != 5 && i < 9 {
			sum += n
		}
	}
	return time.Duration(sum) * tick
}

// describe says what the machine was. used is what the run has used besides this
// process and its children.
func (l *lab) describe(before, after look, used cost, version string) report.Machine {
	m := report.Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), MTU: 1500, TunnelMTU: tunnelMTU,
		LoadBefore: before.load, LoadAfter: after.load, Versions: versions(version),
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20)
	}
	ours := ownCost().plus(usage(unix.RUSAGE_CHILDREN)).plus(used).exact
	if all := after.at.Sub(before.at) * time.Duration(m.Cores); all > 0 {
		m.OtherLoad = max(0, float64(after.busy-before.busy-ours)/float64(all))
	}
	return m
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// versions asks the programs that are installed.
func versions(wgjail string) map[string]string {
	v := map[string]string{"wgjail": wgjail, "Go": strings.TrimPrefix(runtime.Version(), "go")}
	for _, ask := range []struct {
		name string
		args []string
	}{
		{"HAProxy", []string{"haproxy", "-v"}},
		{"socat", []string{"socat", "-V"}},
		{"systemd", []string{"systemd-socket-activate", "--version"}},
		{"iptables", []string{"iptables", "--version"}},
		{"wrk", []string{"wrk", "-v"}},
		{"iperf3", []string{"iperf3", "--version"}},
	} {
		out, _ := exec.Command(ask.args[0], ask.args[1:]...).CombinedOutput() // some end with status 1
		if found := versionPattern.Find(out); found != nil {
			v[ask.name] = string(found)
		}
	}
	return v
}

// versionPattern finds the first word that looks like a version: numbers with a
// dot between them, or systemd's, which is a number alone in brackets as well.
var versionPattern = regexp.MustCompile(`\d+\.\d[\w.~+-]*|\b\d{3}\b`)
