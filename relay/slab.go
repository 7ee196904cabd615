package relay

import (
	"iter"
	"time"
)

// A conn is one client's connection and the one made for it to a target. It is
// all the memory the relay has for them while nothing is on its way.
type conn struct {
	end        [2]end
	port       *port
	client     *clientCount  // nil unless clients are limited
	prev, next *conn         // in the timer list it is in, or the free list
	at         time.Duration // when the timer was started
	slot       uint32
	generation uint32 // told apart from those that had the slot before
	phase      phase
	route      uint8  // which target is tried or was reached
	timer      uint8  // which timer list it is in
	window     uint8  // the last of pace's that it had an event in
	left       uint32 // closing: bytes on their way when it was last looked at
}

// The ends of a connection, as indices of conn.end.
const (
	client = 0
	target = 1
)

// An end is one of the two sockets.
type end struct {
	out   *stash // bytes that the socket did not take yet; nil nearly always
	fd    int32
	flags endFlags
	full  uint8 // score of the direction from here: bulkAfter and more is bulk
}

type endFlags uint16

const (
	readable   endFlags = 1 << iota // may have bytes to read: not known to be empty
	blocked                         // takes no more bytes until epoll says so
	toEnd                           // read on until EOF, error or EAGAIN, even after a short read
	gotFIN                          // the peer has ended: an incomplete read empties it for good
	gotEOF                          // all was read, and it was the end
	sentFIN                         // no more is written to it
	broken                          // reset, timed out or otherwise dead
	registered                      // with epoll
	watchOut                        // with epoll, for writing too
	queued                          // in worker.again
	latest                          // the connection's last event was of this end
)

func (e *end) is(f endFlags) bool { return e.flags&f != 0 }
func (e *end) set(f endFlags)     { e.flags |= f }
func (e *end) clear(f endFlags)   { e.flags &^= f }

type phase uint8

const (
	phaseFree    phase = iota
	phaseStarved       // waits for a descriptor to dial with
	phaseDialing       // waits for the target to accept
	phaseOpen          // bytes move
)

// conns holds a worker's connections by slot, in chunks that never move. Slots
// of ended connections are used again, so that memory follows the peak.
type conns struct {
	chunks []*[chunkSize]conn
	free   *conn
	open   int
}

const chunkSize = 128

func (s *conns) get(slot uint32) *conn {
	return &s.chunks[slot/chunkSize][slot%chunkSize]
}

func (s *conns) alloc() *conn {
	if s.free == nil {
		chunk := new([chunkSize]conn)
		base := uint32(len(s.chunks) * chunkSize)
		s.chunks = append(s.chunks, chunk)
		for i := chunkSize - 1; i >= 0; i-- {
			chunk[i].slot = base + uint32(i)
			chunk[i].next, s.free = s.free, &chunk[i]
		}
	}
	c := s.free
	s.free = c.next
	s.open++
	*c = conn{slot: c.slot, generation: c.generation + 1}
	return c
}

func (s *conns) release(c *conn) {
	*c = conn{slot: c.slot, generation: c.generation, next: s.free}
	s.free = c
	s.open--
}

// all yields the connections that exist. They may be released meanwhile.
func (s *conns) all() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, chunk := range s.chunks {
			for i := range chunk {
				if chunk[i].phase != phaseFree && !yield(&chunk[i]) {
					return
				}
			}
		}
	}
}
