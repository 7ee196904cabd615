package jail

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// An echoer pings one address from inside a jail (RFC 792, RFC 4443). What it
// sends leaves through the jail's interface or not at all.
type echoer struct {
	target netip.Addr
	socket *os.File // raw, connected to target
	cookie [8]byte  // tells its echoes from those of others
	passed int      // the largest packet that was answered
}

// openEcho makes an echoer whose socket is born in ns.
func openEcho(ns *netnsx.Namespace, link string, target netip.Addr) (*echoer, error) {
	e := &echoer{target: target}
	rand.Read(e.cookie[:])
	err := ns.Do(func() (err error) {
		e.socket, err = echoSocket(link, target)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a socket to ping %s: %w", target, err)
	}
	return e, nil
}

func (e *echoer) close() { e.socket.Close() }

// echoSocket returns a raw ICMP socket whose packets are never fragmented, here
// or later, and are as large as the interface lets them be, whatever the kernel
// believes of the path (IP_PMTUDISC_PROBE in ip(7)).
func echoSocket(link string, target netip.Addr) (*os.File, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	var to unix.Sockaddr
	if target.Is4() {
		to = &unix.SockaddrInet4{Addr: target.As4()}
	} else {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
		to = &unix.SockaddrInet6{Addr: target.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for _, err := range []error{
		os.NewSyscallError("setsockopt", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, unix.IP_PMTUDISC_PROBE)),
		os.NewSyscallError("connect", unix.Connect(fd, to)),
	} {
		if err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), "echo"), nil
}

// ask pings with packets of these sizes, in ascending order and in bytes with
// the IP header, so many times while there is no answer, and returns the largest
// that was answered, or 0. What is smaller than one that passed is not waited for.
func (e *echoer) ask(ctx context.Context, tries int, sizes []int) int {
	best := 0
	stop := context.AfterFunc(ctx, func() { e.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for range tries {
		e.socket.SetReadDeadline(time.Now().Add(echoWait))
		for _, size := range sizes {
			if size > best {
				e.send(size)
			}
		}
		for ctx.Err() == nil && best < sizes[len(sizes)-1] {
			size, err := e.answer()
			if err != nil {
				break
			}
			best = max(best, size)
		}
		if ctx.Err() != nil || best == sizes[len(sizes)-1] {
			break
		}
	}
	e.passed = max(e.passed, best)
	return best
}

// send sends a packet of size bytes. One that cannot be sent, for its size or for
// want of a route, is one that does not come back.
func (e *echoer) send(size int) { e.socket.Write(e.request(size)) }

const (
	icmpHeader  = 8
	echoRequest = 8
	echoReply   = 0
	echoSix     = 128 // type of the request; the reply's is one more
)

// request is an echo request that makes a packet of size bytes. Its sequence
// number is the size, so that an answer says which one it answers, even if it
// brings back less of it.
func (e *echoer) request(size int) []byte {
	header := 20
	if e.target.Is6() {
		header = 40
	}
	p := make([]byte, size-header)
	p[0] = echoRequest
	copy(p[4:6], e.cookie[:2]) // the identifier
	binary.BigEndian.PutUint16(p[6:], uint16(size))
	copy(p[icmpHeader:], e.cookie[:])
	if e.target.Is6() {
		p[0] = echoSix // the kernel sums: it knows the addresses
		return p
	}
	binary.BigEndian.PutUint16(p[2:], checksum(p))
	return p
}

// answer waits for an echo reply and returns the size of the packet that it
// answers.
func (e *echoer) answer() (size int, err error) {
	var buf [65535]byte
	for {
		n, err := e.socket.Read(buf[:])
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
				return 0, err
			}
			continue // an ICMP error about what was sent; the socket goes on
		}
		p, kind := buf[:n], byte(echoSix+1)
		if e.target.Is4() { // a raw socket gets the IPv4 header too
			if n == 0 || n < int(p[0]&15)*4 {
				continue
			}
			p, kind = p[int(p[0]&15)*4:], echoReply
		}
		if len(p) >= icmpHeader+len(e.cookie) && p[0] == kind && bytes.Equal(p[icmpHeader:][:len(e.cookie)], e.cookie[:]) {
			return int(binary.BigEndian.Uint16(p[6:])), nil
		}
	}
}

// checksum is the Internet checksum of p (RFC 1071).
func checksum(p []byte) uint16 {
	var sum uint32
	for i := 0; i < len(p)-1; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	if len(p)%2 == 1 {
		sum += uint32(p[len(p)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// linkIn returns what is known of an interface in ns.
func linkIn(ns *netnsx.Namespace, name string) (attrs *netlink.LinkAttrs, err error) {
	err = withJail(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		attrs = link.Attrs()
		return nil
	})
	return attrs, err
}
