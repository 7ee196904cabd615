package jail

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A Process is a program that runs in a namespace.
type Process struct {
	PID     int    `json:"pid"`
	UID     uint32 `json:"uid"`     // effective
	Command string `json:"command"` // one printable line: the arguments, or [name] if there are none
	Name    string `json:"-"`       // the kernel's, printable: at most 15 bytes of the file's name
}

// Processes returns the programs whose main thread is in ns, in the order of
// their numbers; the caller is left out. Workers of a relay are not programs:
// only single threads of theirs are inside. A program that ends meanwhile, or
// that the caller may not look at, is not reported.
func Processes(ns *netnsx.Namespace) ([]Process, error) {
	return processesWhere(func(pid int) bool { return inNamespace(pid, ns.ID()) })
}

// processesWhere returns the processes for which want is true, without the
// caller, in the order of their numbers.
func processesWhere(want func(pid int) bool) ([]Process, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	found := []Process{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self || !want(pid) {
			continue
		}
		p, err := readProcess(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

// inNamespace compares the link's text first: that is several times cheaper
// than to have the namespace's file made, and nearly all are elsewhere.
func inNamespace(pid int, id netnsx.ID) bool {
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	var text [64]byte
	n, err := unix.Readlink(path, text[:])
	return err == nil && string(text[:n]) == id.String() && isNamespace(path, id)
}

// isNamespace reports whether the file at path stands for the namespace.
func isNamespace(path string, id netnsx.ID) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && (netnsx.ID{Dev: uint64(st.Dev), Ino: st.Ino}) == id
}

func readProcess(pid int) (Process, error) {
	fields, err := statusFields(pid)
	if err != nil {
		return Process{}, err
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid, Name: commandLine([]byte(fields["Name"]), "")}
	if f := strings.Fields(fields["Uid"]); len(f) == 4 { // real, effective, saved, filesystem
		if p.UID, err = parseAccountID(f[1]); err != nil {
			return Process{}, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	p.Command = commandLine(args, fields["Name"])
	return p, nil
}

// statusFields returns what proc_pid_status(5) says.
func statusFields(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t"); ok {
			fields[key] = value
		}
	}
	return fields, nil
}

// commandLine makes one printable line of a program's arguments, which end in
// NUL bytes and may hold anything, terminal sequences included.
func commandLine(args []byte, name string) string {
	const limit = 256 // runes
	text := string(bytes.TrimRight(args, "\x00"))
	if text == "" {
		text = "[" + name + "]"
	}
	var b strings.Builder
	for n := 0; text != ""; n++ {
		if n == limit {
			b.WriteString("…")
			break
		}
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == 0:
			r = ' '
		case r == utf8.RuneError && size == 1, !unicode.IsPrint(r):
			r = '?'
		}
		b.WriteRune(r)
		text = text[size:]
	}
	return b.String()
}
