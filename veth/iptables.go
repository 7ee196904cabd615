package veth

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
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
	command string             // path: /usr/sbin/iptables-nft
	lists   *iptables.IPTables // nil: not yet needed; to open it costs a process
}

func (t *ipt) snapshot() (snapshot, error) {
	text, err := t.save()
	if err != nil {
		return nil, err
	}
	return parseSave(text), nil
}

// save returns what all tables hold.
func (t *ipt) save() (text string, err error) {
	err = twice(func() (err error) {
		text, err = t.run("-save", nil)
		return err
	})
	return text, err
}

// surely is snapshot for those who remove what it tells. An iptables-save that cannot
// ask nf_tables for something leaves it out, and does not say so: only two in a row
// that agree are believed.
func surely(book rulebook) (snapshot, error) {
	have, err := book.snapshot()
	for range 3 {
		if err != nil {
			return nil, err
		}
		before := have
		if have, err = book.snapshot(); err == nil && reflect.DeepEqual(before, have) {
			return have, nil
		}
	}
	return have, err // others change them all the time
}

// twice calls fn once more if it fails: what a call needs can be lacking for a
// moment. Taken for good, the failure of a call would leave a family out, or rules
// on the host.
func twice(fn func() error) error {
	err := fn()
	if err != nil {
		err = fn()
	}
	return err
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
	if t.lists == nil {
		family := iptables.ProtocolIPv4
		if t.v6 {
			family = iptables.ProtocolIPv6
		}
		lists, err := iptables.New(iptables.IPFamily(family), iptables.Path(t.command), iptables.Timeout(lockWait))
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", t.command, err)
		}
		t.lists = lists
	}
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
