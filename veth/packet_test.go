package veth_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// TCP's flags.
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// udpPacket is an IP packet of either family.
func udpPacket(from, to netip.AddrPort, payload []byte) []byte {
	header := make([]byte, 8)
	binary.BigEndian.PutUint16(header[0:], from.Port())
	binary.BigEndian.PutUint16(header[2:], to.Port())
	binary.BigEndian.PutUint16(header[4:], uint16(8+len(payload)))
	return ipPacket(from.Addr(), to.Addr(), unix.IPPROTO_UDP, append(header, payload...), 6)
}

// tcpPacket is a TCP segment; its payload makes it recognisable.
func tcpPacket(from, to netip.AddrPort, flags byte, payload []byte) []byte {
	header := make([]byte, 20)
	binary.BigEndian.PutUint16(header[0:], from.Port())
	binary.BigEndian.PutUint16(header[2:], to.Port())
	binary.BigEndian.PutUint32(header[4:], 1000)
	binary.BigEndian.PutUint32(header[8:], 2000)
	header[12], header[13] = 5<<4, flags
	binary.BigEndian.PutUint16(header[14:], 65535)
	return ipPacket(from.Addr(), to.Addr(), unix.IPPROTO_TCP, append(header, payload...), 16)
}

// ipPacket puts a header before segment, and the checksum into it.
func ipPacket(from, to netip.Addr, proto byte, segment []byte, checksumAt int) []byte {
	pseudo := append(append([]byte(nil), from.AsSlice()...), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(segment)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(proto))
	binary.BigEndian.PutUint16(segment[checksumAt:], checksum(append(pseudo, segment...)))
	var header []byte
	if from.Is6() {
		header = make([]byte, 40)
		header[0], header[6], header[7] = 6<<4, proto, 64
		binary.BigEndian.PutUint16(header[4:], uint16(len(segment)))
		copy(header[8:], from.AsSlice())
		copy(header[24:], to.AsSlice())
	} else {
		header = make([]byte, 20)
		header[0], header[8], header[9] = 4<<4|5, 64, proto
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(segment)))
		copy(header[12:], from.AsSlice())
		copy(header[16:], to.AsSlice())
		binary.BigEndian.PutUint16(header[10:], checksum(header))
	}
	return append(header, segment...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// inject puts an IP packet on a link of the node, addressed to a neighbour, past
// all rules of the node: what only root can do.
func inject(n *world.Node, link string, to net.HardwareAddr, packet []byte) error {
	l, err := n.Netlink.LinkByName(link)
	if err != nil {
		return err
	}
	kind := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	return injectFrame(n, l.Attrs().Index, frame(to, l.Attrs().HardwareAddr, kind, packet))
}

func frame(to, from net.HardwareAddr, kind uint16, data []byte) []byte {
	f := append(append([]byte(nil), to...), from...)
	return append(binary.BigEndian.AppendUint16(f, kind), data...)
}

func injectFrame(n *world.Node, index int, f []byte) error {
	return n.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: index})
	})
}

// arpRequest asks who has an IPv4 address.
func arpRequest(mac net.HardwareAddr, from, to netip.Addr) []byte {
	a := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	a = append(append(a, mac...), from.AsSlice()...)
	a = append(append(a, make([]byte, 6)...), to.AsSlice()...)
	return frame(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP, a)
}

// macOf returns a link's address.
func macOf(t testing.TB, n *world.Node, link string) net.HardwareAddr {
	t.Helper()
	l, err := n.Netlink.LinkByName(link)
	if err != nil {
		t.Fatalf("link %s of %s: %v", link, n.Name, err)
	}
	return l.Attrs().HardwareAddr
}

// sendBound sends a datagram from a socket of the node that is bound to a link, as
// any user may (SO_BINDTODEVICE, Linux 5.7). An error is not one: it was refused.
func sendBound(n *world.Node, link string, to netip.AddrPort, payload []byte) {
	n.Do(func() error {
		kind := unix.AF_INET
		if to.Addr().Is6() {
			kind = unix.AF_INET6
		}
		fd, err := unix.Socket(kind, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		return unix.Sendto(fd, payload, 0, sockaddr(to))
	})
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

// send sends a datagram from an ordinary socket of the node.
func send(n *world.Node, to netip.AddrPort, payload []byte) error {
	return n.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(payload)
		return err
	})
}
