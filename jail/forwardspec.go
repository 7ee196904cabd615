package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// A ForwardSpec says which ports of the host lead to which ports in the jail:
// First to Target, First+1 to Target+1, and so on up to Last.
type ForwardSpec struct {
	Addr        netip.Addr // where the host listens; zero: everywhere, IPv4 and IPv6
	First, Last uint16     // never 0, First <= Last
	Target      uint16     // never 0
	Network     string     // "tcp" or "udp"

	// Reverse exchanges jail and host: the jail listens, on its loopback if Addr
	// is zero, and the host has the target. ParseForward does not set it.
	Reverse bool
}

const forwardForm = "write [ADDR:]PORT[-PORT][:TARGET[-TARGET]][/tcp|/udp], as in 8080, 8080:80 or 127.0.0.1:8080:80"

// ParseForward reads a forward as docker's -p writes it:
//
//	[ADDR:]PORT[-PORT][:TARGET[-TARGET]][/tcp|/udp]
//
// ADDR is an IPv4 address, or an IPv6 address in brackets, and never a name:
// names have more than one address, and change. A range and its target have
// the same length. As with docker, the protocol may be in capitals and is tcp
// if there is none. Unlike docker, a single port is both that of the host and
// its target, and the host's port is never left to chance.
//
// Errors name spec and carry a hint.
func ParseForward(spec string) (ForwardSpec, error) {
	f, err := parseForward(spec)
	if err != nil {
		return ForwardSpec{}, hint.Wrap(fmt.Errorf("forward %q: %w", spec, err), "%s", hint.Of(err))
	}
	return f, nil
}

func parseForward(spec string) (f ForwardSpec, err error) {
	rest, network, err := cutNetwork(spec)
	if err != nil {
		return f, err
	}
	f.Network = network
	if f.Addr, rest, err = cutAddr(rest); err != nil {
		return f, err
	}
	ports, target, mapped := strings.Cut(rest, ":")
	if f.First, f.Last, err = parsePorts(ports); err != nil {
		return f, err
	}
	if f.Target = f.First; !mapped {
		return f, nil
	}
	if notPorts(target) {
		return f, hint.Wrap(fmt.Errorf("the target %q is no port", target), "a target is a port in the jail: give another address in it with --to")
	}
	first, last, err := parsePorts(target)
	if err != nil {
		return f, err
	}
	if f.Last-f.First != last-first {
		return f, hint.Wrap(fmt.Errorf("%d ports cannot lead to %d", int(f.Last)-int(f.First)+1, int(last)-int(first)+1),
			"make both ranges equally long")
	}
	f.Target = first
	return f, nil
}

// cutNetwork takes the protocol off the end. A zone cannot have a slash.
func cutNetwork(spec string) (rest, network string, err error) {
	rest, network, ok := strings.Cut(spec, "/")
	if !ok {
		return spec, "tcp", nil
	}
	switch strings.ToLower(network) {
	case "tcp":
		return rest, "tcp", nil
	case "udp":
		return rest, "udp", nil
	}
	return "", "", hint.Wrap(fmt.Errorf("the protocol %q is unknown", network), "end it with /tcp or /udp, or with neither for tcp")
}

// cutAddr takes the address and its colon off the front.
func cutAddr(s string) (addr netip.Addr, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		return cutBracketed(s[1:])
	}
	if strings.Count(s, ":") > 2 {
		return addr, "", hint.Wrap(errors.New("there are too many colons"), "put an IPv6 address in brackets, as in [::1]:8080; else "+forwardForm)
	}
	first, rest, colon := strings.Cut(s, ":")
	switch {
	case !colon:
		return addr, s, nil
	case first == "" || first == "*":
		return addr, "", hint.Wrap(fmt.Errorf("%q is no address", first), "leave it out, with its colon, to listen on all addresses; else "+forwardForm)
	case strings.EqualFold(first, "localhost"):
		return addr, "", hint.Wrap(errors.New("an address is needed, not a name"), "use 127.0.0.1, or [::1] for IPv6")
	}
	if addr, err := netip.ParseAddr(first); err == nil && addr.Is4() {
		return addr, rest, nil
	}
	switch {
	case strings.Contains(rest, ":") && !notPorts(first): // ssh -L 8080:host:80
		return addr, "", hint.Wrap(fmt.Errorf("%q is no address", first), "give another address in the jail with --to; else "+forwardForm)
	case strings.Contains(rest, ":"), strings.Contains(first, "."), notPorts(first):
		return addr, "", hint.Wrap(fmt.Errorf("%q is no address", first), "give the IP address to listen on, no name; else "+forwardForm)
	}
	return addr, s, nil // PORT:TARGET
}

// cutBracketed takes an address after its opening bracket.
func cutBracketed(s string) (addr netip.Addr, rest string, err error) {
	inside, rest, ok := strings.Cut(s, "]")
	if !ok {
		return addr, "", hint.Wrap(errors.New("the bracket is not closed"), "write it as in [::1]:8080")
	}
	addr, err = netip.ParseAddr(inside)
	zone := addr.Zone()
	if err != nil || zone != "" && (!addr.IsLinkLocalUnicast() || addr.Is4In6() || CheckName(zone) != nil) {
		return addr, "", hint.Wrap(fmt.Errorf("%q is no IPv6 address", inside), "write it as in [::1]:8080, with a zone only if it is link-local, as in [fe80::1%%eth0]:8080")
	}
	rest, ok = strings.CutPrefix(rest, ":")
	if !ok {
		return addr, "", hint.Wrap(errors.New("no port follows the address"), "write it as in [::1]:8080")
	}
	return addr.Unmap(), rest, nil
}

// notPorts reports whether s was meant as something else than PORT[-PORT].
func notPorts(s string) bool { return strings.Trim(s, "0123456789-+ ") != "" }

// parsePorts reads PORT[-PORT].
func parsePorts(s string) (first, last uint16, err error) {
	low, high, ranged := strings.Cut(s, "-")
	if first, err = parseForwardPort(low); err != nil || !ranged {
		return first, first, err
	}
	if last, err = parseForwardPort(high); err != nil {
		return 0, 0, err
	}
	if first > last {
		return 0, 0, hint.Wrap(fmt.Errorf("the range %s runs backwards", s), "write it as %d-%d", last, first)
	}
	return first, last, nil
}

func parseForwardPort(s string) (uint16, error) {
	if s == "" {
		return 0, hint.Wrap(errors.New("a port is missing"), forwardForm)
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, hint.Wrap(fmt.Errorf("%q is no port", s), "ports are numbers from 1 to 65535, without sign or space; "+forwardForm)
	}
	return uint16(n), nil
}

// String returns f in the shortest form that ParseForward reads back as f.
func (f ForwardSpec) String() string {
	var b strings.Builder
	if f.Addr.Is6() {
		fmt.Fprintf(&b, "[%s]:", f.Addr)
	} else if f.Addr.IsValid() {
		fmt.Fprintf(&b, "%s:", f.Addr)
	}
	writePorts(&b, f.First, f.Last)
	if f.Target != f.First {
		b.WriteByte(':')
		writePorts(&b, f.Target, f.Target+(f.Last-f.First))
	}
	if f.Network != "tcp" {
		b.WriteString("/" + f.Network)
	}
	return b.String()
}

func writePorts(b *strings.Builder, first, last uint16) {
	fmt.Fprintf(b, "%d", first)
	if last != first {
		fmt.Fprintf(b, "-%d", last)
	}
}
