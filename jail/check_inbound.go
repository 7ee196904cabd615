package jail

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// probeInbound wants nobody let in who calls through the tunnel. It tries that: a
// name server is sent a query that the jail's packet filter does not see leave,
// so that its answer is a call to the filter.
//
//	packet socket ───────────────► tunnel ─► server
//	UDP socket  ◄─ X ─ filter ◄─── tunnel ◄─ answer
//
// An ordinary query goes after it: when that is answered, the first answer has
// been there. And it wants the rules to be those that were made.
func (c *checker) probeInbound(ctx context.Context) outcome {
	rules := c.part(partInbound, "")(ctx)
	if len(c.answering) == 0 {
		if rules.result == Failed {
			return rules
		}
		return passed("the rules are as they were made; no name server answers, so that they cannot be tried")
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Patience)
	defer cancel()
	server := c.answering[0]
	in, dropped, err := c.callIn(ctx, server)
	switch {
	case in:
		return failed(c.again(), "a packet of %s that nobody had asked for came in through the tunnel", server)
	case rules.result == Failed:
		return rules
	case err != nil:
		return unknown(err)
	case !dropped:
		return passed("the rules are as they were made; %s did not answer the query that tries them", server)
	}
	return passed("a packet of %s that nobody had asked for was dropped; answers come in", server)
}

// callIn has a server send something into the jail that nobody there has asked
// for, as the packet filter sees it. It reports whether it came in or the rule
// for such packets has dropped something; neither means that nothing came.
func (c *checker) callIn(ctx context.Context, server netip.Addr) (in, dropped bool, err error) {
	own, ok := c.ownAddress(server.Is4())
	if !ok {
		return false, false, fmt.Errorf("the jail has no address to reach %s from", server)
	}
	link, err := linkIn(c.ns, c.Name)
	if err != nil {
		return false, false, err
	}
	port, ear, err := c.listenUDP(own)
	if err != nil {
		return false, false, err
	}
	defer ear.Close()
	before, err := c.dropped(inputChain)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, false, err
	}
	query := udpPacket(netip.AddrPortFrom(own, port), netip.AddrPortFrom(server, namePorts[0]), rootQuery(port))
	for !in && !dropped && ctx.Err() == nil {
		if err := c.ns.Do(func() error { return sendPast(link.Index, query) }); err != nil {
			return false, false, err
		}
		c.askServer(ctx, server)
		in = ear.SetReadDeadline(time.Now().Add(time.Millisecond)) == nil && readable(ear)
		after, err := c.dropped(inputChain)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return in, false, err
		}
		dropped = after > before
	}
	return in, dropped, nil
}

func readable(f *os.File) bool {
	_, err := f.Read(make([]byte, 1))
	return err == nil
}

func (c *checker) ownAddress(v4 bool) (netip.Addr, bool) {
	for _, a := range c.Addresses {
		if a.Addr().Is4() == v4 {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// listenUDP returns a socket of the jail that has a port of its own at an
// address.
func (c *checker) listenUDP(at netip.Addr) (port uint16, ear *os.File, err error) {
	family, addr := sockaddr(netip.AddrPortFrom(at, 0))
	fd := -1
	err = c.ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return 0, nil, err
	}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return 0, nil, os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(fd)
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		port = uint16(a.Port)
	case *unix.SockaddrInet6:
		port = uint16(a.Port)
	}
	return port, os.NewFile(uintptr(fd), at.String()), os.NewSyscallError("getsockname", err)
}

// sendPast sends a packet through an interface of the calling thread's namespace,
// past routes and packet filter (packet(7)).
func sendPast(link int, packet []byte) error {
	proto := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: link}
	return os.NewSyscallError("sendto", unix.Sendto(fd, packet, 0, to))
}

const udpHeader = 8

// udpPacket is an IPv4 (RFC 791) or IPv6 (RFC 8200) packet with a UDP datagram
// (RFC 768).
func udpPacket(from, to netip.AddrPort, data []byte) []byte {
	udp := make([]byte, udpHeader, udpHeader+len(data))
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(data)))
	udp = append(udp, data...)
	pseudo := append(append(from.Addr().AsSlice(), to.Addr().AsSlice()...), 0, unix.IPPROTO_UDP, udp[4], udp[5])
	sum := checksum(append(pseudo, udp...))
	if sum == 0 {
		sum = 0xffff // 0 says that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], sum)

	if from.Addr().Is6() {
		ip := []byte{0x60, 0, 0, 0, udp[4], udp[5], unix.IPPROTO_UDP, 64}
		return append(append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...), udp...)
	}
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}
