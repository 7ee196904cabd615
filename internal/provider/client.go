package provider

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A Client is a customer of the provider and what the provider would tell it.
// The fields may be changed before Config is called.
type Client struct {
	PrivateKey   wgtypes.Key
	PresharedKey wgtypes.Key
	Addresses    []netip.Prefix // the client's, in the tunnel
	DNS          []netip.Addr
	MTU          int // 0: not mentioned
	Server       wgtypes.Key
	Endpoint     string // host:port of the server
	AllowedIPs   []netip.Prefix
	Keepalive    time.Duration // 0: not mentioned
}

// AddClient makes keys and addresses for one more client and lets it in.
func (p *Provider) AddClient() (*Client, error) {
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return nil, fmt.Errorf("make a client's key: %w", err)
	}
	shared, err := wgtypes.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make a preshared key: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients++
	c := &Client{
		PrivateKey:   private,
		PresharedKey: shared,
		Addresses:    clientAddresses(p.clients),
		DNS:          []netip.Addr{ServerV4, ServerV6},
		Server:       p.public,
		Endpoint:     p.endpoint.String(),
		AllowedIPs:   []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	}
	var set strings.Builder
	public := c.PublicKey()
	fmt.Fprintf(&set, "public_key=%x\npreshared_key=%x\nreplace_allowed_ips=true\n", public[:], shared[:])
	for _, a := range c.Addresses {
		fmt.Fprintf(&set, "allowed_ip=%v\n", a)
	}
	if err := p.dev.IpcSet(set.String()); err != nil {
		return nil, fmt.Errorf("add client %v: %w", public, err)
	}
	return c, nil
}

// clientAddresses returns the addresses of the nth client, from 1.
func clientAddresses(n int) []netip.Prefix {
	v4, v6 := ServerV4.As4(), ServerV6.As16()
	low := n + 1
	v4[2], v4[3] = byte(low>>8), byte(low)
	v6[14], v6[15] = byte(low>>8), byte(low)
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4(v4), 32),
		netip.PrefixFrom(netip.AddrFrom16(v6), 128),
	}
}

// RemoveClient shuts a client out: its handshakes are not answered any more.
func (p *Provider) RemoveClient(public wgtypes.Key) error {
	if err := p.dev.IpcSet(fmt.Sprintf("public_key=%x\nremove=true\n", public[:])); err != nil {
		return fmt.Errorf("remove client %v: %w", public, err)
	}
	return nil
}

// PublicKey returns the client's public key.
func (c *Client) PublicKey() wgtypes.Key { return c.PrivateKey.PublicKey() }

// String names the client without its secrets.
func (c *Client) String() string { return "client " + c.PublicKey().String() }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// Config returns the file that the provider would hand out, in the format of
// wg-quick(8). It contains the private key.
func (c *Client) Config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %v\nAddress = %s\n", c.PrivateKey, list(c.Addresses))
	if len(c.DNS) > 0 {
		fmt.Fprintf(&b, "DNS = %s\n", list(c.DNS))
	}
	if c.MTU != 0 {
		fmt.Fprintf(&b, "MTU = %d\n", c.MTU)
	}
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %v\n", c.Server)
	if c.PresharedKey != (wgtypes.Key{}) {
		fmt.Fprintf(&b, "PresharedKey = %v\n", c.PresharedKey)
	}
	fmt.Fprintf(&b, "AllowedIPs = %s\nEndpoint = %s\n", list(c.AllowedIPs), c.Endpoint)
	if c.Keepalive != 0 {
		fmt.Fprintf(&b, "PersistentKeepalive = %d\n", int(c.Keepalive.Seconds()))
	}
	return b.String()
}

func list[T fmt.Stringer](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}

// A Peer is what the server knows of a client.
type Peer struct {
	Endpoint         netip.AddrPort // where it was heard last; zero: never
	LastHandshake    time.Time      // zero: never
	RxBytes, TxBytes uint64         // received from and sent to the client, encrypted
}

// Peer returns what the server knows of the client with that public key. It is
// the zero value for a stranger.
func (p *Provider) Peer(public wgtypes.Key) (Peer, error) {
	text, err := p.dev.IpcGet()
	if err != nil {
		return Peer{}, fmt.Errorf("read the provider's state: %w", err)
	}
	var peer Peer
	var seconds, nanos int64
	mine := false
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if key == "public_key" {
			mine = value == fmt.Sprintf("%x", public[:])
		}
		if !mine {
			continue
		}
		switch key {
		case "endpoint":
			peer.Endpoint, err = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nanos, err = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			peer.RxBytes, err = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			peer.TxBytes, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return Peer{}, fmt.Errorf("read the provider's state: %w", err)
		}
	}
	if seconds != 0 || nanos != 0 {
		peer.LastHandshake = time.Unix(seconds, nanos)
	}
	return peer, nil
}
