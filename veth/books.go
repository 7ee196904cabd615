package veth

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// openBooks opens the iptables of each family that the host has. A host whose
// IPv6 is off, or has no rules for it (see look), is redirected for IPv4 only: IPv6
// clients reach the caller's socket.
func openBooks(log *slog.Logger) (books []rulebook, v6 bool, err error) {
	variant, err := chooseVariant()
	if err != nil {
		return nil, false, err
	}
	v4, err := variant.open(false)
	if err != nil {
		return nil, false, err
	}
	books = []rulebook{v4}
	if off, err := readSysctl("ipv6/conf/all/disable_ipv6"); err != nil || off != "0" {
		return books, false, nil
	}
	six, err := variant.open(true)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		warnNoIPv6(log, err)
		return books, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return append(books, six), true, nil
}

func warnNoIPv6(log *slog.Logger, err error) {
	log.Warn("no IPv6 rules on this host: IPv6 clients are not redirected", "error", err)
}

// families are those that the pair has: IPv4 first.
func (v *Veth) families() []bool { return []bool{false, true}[:len(v.books)] }

// eachBook calls fn for each family's iptables, at the same time.
func (v *Veth) eachBook(fn func(i int, book rulebook) error) error {
	errs := make([]error, len(v.books))
	var wg sync.WaitGroup
	for i, book := range v.books {
		wg.Go(func() { errs[i] = fn(i, book) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// look reads the tables of each family, if that has not been done since the lock
// was taken. The first time it settles whether the host has IPv6 rules: not if
// ip6tables refuses to show them.
func (v *Veth) look() error {
	if v.looked {
		return nil
	}
	v.known = make([]snapshot, len(v.books))
	errs := make([]error, len(v.books))
	v.eachBook(func(i int, book rulebook) error {
		v.known[i], errs[i] = book.snapshot()
		return nil
	})
	var refused *exec.ExitError
	if !v.settled && v.v6 && errs[0] == nil && errors.As(errs[1], &refused) {
		warnNoIPv6(v.log, errs[1])
		v.noIPv6 = errs[1]
		v.v6, v.books, v.known, errs = false, v.books[:1], v.known[:1], errs[:1]
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	v.settled, v.looked = true, true
	return nil
}

// forget makes the next look read the tables.
func (v *Veth) forget() { v.known, v.looked = make([]snapshot, len(v.books)), false }

// set makes chains be there with their rules. What this process remembers of the
// tables is believed first, since reading them takes long when there are many
// forwards; if it is older than the lock, and others have removed a chain since, or
// it proves to be wrong, the tables are read.
func (v *Veth) set(i int, chains []chain) error {
	if len(chains) == 0 {
		return nil
	}
	current := v.looked
	for failed := false; ; {
		if v.known[i] == nil {
			have, err := v.books[i].snapshot()
			if err != nil {
				return err
			}
			v.known[i], current = have, true
		}
		script := v.names.setup(chains, v.known[i])
		if script == "" {
			return nil
		}
		if !current && strings.Contains(script, "\n:") { // a chain is to be made: or has one been made?
			v.known[i] = nil
			continue
		}
		v.step("set rules, " + familyName(v.pair.sides[i].v6))
		err := v.books[i].restore(script)
		if err == nil {
			v.names.note(chains, v.known[i])
			return nil
		}
		v.known[i] = nil
		if failed {
			return err
		}
		failed = true
	}
}
