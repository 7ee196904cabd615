package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// stateVersion changes when an older wgjail's state cannot be understood.
const stateVersion = 1

// A state is what is written down about a jail: enough to remove it, to repair
// it and to show it. It holds no secret.
type state struct {
	Version   int            `json:"version"`
	Name      string         `json:"name"`
	Complete  time.Time      `json:"complete,omitzero"` // when up was done; zero while it is not
	Config    string         `json:"config"`            // its fingerprint
	Backend   Backend        `json:"backend"`
	Namespace netnsx.ID      `json:"namespace"`
	MTU       int            `json:"mtu"`
	MTUGiven  bool           `json:"mtu_given,omitempty"` // by the configuration
	Addresses []netip.Prefix `json:"addresses"`
	DNS       []netip.Addr   `json:"dns"`
	Search    []string       `json:"search"`
	DNSFolder bool           `json:"dns_folder,omitempty"` // there was one, without files, before the jail
	Peers     []peerState    `json:"peers"`
	Routes    []netip.Prefix `json:"routes"`
	Hooks     *Hooks         `json:"hooks,omitempty"` // nil unless they were allowed
	Port      *PortRequest   `json:"port,omitempty"`  // nil unless the provider is asked for one
}

// A peerState is what of a peer is not secret.
type peerState struct {
	PublicKey  string         `json:"public_key"`
	Host       string         `json:"host,omitempty"`
	Port       uint16         `json:"port,omitempty"`
	Endpoint   netip.AddrPort `json:"endpoint,omitzero"` // as resolved by up
	AllowedIPs []netip.Prefix `json:"allowed_ips"`
}

func statePath(name string) string { return filepath.Join(stateDir(name), "jail.json") }

// loadState reads the state of the jail called name. The error is
// os.ErrNotExist if there is no such jail.
func loadState(name string) (*state, error) {
	data, err := readOwned(statePath(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, damaged(name, err)
	}
	return parseState(name, data)
}

// parseState reads what save has written for the jail called name.
func parseState(name string, data []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, damaged(name, fmt.Errorf("read %s: %w", statePath(name), err))
	}
	if s.Version != stateVersion || s.Name != name {
		return nil, damaged(name, fmt.Errorf("%s: written by another version of wgjail", statePath(name)))
	}
	return &s, nil
}

func damaged(name string, err error) error {
	return hint.Wrap(err, "remove what is left of the jail with: wgjail down %s", name)
}

func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(statePath(s.Name), append(data, '\n'), 0o600)
}

// List returns the names of all jails, sorted.
func List() ([]string, error) { return listIn(runDir) }

func listIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// notUp is the error for a jail that is not there.
func notUp(name string) error {
	return hint.Wrap(fmt.Errorf("jail %s %w", name, ErrNotUp), "make it with: wgjail up %s.conf", name)
}

// ErrNotUp is the error for a jail that is not there. It is os.ErrNotExist too.
var ErrNotUp = fmt.Errorf("is not up%w", silent{os.ErrNotExist})

// silent gives an error an identity without adding to its text.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }
