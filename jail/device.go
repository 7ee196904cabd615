package jail

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// deviceConfig is cfg in the terms of wgctrl. It replaces all that the device
// had: a repair starts from nothing. endpoints holds the addresses of those
// peers that have an endpoint, by public key.
func deviceConfig(cfg *Config, endpoints map[wgtypes.Key]netip.AddrPort) wgtypes.Config {
	key, port, mark := cfg.PrivateKey.Key(), cfg.ListenPort, cfg.FirewallMark
	dev := wgtypes.Config{PrivateKey: &key, ListenPort: &port, FirewallMark: &mark, ReplacePeers: true}
	for _, p := range cfg.Peers {
		preshared, keepalive := p.PresharedKey.Key(), p.Keepalive
		peer := wgtypes.PeerConfig{
			PublicKey:                   p.PublicKey,
			PresharedKey:                &preshared,
			PersistentKeepaliveInterval: &keepalive,
			ReplaceAllowedIPs:           true,
		}
		if e, ok := endpoints[p.PublicKey]; ok {
			peer.Endpoint = net.UDPAddrFromAddrPort(e)
		}
		for _, a := range p.AllowedIPs {
			peer.AllowedIPs = append(peer.AllowedIPs, ipNet(a))
		}
		dev.Peers = append(dev.Peers, peer)
	}
	return dev
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// withDevices calls fn with a wgctrl client whose netlink socket was made in
// ns, so that a kernel interface of the same name elsewhere is never meant.
// Userspace devices are found by name whatever the namespace.
func withDevices(ns *netnsx.Namespace, fn func(*wgctrl.Client) error) error {
	return ns.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return fmt.Errorf("open WireGuard's control interface: %w", err)
		}
		defer c.Close()
		return fn(c)
	})
}

// readDevice returns what WireGuard knows about the jail's interface.
func readDevice(ns *netnsx.Namespace, name string) (dev *wgtypes.Device, err error) {
	err = withDevices(ns, func(c *wgctrl.Client) error {
		dev, err = c.Device(name)
		return err
	})
	return dev, err
}

// setEndpoint moves a peer to another address and changes nothing else.
func setEndpoint(ns *netnsx.Namespace, name string, peer wgtypes.Key, to netip.AddrPort) error {
	return withDevices(ns, func(c *wgctrl.Client) error {
		return c.ConfigureDevice(name, wgtypes.Config{Peers: []wgtypes.PeerConfig{{
			PublicKey: peer, UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(to),
		}}})
	})
}

// staleAfter is when WireGuard itself gives up a session (REJECT_AFTER_TIME).
const staleAfter = 180 * time.Second
