package veth

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// Repair puts back what is missing. A pair that has gone is made anew, with this
// process's forwards.
func (v *Veth) Repair() error { return v.locked(v.repair) }

func (v *Veth) repair() error {
	whole, err := v.find()
	if err != nil {
		return err
	}
	if whole {
		if err := v.openTable(v.pair.sides); err != nil {
			return err
		}
		return v.ensure()
	}
	if err := v.makeAnew(); err != nil {
		return errors.Join(err, v.tearDown())
	}
	return v.ensure()
}

const (
	// settle is how long Watch waits after a change for those that usually follow.
	settle = 50 * time.Millisecond
	// calm is the least time between two looks. Where there are many rules, a look
	// takes long: then it is busy times as long as that, but no longer than patience.
	calm, busy, patience = 300 * time.Millisecond, 5, 5 * time.Second
	// Not every change is told: those of neighbours and routes are too many, and
	// legacy tables do not tell.
	nowAndThen, legacyNowAndThen = 30 * time.Second, 5 * time.Second
)

// Watch keeps the pair whole until ctx is done: it puts back rules, addresses and
// whatever else of it somebody has removed, and lets clients in over links that
// appear. The kernel tells it of most changes. What it repairs is logged, and
// once, if a firewall of somebody else's begins to block.
func (v *Veth) Watch(ctx context.Context) error {
	events := make(chan struct{}, 1)
	stop, err := v.subscribe(events)
	if err != nil {
		return err
	}
	defer stop()
	every := nowAndThen
	if v.isLegacy() {
		every = legacyNowAndThen
	}
	var said string
	for {
		began := time.Now()
		said = v.lookAfter(said)
		pause := min(max(calm, busy*time.Since(began)), patience)
		if !wait(ctx, pause, nil) {
			return nil
		}
		next := every
		if said != "" { // what was in the way may have gone
			next = patience
		}
		if !wait(ctx, max(next-pause, 0), events) || !wait(ctx, settle, nil) {
			return nil
		}
		select { // told by now
		case <-events:
		default:
		}
	}
}

// wait waits for an event, but not longer than d. It returns false if ctx is done.
func wait(ctx context.Context, d time.Duration, events <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-events:
	}
	return true
}

func (v *Veth) isLegacy() bool {
	t, ok := v.books[0].(*ipt)
	return ok && t.variant.legacy
}

// lookAfter repairs what is missing. It returns what it has said that there is
// no need to say again.
func (v *Veth) lookAfter(said string) string {
	var lacks []string
	err := v.locked(func() (err error) {
		lacks, _, err = v.examine(v.mine())
		if err != nil || len(lacks) == 0 {
			return err
		}
		return v.repair()
	})
	if len(lacks) > 0 {
		v.log.Warn("parts of the pair were gone and are put back", "jail", v.opts.Name, "parts", lacks)
	}
	if err == nil {
		err = v.blocked()
	}
	if err == nil {
		return ""
	}
	if err.Error() != said {
		v.log.Error("the pair is not whole", "jail", v.opts.Name, "error", err)
	}
	return err.Error()
}

// A source is a place where the kernel tells of changes.
type source struct {
	ns       *netnsx.Namespace
	protocol int
	groups   []uint
}

// subscribe sends to events, without ever waiting, when links, addresses,
// switches, or rules of nf_tables change on the host or in the jail.
func (v *Veth) subscribe(events chan<- struct{}) (stop func(), err error) {
	outside := []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	}
	inside := slices.Concat(outside, []uint{
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	})
	rules := []uint{unix.NFNLGRP_NFTABLES}
	var sockets []*nl.NetlinkSocket
	var readers sync.WaitGroup
	closed := make(chan struct{})
	stop = func() {
		close(closed)
		for _, s := range sockets {
			s.Close()
		}
		readers.Wait()
	}
	for _, src := range []source{
		{nil, unix.NETLINK_ROUTE, outside}, {nil, unix.NETLINK_NETFILTER, rules},
		{v.opts.Namespace, unix.NETLINK_ROUTE, inside}, {v.opts.Namespace, unix.NETLINK_NETFILTER, rules},
	} {
		var s *nl.NetlinkSocket
		err := in(src.ns, func() (err error) {
			s, err = nl.Subscribe(src.protocol, src.groups...)
			return err
		})
		if err != nil {
			stop()
			return nil, err
		}
		sockets = append(sockets, s)
		readers.Go(func() { v.tell(s, src.protocol, events, closed) })
	}
	return stop, nil
}

// tell passes events on until the socket is closed. What they say does not
// matter, only that they may concern the pair; if some are lost (ENOBUFS), they
// may have.
func (v *Veth) tell(s *nl.NetlinkSocket, protocol int, events chan<- struct{}, closed <-chan struct{}) {
	for {
		messages, _, err := s.Receive()
		select {
		case <-closed:
			return
		default:
		}
		switch {
		case err == nil && protocol == unix.NETLINK_NETFILTER && !slices.ContainsFunc(messages, takesRulesAway):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			v.log.Warn("changes on this host are noticed later from now on", "error", err)
			return
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

// takesRulesAway reports whether a message of nf_tables could tell of something
// that Watch repairs. New rules and elements cannot; a new chain can be Docker's.
func takesRulesAway(m syscall.NetlinkMessage) bool {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	switch m.Header.Type {
	case subsystem | unix.NFT_MSG_DELTABLE, subsystem | unix.NFT_MSG_DELCHAIN, subsystem | unix.NFT_MSG_DELRULE,
		subsystem | unix.NFT_MSG_DELSETELEM, subsystem | unix.NFT_MSG_NEWCHAIN:
		return true
	}
	return false
}
