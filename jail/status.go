package jail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/veth"
)

// What a jail can be.
const (
	StateUp     = "up"
	StateStale  = "stale"  // no handshake for 180 s although traffic is pending
	StateBroken = "broken" // a part is missing
)

// A Status is what is known of one jail now. Its JSON form is what
// "wgjail status --json" prints.
type Status struct {
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Missing   []string        `json:"missing,omitempty"` // why it is broken
	Backend   Backend         `json:"backend"`
	Interface string          `json:"interface"`
	Netns     string          `json:"netns"`
	MTU       int             `json:"mtu"` // bytes
	Addresses []netip.Prefix  `json:"addresses"`
	DNS       []netip.Addr    `json:"dns"`
	Search    []string        `json:"search,omitempty"`
	Peers     []PeerStatus    `json:"peers"`
	Repairs   []Repair        `json:"repairs,omitempty"`       // what the keeper noticed or did lately, the latest last
	Port      *ProviderPort   `json:"provider_port,omitempty"` // if the provider is asked for one
	Forwards  []ForwardStatus `json:"forwards"`
	Processes []Process       `json:"processes"`
}

// A PeerStatus is one peer of a jail.
type PeerStatus struct {
	PublicKey       string         `json:"public_key"`
	Endpoint        string         `json:"endpoint"`         // as WireGuard has it now
	LatestHandshake *time.Time     `json:"latest_handshake"` // null: none yet
	RxBytes         int64          `json:"rx_bytes"`
	TxBytes         int64          `json:"tx_bytes"`
	AllowedIPs      []netip.Prefix `json:"allowed_ips"`
}

// A ForwardStatus is one forward.
type ForwardStatus struct {
	record
	Netns    string `json:"-"` // the file of the namespace that it leads into, unless that is a jail's
	Active   uint64 `json:"active"`
	Total    uint64 `json:"total"`
	Refused  uint64 `json:"refused"`
	BytesIn  uint64 `json:"bytes_in"`  // from clients into the jail
	BytesOut uint64 `json:"bytes_out"` // from the jail to clients
	Errors   uint64 `json:"dial_errors"`

	// UDP: datagrams that could not be passed on, and flows that ended early to
	// make room for others.
	Dropped uint64 `json:"dropped,omitempty"`
	Evicted uint64 `json:"evicted,omitempty"`

	// In veth mode, what the rules have let through, and what is wrong.
	PacketsIn  uint64 `json:"packets_in,omitempty"`
	PacketsOut uint64 `json:"packets_out,omitempty"`
	Warning    string `json:"warning,omitempty"`

	redirect *veth.Forward
}

// ReadStatus returns the status of the jail called name. The error is ErrNotUp
// if there is no such jail.
func ReadStatus(name string) (*Status, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	s, err := loadState(name)
	if errors.Is(err, os.ErrNotExist) {
		if missing(stateDir(name)) {
			return nil, notUp(name)
		}
		return broken(name, "it was never completed: wgjail down "+name), nil
	}
	if err != nil {
		return broken(name, fmt.Sprintf("%v: wgjail down %s", err, name)), nil
	}
	if err := forgetKilledRules(name); err != nil {
		return nil, err
	}
	st := s.status()
	if st.Forwards, err = forwardsIn(name); err != nil {
		return nil, err
	}
	st.addRules(s)
	return st, nil
}

// broken is the status of a jail of which nothing but the name can be known.
func broken(name, why string) *Status {
	return &Status{
		Name: name, State: StateBroken, Missing: []string{why}, Interface: name, Netns: netnsx.Path(name),
		Addresses: []netip.Prefix{}, DNS: []netip.Addr{}, Peers: []PeerStatus{}, Forwards: []ForwardStatus{}, Processes: []Process{},
	}
}

func (s *state) status() *Status {
	st := broken(s.Name, "")
	st.State, st.Missing = StateUp, nil
	h := readHealth(s.Name)
	st.Backend, st.MTU, st.Search, st.Repairs = s.Backend, s.mtu(), s.Search, h.Repairs
	st.Addresses = append(st.Addresses, s.Addresses...)
	st.DNS = append(st.DNS, s.DNS...)
	lacks, err := s.missingParts()
	if err != nil {
		lacks = []string{err.Error()}
	}
	if s.Complete.IsZero() {
		lacks = append(lacks, "it is being made, or its making was interrupted")
	}
	var dev *wgtypes.Device
	if ns, err := s.openNamespace(); err == nil {
		dev, _ = readDevice(ns, s.Name)
		if inside, err := Processes(ns); err == nil {
			st.Processes = append(st.Processes, inside...)
		}
		forgetClientWay(s.Name, ns) // or the next command does
		ns.Close()
	}
	st.Peers = s.peerStatus(dev)
	st.Port = s.portStatus()
	switch {
	case len(lacks) > 0:
		st.State, st.Missing = StateBroken, lacks
	case h.Stale:
		st.State = StateStale
	}
	return st
}

// peerStatus joins what is written down with what the device says; without a
// device the former is all there is.
func (s *state) peerStatus(dev *wgtypes.Device) []PeerStatus {
	now := map[string]wgtypes.Peer{}
	if dev != nil {
		for _, p := range dev.Peers {
			now[p.PublicKey.String()] = p
		}
	}
	list := []PeerStatus{}
	for _, p := range s.Peers {
		ps := PeerStatus{PublicKey: p.PublicKey, AllowedIPs: append([]netip.Prefix{}, p.AllowedIPs...)}
		if p.Endpoint.IsValid() {
			ps.Endpoint = p.Endpoint.String()
		}
		if d, ok := now[p.PublicKey]; ok {
			ps.RxBytes, ps.TxBytes = d.ReceiveBytes, d.TransmitBytes
			if d.Endpoint != nil {
				ps.Endpoint = d.Endpoint.String()
			}
			if !d.LastHandshakeTime.IsZero() {
				at := d.LastHandshakeTime.UTC()
				ps.LatestHandshake = &at
			}
		}
		list = append(list, ps)
	}
	return list
}

// ForwardsElsewhere returns the living forwards into namespaces that are not
// jails, sorted by namespace and ID.
func ForwardsElsewhere() ([]ForwardStatus, error) {
	list, err := forwardsIn(placePrefix + "*")
	sort.SliceStable(list, func(i, j int) bool { return list[i].Netns < list[j].Netns })
	return list, err
}

// forwardsIn returns the living forwards in a register, sorted by ID. The
// register's name may be a pattern (path.Match).
func forwardsIn(register string) ([]ForwardStatus, error) {
	records, err := livingRecords(register)
	list := []ForwardStatus{}
	for _, rec := range records {
		f := ForwardStatus{record: rec.record, Netns: rec.Netns, redirect: rec.Redirect}
		if s, err := readStats(statsPath(rec.path)); err == nil {
			f.Active, f.Total, f.Refused, f.Errors = s.Active, s.Total, s.Refused, s.DialErrors
			f.Dropped, f.Evicted = s.Dropped, s.Evicted
			f.BytesIn, f.BytesOut = s.BytesIn, s.BytesOut
		}
		list = append(list, f)
	}
	return list, err
}

// livingRecords returns the records of living forwards in a register, sorted by
// ID.
func livingRecords(register string) ([]savedRecord, error) {
	paths, err := filepath.Glob(filepath.Join(forwardDir(register), "*.json"))
	if err != nil {
		return nil, err
	}
	sort.Strings(paths)
	var list []savedRecord
	for _, path := range paths {
		alive, err := held(path)
		if err != nil || !alive {
			continue // killed, or stopped since
		}
		rec, err := readRecord(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		rec.path = path
		list = append(list, rec)
	}
	return list, nil
}

func readRecord(path string) (savedRecord, error) {
	var r savedRecord
	data, err := readOwned(path)
	if err != nil {
		return r, err
	}
	_, text, _ := bytes.Cut(data, []byte("\n"))
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}
