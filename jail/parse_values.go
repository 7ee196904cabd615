package jail

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

const portHint = "write a number up to 65535"

// parsePort takes what getaddrinfo(3) takes as a service for wg(8), without
// its silent remainder modulo 65536: a number, with or without a plus sign and
// leading zeros, or the name of a service. Of the names in /etc/services it
// knows those that somebody would give to a tunnel.
func parsePort(s string) (uint16, bool) {
	switch s {
	case "domain":
		return 53, true
	case "ntp":
		return 123, true
	case "https":
		return 443, true
	case "isakmp":
		return 500, true
	case "openvpn":
		return 1194, true
	case "ipsec-nat-t":
		return 4500, true
	}
	port, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 16)
	return uint16(port), err == nil
}

// parseCIDR takes what wg(8) takes in AllowedIPs: a complete address and, if
// there is a slash, a length in decimal. The host bits stay.
func parseCIDR(s string) (prefix netip.Prefix, problem string) {
	host, length, slash := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, "this is no IP address"
	}
	bits := addr.BitLen()
	if slash {
		n, err := strconv.ParseUint(length, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return netip.Prefix{}, "what follows / is no length"
		}
		if n > uint64(bits) {
			return netip.Prefix{}, "the length is greater than " + strconv.Itoa(bits)
		}
		bits = int(n)
	}
	return netip.PrefixFrom(addr, bits), ""
}

// parseEndpoint splits as wg(8) does: [host]:port, or host and port around the
// last colon. Nothing is looked up. What stands there instead of an address
// must be a name; the numbers that inet_aton(3) completes or reads as octal
// are neither. A warning says what the user should have written.
func parseEndpoint(value string) (e Endpoint, warning string, err error) {
	host, service, bracketed, err := splitEndpoint(value)
	if err != nil {
		return Endpoint{}, "", err
	}
	port, ok := parsePort(service)
	if !ok {
		return Endpoint{}, "", hint.Wrap(errors.New("what follows the last colon is no port"), portHint)
	}
	switch addr, err := netip.ParseAddr(host); {
	case err == nil && !usableZone(addr):
		return Endpoint{}, "", hint.Wrap(errors.New("a zone belongs to a link-local address only"), "write the address without %% and what follows")
	case err == nil:
		host = addr.String()
		if addr.Is4In6() {
			warning = "this is an IPv4 address in IPv6 form: write it as " + addr.Unmap().String()
		} else if addr.Is6() && !bracketed {
			warning = "write an IPv6 address in brackets, or its end is taken for the port"
		}
	case !isDomain(host):
		return Endpoint{}, "", hint.Wrap(errors.New("the host is neither a complete IP address nor a domain name"),
			"write four decimal numbers without leading zeros, an IPv6 address in brackets, or a name, then : and the port")
	}
	if port == 0 {
		warning = "nobody answers on port 0"
	}
	return Endpoint{host, port}, warning, nil
}

func splitEndpoint(value string) (host, service string, bracketed bool, err error) {
	if rest, ok := strings.CutPrefix(value, "["); ok {
		host, rest, ok := strings.Cut(rest, "]")
		if !ok {
			return "", "", true, hint.Wrap(errors.New("the bracket is not closed"), "write [address]:port")
		}
		service, ok := strings.CutPrefix(rest, ":")
		if !ok || service == "" {
			return "", "", true, hint.Wrap(errors.New("no : and port follow the bracket"), "write [address]:port")
		}
		return host, service, true, nil
	}
	i := strings.LastIndexByte(value, ':')
	if i < 0 || i == len(value)-1 {
		return "", "", false, hint.Wrap(errors.New("there is no port"), "write host:port; WireGuard's usual port is 51820")
	}
	return value[:i], value[i+1:], false, nil
}

// usableZone reports whether getaddrinfo(3) takes the zone, if its interface
// exists: names only for link-local addresses, numbers for all.
func usableZone(a netip.Addr) bool {
	zone := a.Zone()
	if zone == "" || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast() {
		return true
	}
	_, err := strconv.ParseUint(zone, 10, 32)
	return err == nil
}
