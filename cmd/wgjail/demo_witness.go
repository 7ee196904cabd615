package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A witness looks at every packet on every interface of the host (packet(7)).
type witness struct {
	file     *os.File
	endpoint netip.AddrPort // whose UDP is WireGuard's

	mu     sync.Mutex
	frames [][]byte
	links  []int
}

// A testimony is what a witness has seen.
type testimony struct {
	frames, encrypted int
	leaks             []string // interfaces on which the canary was in the clear
}

func newWitness(endpoint netip.AddrPort) (*witness, error) {
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	w := &witness{file: os.NewFile(uintptr(fd), "packets"), endpoint: endpoint}
	go w.look()
	return w, nil
}

func (w *witness) close() error { return w.file.Close() }

func (w *witness) look() {
	buf := make([]byte, 1<<16)
	c, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int
		var from unix.Sockaddr
		var recvErr error
		err := c.Read(func(fd uintptr) bool {
			n, from, recvErr = unix.Recvfrom(int(fd), buf, 0)
			return recvErr != unix.EAGAIN
		})
		if err != nil || recvErr != nil {
			return
		}
		link := 0
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			link = ll.Ifindex
		}
		w.mu.Lock()
		w.frames, w.links = append(w.frames, bytes.Clone(buf[:n])), append(w.links, link)
		w.mu.Unlock()
	}
}

// account says what has been seen up to now. Where the canary comes in over
// the forward, in the request to the page itself, it is no leak.
func (w *witness) account(canary string) (testimony, error) {
	if err := w.catchUp(); err != nil {
		return testimony{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var t testimony
	for i, frame := range w.frames {
		t.frames++
		if udpPort(frame, w.endpoint.Port()) {
			t.encrypted++
		}
		if bytes.Contains(frame, []byte(outwards(canary))) {
			t.leaks = append(t.leaks, linkName(w.links[i]))
		}
	}
	return t, nil
}

// outwards is how the canary looks in the request that leaves the jail; the
// one that enters it has another path.
func outwards(canary string) string { return "GET /?canary=" + canary }

// catchUp sends a packet of its own and waits until it is seen: so is whatever
// came before it. It is also the proof that the witness can see the canary's
// like at all.
func (w *witness) catchUp() error {
	mark := []byte(outwards("") + rand.Text())
	c, err := net.Dial("udp", netip.AddrPortFrom(w.endpoint.Addr(), 9).String()) // discard (RFC 863)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write(mark)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		last := bytes.Join(w.frames[max(0, len(w.frames)-64):], nil)
		w.mu.Unlock()
		if bytes.Contains(last, mark) {
			return nil
		}
	}
	return errors.New("the watch over the host's packets does not see them")
}

// udpPort reports whether an IPv4 packet is UDP to or from port.
func udpPort(ip []byte, port uint16) bool {
	if len(ip) < 28 || ip[0]>>4 != 4 || ip[9] != unix.IPPROTO_UDP {
		return false
	}
	udp := ip[int(ip[0]&15)*4:]
	return len(udp) >= 4 && (binary.BigEndian.Uint16(udp) == port || binary.BigEndian.Uint16(udp[2:]) == port)
}

func linkName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprintf("interface %d", index)
}
