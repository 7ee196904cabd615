package jail

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A Config is one validated configuration, as ParseConfig returns it. Whatever
// prints it (fmt with any verb, slog, encoding/json) does not show its keys.
type Config struct {
	Name         string         // of the jail, its namespace and its interface
	PrivateKey   Secret         // never zero
	ListenPort   int            // 0: random
	FirewallMark int            // of the encrypted packets; 0: none
	Addresses    []netip.Prefix // as written, host bits kept; without a length /32 or /128
	DNS          []netip.Addr   // all that were given; glibc uses the first three
	Search       []string       // search domains; none without a server in DNS
	MTU          int            // in bytes; 0: from the path to the endpoint
	Peers        []Peer         // at least one, no two with one public key
	Hooks        Hooks
	Warnings     []string // "vpn.conf:7: …"; each one thing the user should know
}

// A Peer is one [Peer] section.
type Peer struct {
	PublicKey    wgtypes.Key    // never zero
	PresharedKey Secret         // zero: none
	Endpoint     Endpoint       // zero: none, the peer has to call first
	AllowedIPs   []netip.Prefix // in the order of the file, masked
	Keepalive    time.Duration  // whole seconds up to 65535; 0: off
}

// An Endpoint is where a peer is reached, its name not yet looked up.
type Endpoint struct {
	Host string // a name, or an address as netip.Addr prints it, with its zone if it has one
	Port uint16
}

// IsZero reports whether there is no endpoint.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// String returns host:port or [address]:port, or "" for the zero Endpoint.
func (e Endpoint) String() string {
	if e.IsZero() {
		return ""
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// Hooks are the commands of wg-quick(8) in their order, as written: %i is not
// yet expanded and # begins no comment of ours.
type Hooks struct {
	PreUp, PostUp, PreDown, PostDown []string
}

// hookWarning ends each warning about a hook.
const hookWarning = "ignored unless --allow-hooks is given"

// DropHookWarnings removes the warnings that say that a hook is ignored. Call
// it where hooks are run.
func (c *Config) DropHookWarnings() {
	var rest []string
	for _, w := range c.Warnings {
		if !strings.HasSuffix(w, hookWarning) {
			rest = append(rest, w)
		}
	}
	c.Warnings = rest
}

// LogValue is what slog shows: enough to tell configurations apart, no key.
func (c Config) LogValue() slog.Value {
	peers := make([]string, len(c.Peers))
	for i, p := range c.Peers {
		peers[i] = p.PublicKey.String()
	}
	return slog.GroupValue(
		slog.String("name", c.Name),
		slog.String("addresses", fmt.Sprint(c.Addresses)),
		slog.String("dns", fmt.Sprint(c.DNS)),
		slog.Int("mtu", c.MTU),
		slog.Any("peers", peers),
	)
}

// LogValue is what slog shows of one peer.
func (p Peer) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("public_key", p.PublicKey.String()),
		slog.String("endpoint", p.Endpoint.String()),
		slog.Int("allowed_ips", len(p.AllowedIPs)),
	)
}
