package veth

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// There are two iptables: nft, which keeps its rules in nf_tables, and legacy,
// which has tables of its own in the kernel. Both can be installed, and both
// kinds of tables can be in use; a packet passes both. An accept in one does not
// undo a drop in the other, so ours must be where the host's other rules are:
//
//   - in the variant that holds rules (or a policy that drops), if only one does;
//   - else in the one that the host calls "iptables".
//
// The choice stays while there are rules of ours, since they count as well.
type variant struct {
	name   string // "", "-nft" or "-legacy": what the commands' names have in them
	legacy bool
}

var variants = []variant{{"", false}, {"-nft", false}, {"-legacy", true}}

// ErrNoIPTables is the error of a host without iptables.
var ErrNoIPTables = errors.New("iptables is not installed")

func noIPTables() error {
	return hint.Wrap(fmt.Errorf("redirect ports with rules: %w", ErrNoIPTables),
		"relay mode needs no rules: leave --mode veth out; or install the package iptables")
}

// find returns the path of a command of the variant.
func (v variant) find(v6 bool) (string, error) {
	name := "iptables" + v.name
	if v6 {
		name = "ip6tables" + v.name
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} { // not always in PATH
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// open opens iptables of one family.
func (v variant) open(v6 bool) (*ipt, error) {
	command, err := v.find(v6)
	if err != nil {
		return nil, err
	}
	return &ipt{variant: v, v6: v6, command: command}, nil
}

// installedVariants returns the variants that are installed, the one that the host
// calls "iptables" first. The error is about one that cannot be told; the others are
// returned all the same.
func installedVariants() (list []variant, err error) {
	for _, v := range variants {
		command, findErr := v.find(false)
		if findErr != nil {
			continue
		}
		if v.name == "" {
			err = twice(func() (err error) {
				v.legacy, err = isLegacy(command)
				return err
			})
			if err != nil {
				continue
			}
		}
		list = append(list, v)
	}
	return list, err
}

// isLegacy reports which variant a command is. The program behind it tells, which
// is a link to one of two; where it is not, it is asked.
func isLegacy(command string) (bool, error) {
	if path, err := filepath.EvalSymlinks(command); err == nil {
		switch filepath.Base(path) {
		case "xtables-nft-multi":
			return false, nil
		case "xtables-legacy-multi":
			return true, nil
		}
	}
	out, err := exec.Command(command, "--version").Output()
	if err != nil {
		return false, fmt.Errorf("run %s --version: %w", command, err)
	}
	return !strings.Contains(string(out), "nf_tables"), nil
}

// chooseVariant returns the variant that holds the host's rules.
func chooseVariant() (variant, error) {
	installed, err := installedVariants()
	if len(installed) == 0 {
		if err == nil {
			err = noIPTables()
		}
		return variant{}, err
	}
	usual := installed[0]
	for _, other := range installed[1:] {
		if other.legacy == usual.legacy {
			continue
		}
		if other.holdsRules() && !usual.holdsRules() {
			return other, nil
		}
	}
	return usual, nil
}

// holdsRules reports whether the variant's tables make any difference. It must
// not be the first to use legacy tables: asking makes them.
func (v variant) holdsRules() bool {
	for _, v6 := range []bool{false, true} {
		if v.legacy && !legacyInUse(v6) {
			continue
		}
		t, err := v.open(v6)
		if err != nil {
			continue
		}
		text, err := t.save()
		if err == nil && (strings.Contains(text, "\n-A ") || strings.Contains(text, " DROP [")) {
			return true
		}
	}
	return false
}

// legacyInUse reports whether there are legacy tables in this namespace.
func legacyInUse(v6 bool) bool {
	name := "ip_tables_names"
	if v6 {
		name = "ip6_tables_names"
	}
	names, err := os.ReadFile("/proc/thread-self/net/" + name)
	return err == nil && len(names) > 0
}

// everyBook opens all iptables in which rules of ours can be: for removing them
// whatever was installed when they were made. The error is about some that could
// not be looked for.
func everyBook() (books []*ipt, err error) {
	installed, err := installedVariants()
	seen := map[bool]bool{}
	for _, v := range installed {
		if seen[v.legacy] {
			continue
		}
		seen[v.legacy] = true
		for _, v6 := range []bool{false, true} {
			if v.legacy && !legacyInUse(v6) {
				continue
			}
			if t, err := v.open(v6); err == nil { // else it is not installed
				books = append(books, t)
			}
		}
	}
	return books, err
}
