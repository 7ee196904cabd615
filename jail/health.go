package jail

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// health is what the keeper knows and a glance at the device does not show.
type health struct {
	Stale   bool     `json:"stale"`
	MTU     int      `json:"mtu,omitempty"`  // what the path has made it; 0: as up has set it
	Held    int      `json:"held,omitempty"` // what packets are held to while the path is unknown, in bytes; 0: they are not
	Repairs []Repair `json:"repairs,omitempty"`
}

// A Repair is something that the keeper noticed or did.
type Repair struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// keptRepairs is how many of them are told.
const keptRepairs = 8

func healthPath(name string) string { return filepath.Join(stateDir(name), "health.json") }

// readHealth returns what the keeper said last; nothing is healthy.
func readHealth(name string) health {
	var h health
	if data, err := readOwned(healthPath(name)); err == nil && json.Unmarshal(data, &h) != nil {
		return health{}
	}
	return h
}

// mtu is the MTU that the jail's interface should have, in bytes.
func (s *state) mtu() int {
	if h := readHealth(s.Name); h.MTU > 0 {
		return min(h.MTU, s.MTU)
	}
	return s.MTU
}

// note tells the log and status what the keeper noticed or did.
func (k *keeper) note(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	k.log.Info(what, "jail", k.state.Name)
	list := k.health.Repairs
	if n := len(list); n > 0 && list[n-1].What == what { // tried again in vain
		list = list[:n-1]
	}
	list = append(list, Repair{time.Now().UTC(), what})
	k.health.Repairs = list[max(0, len(list)-keptRepairs):]
	k.tell()
}

// tell writes down what the keeper knows.
func (k *keeper) tell() {
	if err := writeHealth(k.state.Name, k.health); err != nil {
		k.log.Error("write health", "err", err)
	}
}

func writeHealth(name string, h health) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return writeWhole(healthPath(name), append(data, '\n'), 0o600)
}
