package jail

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// What up does before it changes anything.

// prepare does what needs no right and leaves no trace: it settles the backend
// and resolves the endpoints.
func (m *maker) prepare(ctx context.Context) error {
	m.step("choose a backend")
	backend := m.opts.Backend
	if backend == "" {
		backend = Auto
	}
	backend, err := backend.choose()
	if err != nil {
		return err
	}
	if err := mayMark(m.cfg); err != nil {
		return err
	}
	m.state = newState(m.cfg, backend)
	if m.opts.AllowHooks {
		m.state.Hooks = &m.cfg.Hooks
	}
	if m.state.Port, err = m.opts.Port.withGateway(m.cfg.DNS); err != nil {
		return err
	}
	m.step("resolve endpoints")
	m.endpoints = map[wgtypes.Key]netip.AddrPort{}
	var all []netip.AddrPort
	for i, p := range m.cfg.Peers {
		if p.Endpoint.Host == "" {
			continue
		}
		at, err := m.resolve(ctx, p.Endpoint)
		if err != nil {
			return err
		}
		m.endpoints[p.PublicKey] = at
		m.state.Peers[i].Endpoint = at
		all = append(all, at)
	}
	if m.state.MTU == 0 {
		m.state.MTU = pathMTU(all, m.cfg.Addresses)
	}
	return nil
}

// mayMark refuses to go without the mark: the packets would take another way than
// the one that the host's rules have for them.
func mayMark(cfg *Config) error {
	if cfg.FirewallMark == 0 || !rootless() {
		return nil
	}
	return hint.Wrap(fmt.Errorf("FwMark = %#x: only root can mark packets on the host", cfg.FirewallMark),
		"without it the host's usual routes hold for the tunnel: take the line out if that is well; or try again with sudo")
}

// resolve is resolve, and tells if it takes long.
func (m *maker) resolve(ctx context.Context, e Endpoint) (netip.AddrPort, error) {
	if m.opts.Waiting != nil {
		slow := time.AfterFunc(2*time.Second, func() { m.opts.Waiting(e.Host) })
		defer slow.Stop()
	}
	return resolve(ctx, e)
}

// newState is what is known of a jail from its configuration alone.
func newState(cfg *Config, backend Backend) *state {
	s := &state{
		Version: stateVersion, Name: cfg.Name, Config: fingerprint(cfg), Backend: backend, MTU: cfg.MTU, MTUGiven: cfg.MTU != 0,
		Addresses: cfg.Addresses, DNS: cfg.DNS, Search: cfg.Search,
		Routes: routesFor(cfg.Addresses, cfg.Peers),
	}
	for _, p := range cfg.Peers {
		s.Peers = append(s.Peers, peerState{
			PublicKey: p.PublicKey.String(), Host: p.Endpoint.Host, Port: p.Endpoint.Port, AllowedIPs: p.AllowedIPs,
		})
	}
	return s
}

// free reports whether the names that the jail needs belong to nobody else.
func (m *maker) free() error {
	name := m.cfg.Name
	if _, err := os.Lstat(netnsx.Path(name)); err == nil {
		return hint.Wrap(fmt.Errorf("network namespace %s exists and was not made by wgjail", name),
			"remove it with: ip netns delete %s; or give the configuration file another name: it names the jail", name)
	}
	if err := dnsOwner(name); err != nil {
		return err
	}
	m.state.DNSFolder = empty(dnsDir(name))
	if m.state.Backend == Kernel {
		if err := birthLinkFree(name); err != nil {
			return err
		}
	}
	return uapiFree(name)
}
