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
// IPv6 is off, or has no rules for it, is redirected for IPv4 only: IPv6 clients
// reach the caller's socket.
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
	if err == nil {
		_, err = six.snapshot()
	}
	var refused *exec.ExitError
	if err != nil && !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) && !errors.As(err, &refused) {
		return nil, false, err // it could not be asked
	}
	if err != nil {
		log.Warn("no IPv6 rules on this host: IPv6 clients are not redirected", "error", err)
		return books, false, nil
	}
	return append(books, six), true, nil
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

// look reads the tables of each family.
func (v *Veth) look() error {
	v.known = make([]snapshot, len(v.books))
	return v.eachBook(func(i int, book rulebook) (err error) {
		v.known[i], err = book.snapshot()
		return err
	})
}

// set makes chains be there with their rules. What this process remembers of the
// tables is believed first, since reading them takes long when there are many
// forwards; if others have removed a chain since, the tables are read.
func (v *Veth) set(i int, chains []chain) error {
	if len(chains) == 0 {
		return nil
	}
	for {
		remembered := v.known[i] != nil
		if !remembered {
			have, err := v.books[i].snapshot()
			if err != nil {
				return err
			}
			v.known[i] = have
		}
		script := v.names.setup(chains, v.known[i])
		if script == "" {
			return nil
		}
		if remembered && strings.Contains(script, "\n:") { // a chain is to be made: or has one been made?
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
		if !remembered {
			return err
		}
	}
}
