package provider

import (
	"bytes"
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

// A Packet is an IP packet as it was inside the tunnel.
type Packet struct {
	Out  bool // towards the client
	Data []byte
}

// Header returns what the packet's headers say.
func (p Packet) Header() (Header, bool) { return ParseHeader(p.Data) }

// Seen counts the packets inside the tunnels, of all clients.
type Seen struct {
	InPackets, InBytes   uint64 // from clients
	OutPackets, OutBytes uint64 // to clients
	Handshakes           uint64 // answered
	Dropped              uint64 // datagrams lost on purpose: see Blackhole
}

// recordLimit bounds the packets that are kept, in bytes: the oldest go first.
const recordLimit = 64 << 20

// A recorder is a TUN device that remembers what went through.
type recorder struct {
	tun.Device
	mtu    int
	events chan tun.Event

	mu       sync.Mutex
	closeErr error // of Close
	seen     Seen
	keep     bool
	packets  []Packet
	size     int // bytes in packets
}

func newRecorder(dev tun.Device, mtu int, keep bool) *recorder {
	r := &recorder{Device: dev, mtu: mtu, keep: keep, events: make(chan tun.Event)}
	go r.drain()
	return r
}

// drain keeps the device's events from the server, which would stop and start
// with the link: the provider alone decides when it is up.
func (r *recorder) drain() {
	for range r.Device.Events() {
	}
	close(r.events)
}

// Events never sends. It is closed with the device.
func (r *recorder) Events() <-chan tun.Event { return r.events }

// MTU returns what is known, because the device would ask in the wrong namespace.
func (r *recorder) MTU() (int, error) { return r.mtu, nil }

// Close closes the device.
func (r *recorder) Close() error {
	err := r.Device.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeErr = err
	return err
}

// closed returns the error of Close.
func (r *recorder) closed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closeErr
}

// Read reads packets on their way to clients.
func (r *recorder) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := r.Device.Read(bufs, sizes, offset)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		r.seen.OutPackets++
		r.seen.OutBytes += uint64(sizes[i])
		r.record(true, bufs[i][offset:offset+sizes[i]])
	}
	return n, err
}

// Write writes packets that came from clients. It records them first, because
// the device may join them in place.
func (r *recorder) Write(bufs [][]byte, offset int) (int, error) {
	r.note(bufs, offset)
	return r.Device.Write(bufs, offset)
}

func (r *recorder) note(bufs [][]byte, offset int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range bufs {
		r.seen.InPackets++
		r.seen.InBytes += uint64(len(b) - offset)
		r.record(false, b[offset:])
	}
}

// record keeps a copy of the packet. r.mu is held.
func (r *recorder) record(out bool, data []byte) {
	if !r.keep {
		return
	}
	r.packets = append(r.packets, Packet{out, bytes.Clone(data)})
	r.size += len(data)
	if r.size > recordLimit {
		half := len(r.packets) / 2
		for _, p := range r.packets[:half] {
			r.size -= len(p.Data)
		}
		r.packets = slices.Clone(r.packets[half:])
	}
}

// Seen returns the counts so far.
func (p *Provider) Seen() Seen {
	p.tun.mu.Lock()
	seen := p.tun.seen
	p.tun.mu.Unlock()
	seen.Handshakes = p.bind.responses.Load()
	seen.Dropped = p.bind.dropped.Load()
	return seen
}

// Packets returns the inner packets so far, oldest first, if Config.Record is
// set. Their data is shared: it must not be changed.
func (p *Provider) Packets() []Packet {
	p.tun.mu.Lock()
	defer p.tun.mu.Unlock()
	return slices.Clone(p.tun.packets)
}

// Find returns the inner packets that contain the bytes of canary.
func (p *Provider) Find(canary []byte) []Packet {
	return slices.DeleteFunc(p.Packets(), func(k Packet) bool { return !bytes.Contains(k.Data, canary) })
}
