package jail

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/proxy"
)

// A ProxySpec says where a proxy listens.
type ProxySpec struct {
	Protocol proxy.Protocol
	Addr     netip.Addr // zero: this host only, 127.0.0.1 and ::1
	Anywhere bool       // on all addresses, instead of Addr
	Port     uint16     // never 0
}

// The protocols of proxies.
const (
	SOCKS5 = proxy.SOCKS5
	HTTP   = proxy.HTTP
)

// ParseProxy reads where a proxy listens: [ADDR:]PORT. ADDR is an IPv4 address,
// an IPv6 address in brackets, * for all addresses, or localhost, which it is
// without one. Errors carry a hint.
func ParseProxy(protocol proxy.Protocol, text string) (ProxySpec, error) {
	s, err := parseProxy(protocol, text)
	if err != nil {
		return ProxySpec{}, hint.Wrap(fmt.Errorf("%s proxy at %q: %w", protocol, text, err),
			"write [ADDR:]PORT, as in 1080, 192.168.1.2:1080 or *:1080")
	}
	return s, nil
}

func parseProxy(protocol proxy.Protocol, text string) (s ProxySpec, err error) {
	s.Protocol = protocol
	rest, local := strings.CutPrefix(text, "localhost:")
	if !local {
		if rest, s.Anywhere = strings.CutPrefix(text, "*:"); !s.Anywhere {
			if s.Addr, rest, err = cutAddr(text); err != nil {
				return s, err
			}
		}
	}
	s.Port, err = parseForwardPort(rest)
	return s, err
}

// String is the shortest text that ParseProxy reads as s.
func (s ProxySpec) String() string {
	switch {
	case s.Anywhere:
		return fmt.Sprintf("*:%d", s.Port)
	case s.Addr.IsValid():
		return netip.AddrPortFrom(s.Addr, s.Port).String()
	}
	return fmt.Sprintf("localhost:%d", s.Port)
}

func (s ProxySpec) id() string { return entryID(string(s.Protocol), s.String()) }

// Local reports whether only programs on this host can connect.
func (s ProxySpec) Local() bool { return !s.Anywhere && (!s.Addr.IsValid() || s.Addr.IsLoopback()) }

// addrs are the addresses to bind, IPv4 first.
func (s ProxySpec) addrs() []netip.AddrPort {
	list := []netip.Addr{s.Addr}
	switch {
	case s.Anywhere:
		list = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	case !s.Addr.IsValid():
		list = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var all []netip.AddrPort
	for _, a := range list {
		all = append(all, netip.AddrPortFrom(a, s.Port))
	}
	return all
}
