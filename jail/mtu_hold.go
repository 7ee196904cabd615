package jail

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A large packet that is lost without a word stalls a connection for good: each
// end goes on sending what it was told at the beginning that the other one takes
// (RFC 9293, section 3.7.1). So as long as no probe has shown what the path lets
// through, the jail's routes hold packets to what any path does, in both
// directions of TCP. A program that sends more is told so, or its packets are
// cut up before they enter the tunnel. The interface's MTU is that of the best
// case, so that probes can try it:
//
//	up ── no answer ─► held to 1280 ── probe ─► MTU as the path has it, not held
//	  └─ answer ─► not held                        │  ▲
//	                                          every 10 min, if it was lowered:
//	                                          interface raised, held to what was, probe

// safeMTU is what passes wherever IPv6 does (RFC 8200, section 5), in bytes.
const safeMTU = minimumMTU

// heldAtFirst is what packets are held to on an unknown path, in bytes, or 0. An
// MTU out of the configuration is the user's word that it passes.
func (s *state) heldAtFirst() int {
	if s.MTUGiven || s.MTU <= safeMTU {
		return 0
	}
	return safeMTU
}

// bringUp is bringUp on a path of which nothing is known.
func (m *maker) bringUp(context.Context) error {
	if held := m.state.heldAtFirst(); held != 0 && !m.repairing {
		if err := writeHealth(m.cfg.Name, health{Held: held}); err != nil {
			return err
		}
	}
	return bringUp(m.ns, m.state)
}

// probePath lets go of the packets if a good path shows itself at once: so the
// very first connection is as fast as any. It takes a round trip for the handshake
// and one for the answer; who needs more than one try is left to the keeper.
func (m *maker) probePath(ctx context.Context) error {
	if m.repairing || len(m.endpoints) == 0 || readHealth(m.cfg.Name).Held == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, echoWait)
	defer cancel()
	r, err := m.state.probeMTU(ctx, m.ns)
	m.opts.Log.Debug("MTU probed", "err", err, "report", r)
	if r == nil || r.Passes < m.state.MTU {
		return nil // the keeper finds out what it is
	}
	if err := writeHealth(m.cfg.Name, health{}); err != nil {
		return err
	}
	return shapePackets(m.ns, m.state, m.state.MTU, 0)
}

// shapePackets gives the jail's interface an MTU, and holds packets to fewer
// bytes unless that is 0.
func shapePackets(ns *netnsx.Namespace, s *state, mtu, held int) error {
	return withJail(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(s.Name)
		if err != nil {
			return err
		}
		if held != 0 { // before more gets out
			if err := addRoutes(h, link, usable(s.Routes), held); err != nil {
				return err
			}
		}
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
		// IPv6 comes back with 1280 bytes, and takes a route's MTU that was the
		// interface's along with it.
		if err := ns.Do(func() error { return prepareFamily(s) }); err != nil {
			return err
		}
		return addRoutes(h, link, usable(s.Routes), held)
	})
}
