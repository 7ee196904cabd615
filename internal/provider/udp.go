package provider

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A udpConn is a UDP socket on all addresses that can answer from the one that
// a datagram was sent to.
type udpConn struct {
	*net.UDPConn
	v4 *ipv4.PacketConn // one of the two is set
	v6 *ipv6.PacketConn
}

// listenUDP opens a socket in the calling thread's namespace.
func listenUDP(network, addr string) (*udpConn, error) {
	pc, err := new(net.ListenConfig).ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	c := &udpConn{UDPConn: pc.(*net.UDPConn)}
	if network == "udp4" {
		c.v4 = ipv4.NewPacketConn(c.UDPConn)
		err = c.v4.SetControlMessage(ipv4.FlagDst, true)
	} else {
		c.v6 = ipv6.NewPacketConn(c.UDPConn)
		err = c.v6.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// read reads a datagram. reply sends one back.
func (c *udpConn) read(buf []byte) (n int, local net.IP, remote net.Addr, reply func([]byte) error, err error) {
	if c.v4 != nil {
		n, cm, remote, err := c.v4.ReadFrom(buf)
		if err != nil {
			return 0, nil, nil, nil, err
		}
		return n, cm.Dst, remote, func(b []byte) error {
			_, err := c.v4.WriteTo(b, &ipv4.ControlMessage{Src: unicast(cm.Dst)}, remote)
			return err
		}, nil
	}
	n, cm, remote, err := c.v6.ReadFrom(buf)
	if err != nil {
		return 0, nil, nil, nil, err
	}
	return n, cm.Dst, remote, func(b []byte) error {
		back := &ipv6.ControlMessage{Src: unicast(cm.Dst)}
		if cm.Dst.IsLinkLocalUnicast() {
			back.IfIndex = cm.IfIndex
		}
		_, err := c.v6.WriteTo(b, back, remote)
		return err
	}, nil
}

// unicast returns ip, or nil if nothing can be sent from it.
func unicast(ip net.IP) net.IP {
	if ip.IsMulticast() || ip.Equal(net.IPv4bcast) {
		return nil
	}
	return ip
}

// receive answers datagrams until the socket is closed.
func (s *Services) receive(c *udpConn, answer func(from netip.AddrPort, data []byte) []byte) {
	buf := make([]byte, 1<<16)
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for {
		n, local, remote, reply, err := c.read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier reply
		}
		from := unmap(remote.(*net.UDPAddr).AddrPort())
		to, _ := netip.AddrFromSlice(local)
		s.called("udp", netip.AddrPortFrom(to, port), from)
		if out := answer(from, buf[:n]); out != nil {
			reply(out) // a client that has gone is no news
		}
	}
}
