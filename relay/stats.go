package relay

import (
	"sync/atomic"
	"unsafe"
)

// Stats counts what one forward did. The workers write it only with sync/atomic,
// once per turn of their loop and not once per message, so it may lie in memory
// that other processes map (8-byte aligned, StatsSize bytes, zero at first).
// Read it with Load.
type Stats struct {
	Active     uint64 // TCP connections or UDP flows that exist now
	Total      uint64 // … that were ever accepted
	Refused    uint64 // clients not served: not in Allow, or over a limit
	DialErrors uint64 // targets that did not accept, each try counted
	BytesIn    uint64 // from clients to targets
	BytesOut   uint64 // from targets to clients

	DatagramsIn  uint64 // UDP, from clients to targets
	DatagramsOut uint64 // UDP, from targets to clients
	Dropped      uint64 // UDP datagrams that could not be passed on
	Evicted      uint64 // UDP flows that ended early to make room

	_ [6]uint64 // room to grow without a new layout
}

// StatsSize is the size of Stats in bytes. It does not change.
const StatsSize = 128

// The layout is a contract between processes.
var _ [StatsSize]byte = [unsafe.Sizeof(Stats{})]byte{}

// Load returns a copy. Each counter is read atomically; all of them together
// are not one instant.
func (s *Stats) Load() Stats {
	return Stats{
		Active:       atomic.LoadUint64(&s.Active),
		Total:        atomic.LoadUint64(&s.Total),
		Refused:      atomic.LoadUint64(&s.Refused),
		DialErrors:   atomic.LoadUint64(&s.DialErrors),
		BytesIn:      atomic.LoadUint64(&s.BytesIn),
		BytesOut:     atomic.LoadUint64(&s.BytesOut),
		DatagramsIn:  atomic.LoadUint64(&s.DatagramsIn),
		DatagramsOut: atomic.LoadUint64(&s.DatagramsOut),
		Dropped:      atomic.LoadUint64(&s.Dropped),
		Evicted:      atomic.LoadUint64(&s.Evicted),
	}
}

func add(counter *uint64, n uint64) { atomic.AddUint64(counter, n) }
func sub(counter *uint64)           { atomic.AddUint64(counter, ^uint64(0)) }
