package relay

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	udpBatch    = 64       // messages per system call
	udpBuf      = 64 << 10 // holds the largest datagram, 65,507 bytes
	maxSegments = 64       // per message; newer kernels take more
	maxGSO      = 65000    // bytes per message, which is one packet until it is cut
	udpQueue    = 4 << 20  // bytes that may wait in the listening socket
)

// udpOptions are set on a listening UDP socket before it is bound.
func udpOptions(family int) []option {
	if family == unix.AF_INET {
		return []option{{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}}
	}
	return []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}}
}

// udpTuning are options that a socket works without: where the kernel has not
// heard of one, or does not permit it, things are slower.
var udpTuning = []option{
	{unix.SOL_SOCKET, unix.SO_RCVBUF, udpQueue},
	{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpQueue},
	{unix.SOL_UDP, unix.UDP_GRO, 1},
}

// A burst is what came in one message: a datagram, or several of one size back
// to back, of which the last may be shorter (UDP_GRO).
type burst struct {
	data  []byte
	size  int
	from  *unix.RawSockaddrInet6
	local [16]byte // the address it was sent to, IPv4 mapped; zero if not known
	next  int32    // the next burst for the same flow, or -1
}

func (b *burst) from4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(b.from))
}

func (b *burst) client() netip.AddrPort { return addrPort(b.from) }

func (b *burst) count() int {
	if b.size == 0 {
		return 1
	}
	return (len(b.data) + b.size - 1) / b.size
}

// datagrams holds what recvmmsg and sendmmsg need. One read and what is sent
// because of it use it at a time.
type datagrams struct {
	err   syscall.Errno // of the last read
	used  int           // how many headers it has written to
	buf   []byte
	hdrs  [udpBatch]unix.Mmsghdr
	iovs  [udpBatch]unix.Iovec
	names [udpBatch]unix.RawSockaddrInet6
	ctl   [udpBatch][64]byte
	in    [udpBatch]burst
	out   sender
}

func newDatagrams() *datagrams {
	d := &datagrams{buf: make([]byte, udpBatch*udpBuf)}
	for i := range d.hdrs {
		d.iovs[i].Base = &d.buf[i*udpBuf]
		d.iovs[i].SetLen(udpBuf)
		h := &d.hdrs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&d.names[i]))
		h.Iov = &d.iovs[i]
		h.SetIovlen(1)
		h.Control = &d.ctl[i][0]
		d.ready(i)
	}
	return d
}

// read returns what waits in fd, at most udpBatch messages. They are valid until
// the next read.
func (d *datagrams) read(fd int32) []burst {
	for i := range d.used {
		d.ready(i)
	}
	d.used, d.err = sysRecvmmsg(fd, d.hdrs[:])
	if d.err != 0 {
		return nil
	}
	for i := range d.used {
		b := &d.in[i]
		length := int(d.hdrs[i].Len)
		*b = burst{data: d.buf[i*udpBuf : i*udpBuf+length : (i+1)*udpBuf], size: length, from: &d.names[i], next: -1}
		b.parse(d.ctl[i][:d.hdrs[i].Hdr.Controllen])
	}
	return d.in[:d.used]
}

// ready has header i say how much room there is, which a read overwrites.
func (d *datagrams) ready(i int) {
	d.hdrs[i].Hdr.Namelen = unix.SizeofSockaddrInet6
	d.hdrs[i].Hdr.SetControllen(len(d.ctl[i]))
}

// parse reads the control messages.
func (b *burst) parse(ctl []byte) {
	for len(ctl) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
		if h.Len < unix.SizeofCmsghdr || int(h.Len) > len(ctl) {
			return
		}
		body := ctl[unix.CmsgLen(0):h.Len]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
			b.local = mapped([4]byte(body[4:8])) // ipi_spec_dst: ours even if a broadcast was asked
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
			if body[0] != 0xff { // no answer can come from a multicast address
				b.local = [16]byte(body[:16])
			}
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO:
			b.size = int(binary.NativeEndian.Uint32(body))
		}
		ctl = ctl[min(len(ctl), cmsgAlign(int(h.Len))):]
	}
}

func cmsgAlign(n int) int { return unix.CmsgSpace(n - unix.CmsgLen(0)) }

// putCmsg writes the header of a control message to buf and returns where its
// body of n bytes goes.
func putCmsg(buf []byte, level, kind int32, n int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&buf[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return buf[unix.CmsgLen(0):unix.CmsgLen(n)]
}
