package jail

import (
	"errors"
	"fmt"

	"github.com/wgjail/wgjail/internal/hint"
)

// A Mode is a way of forwarding.
type Mode string

// The modes of forwards.
const (
	ModeRelay Mode = "relay" // a process moves the bytes; see package relay
	ModeVeth  Mode = "veth"  // the kernel redirects packets; see package veth
)

// A Source says which address the services inside see.
type Source string

// The sources. A client on the host's loopback, and one with a link-local IPv6
// address, always has SourceJail.
const (
	SourceJail   Source = "jail"   // one of the jail's own; with ModeVeth that of the link to the host
	SourceClient Source = "client" // the client's
	SourceHost   Source = "host"   // one of the host's: of reverse forwards only
)

// Check reports what options ask for that does not go together.
func (o *ForwardOptions) Check() error {
	if o.reverse() {
		if err := o.checkReverse(); err != nil {
			return err
		}
	}
	if o.Mode == ModeVeth {
		return o.checkVeth()
	}
	for _, s := range o.Specs {
		if s.Network == "udp" && o.Source == SourceClient {
			return hint.Wrap(fmt.Errorf("forward %q: services can see the client's address over TCP only", s), "leave --source client out for UDP, or use --mode veth")
		}
		if s.Network == "udp" && o.Proxy != 0 {
			return hint.Wrap(fmt.Errorf("forward %q: the PROXY protocol is for TCP only", s), "leave --proxy-protocol out for UDP")
		}
	}
	return nil
}

// checkVeth refuses what only a relay can do.
func (o *ForwardOptions) checkVeth() error {
	l := o.Limits
	for option, used := range map[string]bool{
		"to": o.To.IsValid(), "proxy-protocol": o.Proxy != 0, "idle-timeout": l.IdleTimeout != 0,
		"max-conns": l.MaxConns != 0, "max-conns-per-client": l.MaxConnsPerClient != 0,
	} {
		if used {
			return hint.Wrap(fmt.Errorf("--%s does not go with --mode veth: the kernel redirects packets, and knows nothing of it", option),
				"relay mode does: leave --mode veth out")
		}
	}
	return nil
}

// settle fills in what the options leave out.
func (o *ForwardOptions) settle() error {
	if err := o.Check(); err != nil {
		return err
	}
	usual := SourceClient
	if o.Mode != ModeVeth {
		o.Mode, usual = ModeRelay, SourceJail
	}
	if o.reverse() {
		usual = SourceHost
	}
	if o.Source == "" {
		o.Source = usual
	}
	if o.Mode == ModeVeth && rootless() {
		return hint.Wrap(errors.New("veth mode needs root: it changes the host's rules"), "relay mode does without: leave --mode veth out; or try again with sudo")
	}
	if o.Mode == ModeVeth && o.Into.Jail == "" {
		return hint.Wrap(fmt.Errorf("veth mode opens ports into jails, and %s is not one", o.Into), "relay mode serves any namespace: leave --mode veth out")
	}
	return nil
}
