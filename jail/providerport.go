package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/portmap"
)

// A PortRequest says that the provider is to be asked for a port, and how.
type PortRequest struct {
	Protocol portmap.Protocol `json:"protocol"`
	Gateway  netip.Addr       `json:"gateway"`           // zero: the first name server
	OnPort   string           `json:"on_port,omitempty"` // shell command to run in the jail when the port is new
}

// ParsePortRequest reads natpmp[=GATEWAY] or pcp[=GATEWAY]. NAT-PMP becomes PCP
// if that is what the gateway speaks. Errors carry a hint.
func ParsePortRequest(text string) (*PortRequest, error) {
	protocol, gateway, given := strings.Cut(text, "=")
	r := &PortRequest{Protocol: portmap.Protocol(protocol)}
	if r.Protocol != portmap.NATPMP && r.Protocol != portmap.PCP {
		return nil, hint.Wrap(fmt.Errorf("provider port %q: unknown protocol %q", text, protocol), "use natpmp or pcp, as in natpmp or natpmp=10.2.0.1")
	}
	if !given {
		return r, nil
	}
	var err error
	if r.Gateway, err = netip.ParseAddr(gateway); err != nil || !r.Gateway.IsGlobalUnicast() || r.Gateway.Zone() != "" {
		return nil, hint.Wrap(fmt.Errorf("provider port %q: %q is not the address of a gateway", text, gateway), "leave it out to ask the first name server, as in natpmp")
	}
	r.Gateway = r.Gateway.Unmap()
	return r, nil
}

// withGateway returns the request with its gateway settled: NAT-PMP knows IPv4
// only.
func (r *PortRequest) withGateway(servers []netip.Addr) (*PortRequest, error) {
	if r == nil {
		return nil, nil
	}
	full := *r
	for _, s := range servers {
		if !full.Gateway.IsValid() && (s.Is4() || r.Protocol == portmap.PCP) {
			full.Gateway = s
		}
	}
	if !full.Gateway.IsValid() {
		return nil, hint.Wrap(errors.New("there is no name server that could be the gateway for a provider port"), "name the gateway, as in --provider-port natpmp=10.2.0.1")
	}
	if r.Protocol == portmap.NATPMP && !full.Gateway.Is4() {
		return nil, hint.Wrap(fmt.Errorf("provider port: NAT-PMP has no IPv6, and %s is that", full.Gateway), "use pcp=%s", full.Gateway)
	}
	return &full, nil
}

// A ProviderPort is what has become of a PortRequest.
type ProviderPort struct {
	Protocol  portmap.Protocol `json:"protocol"` // the one that the gateway speaks
	Gateway   netip.Addr       `json:"gateway"`
	Port      uint16           `json:"port"`             // of the provider, TCP and UDP; 0: none now
	LocalPort uint16           `json:"local_port"`       // where it leads to; mostly the same
	Expires   time.Time        `json:"expires,omitzero"` // unless it is renewed
	Error     string           `json:"error,omitempty"`  // of the last time it was asked for
}

// A savedPort is a ProviderPort as it is in its file.
type savedPort struct {
	ProviderPort
	Internal uint16   `json:"internal"` // see grant
	Nonce    [12]byte `json:"nonce"`    // see portmap.Client
	Told     uint16   `json:"told"`     // the port that the command was run for last
	// Opening is a local port of which the rules are being opened. Until that
	// is done they may be those for LocalPort, or already those for it.
	Opening *uint16 `json:"opening,omitempty"`
}

func portPath(name string) string { return filepath.Join(stateDir(name), "port.json") }

// portFile is the file for other programs: the port and a newline. It is there
// as long as there is a port.
func portFile(name string) string { return filepath.Join(stateDir(name), "port") }

// readPort returns what is known of the jail's provider port; nil is nothing.
func readPort(name string) *savedPort {
	data, err := readOwned(portPath(name))
	if err != nil {
		return nil
	}
	var p savedPort
	if json.Unmarshal(data, &p) != nil {
		return nil
	}
	return &p
}

func (p *savedPort) write(name string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeWhole(portPath(name), append(data, '\n'), 0o600)
}

// WaitProviderPort waits until the jail called name has a port of its provider,
// or the provider was asked in vain, or ctx is done. The result is nil if
// nothing is known.
func WaitProviderPort(ctx context.Context, name string) *ProviderPort {
	events, err := watchDirs(stateDir(name))
	if err != nil {
		return nil
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		p := readPort(name)
		if p != nil && (p.Port != 0 && p.Opening == nil || p.Error != "") {
			return &p.ProviderPort
		}
		if ctx.Err() != nil {
			return nil
		}
		waitEvent(ctx, events)
	}
}

// portStatus is what is known of the port; nil if none is asked for.
func (s *state) portStatus() *ProviderPort {
	if s.Port == nil {
		return nil
	}
	if p := readPort(s.Name); p != nil {
		return &p.ProviderPort
	}
	return &ProviderPort{Protocol: s.Port.Protocol, Gateway: s.Port.Gateway}
}

// samePort refuses a request that is not the one of the jail that is up.
func (m *maker) samePort(before *state) error {
	want, err := m.opts.Port.withGateway(m.cfg.DNS)
	if err != nil || want == nil || before.Port != nil && *want == *before.Port {
		return err
	}
	return hint.Wrap(fmt.Errorf("jail %s is up without that provider port", m.cfg.Name), "change it with: wgjail down %s, then up again", m.cfg.Name)
}

// openPort is the port that the rules let in.
type openPort struct {
	port uint16 // 0: none
	v6   bool   // of which family its packets are
}

func (s *state) openPort(local uint16) openPort {
	if s.Port == nil {
		return openPort{}
	}
	return openPort{local, s.Port.Gateway.Is6()}
}

// openPortNow is the one that is written down.
func (s *state) openPortNow() openPort {
	if p := readPort(s.Name); p != nil && s.Port != nil {
		return s.openPort(p.LocalPort)
	}
	return openPort{}
}

// checkInbound reports whether the rules let in what they are to let in. While
// the keeper changes the port, the old and the new one are as good.
func (s *state) checkInbound(check func(openPort) error) error {
	for {
		before := readPort(s.Name)
		err := check(s.openPortNow())
		if err != nil && before != nil && before.Opening != nil && check(s.openPort(*before.Opening)) == nil {
			return nil
		}
		if after := readPort(s.Name); err == nil || samePortFile(before, after) {
			return err
		}
	}
}

func samePortFile(a, b *savedPort) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.LocalPort == b.LocalPort && (a.Opening == nil) == (b.Opening == nil) && (a.Opening == nil || *a.Opening == *b.Opening)
}

// Names of the variables that tell a program in the jail its port.
const (
	portVariable      = "WGJAIL_PORT"
	localPortVariable = "WGJAIL_LOCAL_PORT"
)

// portVariables sets the variables, or takes those of another jail away.
func portVariables(env []string, name string) []string {
	text := func(port uint16) string {
		if port == 0 {
			return ""
		}
		return strconv.Itoa(int(port))
	}
	p := readPort(name)
	if p == nil {
		p = &savedPort{}
	}
	return setVariable(setVariable(env, portVariable, text(p.Port)), localPortVariable, text(p.LocalPort))
}

// writePortFile writes the file for other programs, or removes it.
func writePortFile(name string, port uint16) error {
	if port == 0 {
		return removeFile(portFile(name))
	}
	return writeWhole(portFile(name), fmt.Appendf(nil, "%d\n", port), 0o644)
}
