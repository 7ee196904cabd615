package relay

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sockaddr is an address as the kernel takes it, made once and used for every
// connection.
type sockaddr struct {
	raw    unix.RawSockaddrInet6 // or an unix.RawSockaddrInet4 in the same bytes
	size   uint32
	family int
}

func (a *sockaddr) v4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
}

// newSockaddr converts ap. An IPv6 zone must be a number here: names belong to
// a namespace, and which one the socket will live in is not known.
func newSockaddr(ap netip.AddrPort) sockaddr {
	var a sockaddr
	ip := ap.Addr().Unmap()
	if ip.Is4() {
		a.family, a.size = unix.AF_INET, unix.SizeofSockaddrInet4
		sa := a.v4()
		sa.Family, sa.Addr = unix.AF_INET, ip.As4()
		setPort(&sa.Port, ap.Port())
		return a
	}
	a.family, a.size = unix.AF_INET6, unix.SizeofSockaddrInet6
	a.raw.Family, a.raw.Addr = unix.AF_INET6, ip.As16()
	setPort(&a.raw.Port, ap.Port())
	if n, err := strconv.ParseUint(ip.Zone(), 10, 32); err == nil {
		a.raw.Scope_id = uint32(n)
	}
	return a
}

// addrPort is the inverse of newSockaddr, without the zone.
func addrPort(raw *unix.RawSockaddrInet6) netip.AddrPort {
	if raw.Family == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), getPort(&sa.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(raw.Addr).Unmap(), getPort(&raw.Port))
}

// Ports are kept in network byte order whatever the machine's is.

func setPort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

func getPort(p *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:])
}
