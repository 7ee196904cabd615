package provider

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"
)

// A boundBind is one UDP socket on one address. The library's own listens on all
// addresses, and where the kernel joins datagrams (UDP_GRO) it forgets which one
// a datagram was sent to: its answer may come from another.
type boundBind struct {
	addr netip.Addr

	mu     sync.Mutex
	socket *net.UDPConn
	batch  batchConn
}

// batchConn is ipv4.PacketConn or ipv6.PacketConn; their messages are one type.
type batchConn interface {
	ReadBatch([]ipv4.Message, int) (int, error)
	WriteBatch([]ipv4.Message, int) (int, error)
}

// Open opens the socket in the calling thread's namespace.
func (b *boundBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	at := netip.AddrPortFrom(b.addr, port)
	pc, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.socket = pc.(*net.UDPConn)
	b.batch = ipv4.NewPacketConn(b.socket)
	if b.addr.Is6() {
		b.batch = ipv6.NewPacketConn(b.socket)
	}
	return []conn.ReceiveFunc{receiver(b.batch)}, b.socket.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// receiver returns a function that is called by one goroutine at a time.
func receiver(batch batchConn) conn.ReceiveFunc {
	messages := make([]ipv4.Message, conn.IdealBatchSize)
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		in := messages[:min(len(packets), len(messages))]
		for i := range in {
			in[i].Buffers = [][]byte{packets[i]}
		}
		n, err := batch.ReadBatch(in, 0)
		for i := range max(n, 0) {
			sizes[i] = in[i].N
			eps[i] = &conn.StdNetEndpoint{AddrPort: unmap(in[i].Addr.(*net.UDPAddr).AddrPort())}
		}
		return max(n, 0), err
	}
}

// Send sends datagrams to one address.
func (b *boundBind) Send(packets [][]byte, to conn.Endpoint) error {
	ep, ok := to.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.Lock()
	batch := b.batch
	b.mu.Unlock()
	if batch == nil {
		return net.ErrClosed
	}
	addr := net.UDPAddrFromAddrPort(ep.AddrPort)
	out := make([]ipv4.Message, len(packets))
	for i, p := range packets {
		out[i] = ipv4.Message{Buffers: [][]byte{p}, Addr: addr}
	}
	for len(out) > 0 {
		n, err := batch.WriteBatch(out, 0)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// Close closes the socket. The receiver returns net.ErrClosed.
func (b *boundBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	b.batch = nil
	err := b.socket.Close()
	b.socket = nil
	return err
}

// SetMark does nothing: the provider sets no mark.
func (b *boundBind) SetMark(uint32) error { return nil }

// ParseEndpoint parses an address and port.
func (b *boundBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	at, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: at}, err
}

// BatchSize returns how many datagrams are handled at once.
func (b *boundBind) BatchSize() int { return conn.IdealBatchSize }
