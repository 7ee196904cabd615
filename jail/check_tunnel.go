package jail

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// probeTunnelSocket wants the socket that WireGuard sends from on the host: one
// in the jail could send only into the tunnel itself, or, were there another
// way, in clear view of it.
func (c *checker) probeTunnelSocket(context.Context) outcome {
	if c.dev == nil {
		return skipped("WireGuard does not answer, so it sends nothing")
	}
	port := uint16(c.dev.ListenPort)
	outside, err := hasUDPPort(port)
	if err != nil {
		return unknown(err)
	}
	if outside {
		return passed("it is on the host, at UDP port %d", port)
	}
	inside := false
	if err := c.ns.Do(func() (err error) { inside, err = hasUDPPort(port); return err }); err != nil {
		return unknown(err)
	}
	if inside {
		return failed(c.anew(), "it is in the jail (UDP port %d), where it reaches nobody: the interface was made there", port)
	}
	return failed(c.again(), "there is none at UDP port %d: the interface is down", port)
}

// hasUDPPort reports whether a socket of the calling thread's namespace has the
// port.
func hasUDPPort(port uint16) (bool, error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.SocketDiagUDP(family)
		if err != nil {
			return false, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, s := range list {
			if s.ID.SourcePort == port {
				return true, nil
			}
		}
	}
	return false, nil
}

// probeHandshake sends something, so that a tunnel that has rested wakes up,
// and waits for a session that is young enough to be used.
func (c *checker) probeHandshake(ctx context.Context) outcome {
	c.silent = true
	switch {
	case c.dev == nil:
		return failed(c.again(), "WireGuard does not answer")
	case !c.calls():
		return skipped("no peer has an Endpoint: the tunnel stays dark until a peer calls")
	}
	deadline := time.Now().Add(c.opts.Patience)
	for {
		for _, to := range append(c.DNS, nowhere...) {
			c.ns.Do(func() error { return sendFrom(to, unix.SOCK_DGRAM, discardPort) })
		}
		if age, ok := c.handshakeAge(); ok {
			c.silent = false
			return passed("%v ago; a session lives for %v", age.Round(time.Second), staleAfter)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		time.Sleep(50 * time.Millisecond) // WireGuard tells nobody
	}
	return failed("see whether the host is online, the Endpoint is right, and the provider still knows the key",
		"the server does not answer at %s", c.endpointsText())
}

// discardPort is where nobody listens, or whoever does throws it away (RFC 863).
const discardPort = 9

// calls reports whether a peer can be called.
func (c *checker) calls() bool {
	for _, p := range c.dev.Peers {
		if p.Endpoint != nil {
			return true
		}
	}
	return false
}

// handshakeAge returns the age of the youngest session, if it can be used.
func (c *checker) handshakeAge() (time.Duration, bool) {
	dev, err := readDevice(c.ns, c.Name)
	if err != nil {
		return 0, false
	}
	c.dev = dev
	best := time.Duration(-1)
	for _, p := range dev.Peers {
		if age := time.Since(p.LastHandshakeTime); !p.LastHandshakeTime.IsZero() && age < staleAfter && (best < 0 || age < best) {
			best = max(age, 0)
		}
	}
	return best, best >= 0
}

func (c *checker) endpointsText() string {
	text := ""
	for _, p := range c.dev.Peers {
		if p.Endpoint != nil {
			text += ", " + p.Endpoint.String() + lastHandshake(p)
		}
	}
	return text[2:]
}

func lastHandshake(p wgtypes.Peer) string {
	if p.LastHandshakeTime.IsZero() {
		return " (no handshake yet)"
	}
	return fmt.Sprintf(" (the last handshake was %v ago)", time.Since(p.LastHandshakeTime).Round(time.Second))
}
