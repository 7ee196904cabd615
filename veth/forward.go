package veth

import (
	"fmt"
	"net/netip"
	"slices"
)

// Who a service in the jail takes a client for.
const (
	SourceClient = "client" // the client itself
	SourceJail   = "jail"   // the host's end of the pair, as after a relay
)

// A Forward is a range of host ports that is redirected into the jail. Its JSON
// form is meant to be kept by the caller, who needs it for Inspect.
type Forward struct {
	ID      string         `json:"id"`               // unique in the jail; letters, digits and .:_-
	Network string         `json:"network"`          // "tcp" or "udp"
	Listen  netip.Addr     `json:"listen,omitzero"`  // address of the host; zero: all
	First   uint16         `json:"first"`            // port on the host
	Last    uint16         `json:"last"`             // the last one of the range; at least First
	Target  uint16         `json:"target"`           // port in the jail of First; the others follow
	Allow   []netip.Prefix `json:"allow,omitempty"`  // clients that are redirected; none: all
	Source  string         `json:"source,omitempty"` // "": SourceClient
}

func (f Forward) check() error {
	if err := checkID(f.ID); err != nil {
		return err
	}
	switch {
	case f.Network != "tcp" && f.Network != "udp":
		return fmt.Errorf("forward %s: unknown network %q", f.ID, f.Network)
	case f.First == 0 || f.Last < f.First:
		return fmt.Errorf("forward %s: bad ports %d to %d", f.ID, f.First, f.Last)
	case f.Target == 0 || int(f.Target)+int(f.Last-f.First) > 65535:
		return fmt.Errorf("forward %s: bad port %d in the jail", f.ID, f.Target)
	case f.Source != "" && f.Source != SourceClient && f.Source != SourceJail:
		return fmt.Errorf("forward %s: unknown source %q", f.ID, f.Source)
	case f.Listen.Is4In6():
		return fmt.Errorf("forward %s: %s: write an IPv4 address as such", f.ID, f.Listen)
	}
	return nil
}

// targetLast is the last port in the jail.
func (f Forward) targetLast() uint16 { return f.Target + (f.Last - f.First) }

// in reports whether the forward is served by rules of the family: not if it
// listens at an address of the other one, nor if no packet for that address can
// leave the host (loopback), or no answer to it (link-local IPv6).
func (f Forward) in(v6 bool) bool {
	if !f.Listen.IsValid() || f.Listen.IsUnspecified() && f.Listen.Is6() == v6 {
		return true
	}
	return f.Listen.Is6() == v6 && !f.Listen.IsLoopback() && !(v6 && f.Listen.IsLinkLocalUnicast())
}

// everywhere reports whether all addresses of the host are meant.
func (f Forward) everywhere() bool { return !f.Listen.IsValid() || f.Listen.IsUnspecified() }

// sources returns the clients of one family that are redirected, sorted and
// without those that others include. Loopback clients and those at link-local
// IPv6 addresses cannot be: their packets do not leave the link they came from.
func (f Forward) sources(v6 bool) []netip.Prefix {
	if len(f.Allow) == 0 {
		return []netip.Prefix{anyOf(v6)}
	}
	var list []netip.Prefix
	for _, p := range f.Allow {
		a := p.Addr()
		if a.Is6() == v6 && !a.Is4In6() && !a.IsLoopback() && !(v6 && a.IsLinkLocalUnicast() && p.Bits() >= 10) {
			list = append(list, p.Masked())
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var outer []netip.Prefix
	for _, p := range list {
		if !slices.ContainsFunc(outer, p.Overlaps) {
			outer = append(outer, p)
		}
	}
	return outer
}

func anyOf(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
