package provider

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A bind is WireGuard's UDP sockets, born in another namespace, that can play
// dead or move.
type bind struct {
	outside *netnsx.Namespace
	std     conn.Bind // the library's own: on all addresses, and fast

	mu   sync.Mutex
	addr netip.Addr // where to listen; zero: everywhere
	port uint16     // where it listens
	now  conn.Bind  // in use

	silent    atomic.Bool   // drop everything
	responses atomic.Uint64 // handshake responses sent
	dropped   atomic.Uint64 // datagrams
}

// newBind returns a bind for the address addr, or for all if it is zero.
func newBind(outside *netnsx.Namespace, addr netip.Addr) *bind {
	std := conn.NewStdNetBind()
	return &bind{outside: outside, std: std, addr: addr, now: std}
}

// move changes the address for the next Open.
func (b *bind) move(to netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addr = to
}

func (b *bind) current() conn.Bind {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bind) listenPort() uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.port
}

// Open opens the sockets in the outside namespace.
func (b *bind) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.std
	if b.addr.IsValid() {
		b.now = &boundBind{addr: b.addr}
	}
	err = in(b.outside, func() (err error) {
		fns, actual, err = b.now.Open(port)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	b.port = actual
	for i, receive := range fns {
		fns[i] = b.filter(receive)
	}
	return fns, actual, nil
}

// filter drops what is received while the server plays dead: a size of 0.
func (b *bind) filter(receive conn.ReceiveFunc) conn.ReceiveFunc {
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := receive(packets, sizes, eps)
		if n > 0 && b.silent.Load() {
			clear(sizes[:n])
			b.dropped.Add(uint64(n))
		}
		return n, err
	}
}

// handshakeResponse is the type of WireGuard's second message: one is sent for
// each valid handshake initiation.
const handshakeResponse = 2

// Send sends datagrams, or loses them.
func (b *bind) Send(packets [][]byte, to conn.Endpoint) error {
	if b.silent.Load() {
		b.dropped.Add(uint64(len(packets)))
		return nil
	}
	for _, p := range packets {
		if len(p) > 0 && p[0] == handshakeResponse {
			b.responses.Add(1)
		}
	}
	return b.current().Send(packets, to)
}

// Close closes the sockets.
func (b *bind) Close() error { return b.current().Close() }

// SetMark sets the mark of outgoing packets.
func (b *bind) SetMark(mark uint32) error { return b.current().SetMark(mark) }

// ParseEndpoint parses an address and port.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) { return b.std.ParseEndpoint(s) }

// BatchSize returns how many datagrams are handled at once.
func (b *bind) BatchSize() int { return b.std.BatchSize() }
