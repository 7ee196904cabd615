package veth

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// rulebook is one family's iptables. There is a second one, in memory, for
// tests.
type rulebook interface {
	snapshot() (snapshot, error)
	restore(script string) error
	counters(table, chain string) ([]string, error)
}

// lockWait is how long iptables waits for others that change rules, in seconds.
const lockWait = 10

// An ipt is iptables(8) of one family and one variant. Single chains are read
// through go-iptables. The state of all tables is read, and changed, at once, by
// iptables-save(8) and iptables-restore(8), which go-iptables has nothing for: a
// jail's rules take effect together, so that no redirection is there without
// what protects it, and a new forward costs one process, not six, however many
// there are.
type ipt struct {
	variant variant
	v6      bool
	lists   *iptables.IPTables
	command string // path: /usr/sbin/iptables-nft
}

func openIPT(v variant, command string, v6 bool) (*ipt, error) {
	family := iptables.ProtocolIPv4
	if v6 {
		family = iptables.ProtocolIPv6
	}
	lists, err := iptables.New(iptables.IPFamily(family), iptables.Path(command), iptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", command, err)
	}
	return &ipt{v, v6, lists, command}, nil
}

func (t *ipt) snapshot() (snapshot, error) {
	text, err := t.run("-save", nil)
	if err != nil {
		return nil, err
	}
	return parseSave(text), nil
}

// parseSave reads the output of iptables-save(8), as far as snapshots go.
func parseSave(text string) snapshot {
	have, table := snapshot{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			have[table] = map[string][]string{}
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			have[table][name] = nil
		case strings.HasPrefix(line, "-A "):
			name, _, _ := strings.Cut(line[3:], " ")
			have[table][name] = append(have[table][name], line)
		}
	}
	return have
}

func (t *ipt) restore(script string) error {
	_, err := t.run("-restore", strings.NewReader(script), "--noflush", "-w", fmt.Sprint(lockWait))
	return err
}

func (t *ipt) counters(table, chain string) ([]string, error) {
	return t.lists.ListWithCounters(table, chain)
}

// run runs iptables-save or iptables-restore and returns what it prints.
func (t *ipt) run(tool string, stdin *strings.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(t.command+tool, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = stdin
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, lastLine(stderr.String()))
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w", t.command+tool, err)
	}
	return stdout.String(), nil
}

// lastLine returns what a program complained about, without the advice that
// iptables appends.
func lastLine(text string) string {
	var said []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "Try `") {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}
