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
}

// Processes returns the programs whose main thread is in ns, in the order of
// their numbers; the caller is left out. Workers of a relay are not programs:
// only single threads of theirs are inside. A program that ends meanwhile, or
// that the caller may not look at, is not reported.
func Processes(ns *netnsx.Namespace) ([]Process, error) {
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
		if err != nil || pid == self || !inNamespace(pid, ns.ID()) {
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
	dir := fmt.Sprintf("/proc/%d", pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return Process{}, err
	}
	args, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid}
	var name string
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
		switch key {
		case "Name":
			name = value
		case "Uid": // real, effective, saved, filesystem
			if f := strings.Fields(value); len(f) == 4 {
				if p.UID, err = parseAccountID(f[1]); err != nil {
					return Process{}, fmt.Errorf("%s/status: %w", dir, err)
				}
			}
		}
	}
	p.Command = commandLine(args, name)
	return p, nil
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
