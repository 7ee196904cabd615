package provider

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// A Header is what tests want to know of an IP packet. Ports are 0 where the
// protocol has none and in later fragments.
type Header struct {
	Protocol int // IANA number: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6
	Src, Dst netip.AddrPort
}

func (h Header) String() string {
	name, ok := map[int]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}[h.Protocol]
	if !ok {
		name = fmt.Sprint("protocol ", h.Protocol)
	}
	return fmt.Sprintf("%s %v > %v", name, h.Src, h.Dst)
}

// ParseHeader reads the headers of an IPv4 or IPv6 packet. It does not look
// behind IPv6 extension headers. It reports whether b is a packet at all.
func ParseHeader(b []byte) (h Header, ok bool) {
	var src, dst netip.Addr
	var payload []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		size := int(b[0]&0xf) * 4
		if size < 20 || len(b) < size {
			return h, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		h.Protocol, payload = int(b[9]), b[size:]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // not the first fragment
			payload = nil
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		h.Protocol, payload = int(b[6]), b[40:]
	default:
		return h, false
	}
	var from, to uint16
	if (h.Protocol == 6 || h.Protocol == 17) && len(payload) >= 4 {
		from, to = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	h.Src, h.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return h, true
}
