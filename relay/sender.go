package relay

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sender collects datagrams for one destination and sends them with few calls:
// many messages per call, and where they have one size many datagrams per
// message, which the kernel handles as one packet for most of the way
// (udp(7), UDP_SEGMENT).
type sender struct {
	fd       int32
	name     *sockaddr // nil: the socket is connected
	control  []byte    // goes with each message
	segments bool      // whether messages of several datagrams may be made

	n, iov int // in use
	hdrs   [udpBatch]unix.Mmsghdr
	iovs   [4 * udpBatch]unix.Iovec
	msgs   [udpBatch]message
	ctl    [udpBatch][64]byte

	datagrams, bytes, dropped int  // what became of all that was added
	refused                   bool // nobody listened for what was sent before
	noSegments                bool // the path takes no messages of several datagrams
}

type message struct {
	size, bytes, count int // of each datagram, of all, and how many
}

// sender returns the empty sender. There is one only.
func (d *datagrams) sender(fd int32, name *sockaddr, control []byte, segments bool) *sender {
	s := &d.out
	s.fd, s.name, s.control, s.segments = fd, name, control, segments
	s.n, s.iov = 0, 0
	s.datagrams, s.bytes, s.dropped, s.refused, s.noSegments = 0, 0, 0, false, false
	return s
}

// add takes datagrams of size bytes each; the last may be shorter. The bytes are
// used until flush.
func (s *sender) add(data []byte, size int) {
	if s.segments && size > 0 && len(data) <= maxGSO && (len(data)+size-1)/size <= maxSegments {
		s.addMessage(data, size)
		return
	}
	for first := true; first || len(data) > 0; first = false {
		n := min(size, len(data))
		s.addMessage(data[:n], n)
		data = data[n:]
	}
}

func (s *sender) addMessage(data []byte, size int) {
	count := 1
	if size > 0 {
		count = (len(data) + size - 1) / size
	}
	if s.segments && s.n > 0 && s.iov < len(s.iovs) {
		m := &s.msgs[s.n-1]
		if m.size == size && m.bytes == m.count*size && size > 0 && m.count+count <= maxSegments && m.bytes+len(data) <= maxGSO {
			s.addIov(data)
			m.bytes += len(data)
			m.count += count
			return
		}
	}
	if s.n == len(s.hdrs) || s.iov == len(s.iovs) {
		s.flush()
	}
	s.msgs[s.n] = message{size, len(data), count}
	s.hdrs[s.n].Hdr.Iov = &s.iovs[s.iov]
	s.hdrs[s.n].Hdr.Iovlen = 0
	s.n++
	s.addIov(data)
}

// addIov appends data to the last message.
func (s *sender) addIov(data []byte) {
	v := &s.iovs[s.iov]
	v.Base = unsafe.SliceData(data)
	v.SetLen(len(data))
	s.iov++
	s.hdrs[s.n-1].Hdr.Iovlen++
}

// flush sends what was added.
func (s *sender) flush() {
	for i := range s.hdrs[:s.n] {
		s.finish(i)
	}
	for done := 0; done < s.n; {
		n, e := sysSendmmsg(s.fd, s.hdrs[done:s.n])
		for _, m := range s.msgs[done : done+n] {
			s.datagrams += m.count
			s.bytes += m.bytes
		}
		done += n
		switch e {
		case 0:
		case unix.ECONNREFUSED:
			if !s.refused { // by what was sent before: the call has sent nothing, and cleared the error
				s.refused = true
				continue
			}
			s.skip(&done)
		case unix.EINVAL, unix.EIO, unix.EMSGSIZE:
			if s.msgs[done].count > 1 {
				s.noSegments = true
				s.single(done)
				done++
				continue
			}
			s.skip(&done)
		default:
			s.skip(&done) // a full queue, no route, a firewall: a network drops then
		}
	}
	s.n, s.iov = 0, 0
}

func (s *sender) skip(done *int) {
	s.dropped += s.msgs[*done].count
	*done++
}

// finish completes the header of message i.
func (s *sender) finish(i int) {
	h, m := &s.hdrs[i].Hdr, &s.msgs[i]
	h.Name, h.Namelen = nil, 0
	if s.name != nil {
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.name.raw)), s.name.size
	}
	ctl := s.ctl[i][:]
	n := copy(ctl, s.control)
	if m.count > 1 {
		binary.NativeEndian.PutUint16(putCmsg(ctl[n:], unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(m.size))
		n += unix.CmsgSpace(2)
	}
	h.Control = nil
	if n > 0 {
		h.Control = &ctl[0]
	}
	h.SetControllen(n)
}

// single sends the datagrams of message i one by one.
func (s *sender) single(i int) {
	h, m := s.hdrs[i], &s.msgs[i]
	h.Hdr.SetControllen(len(s.control))
	var v unix.Iovec
	parts := unsafe.Slice(h.Hdr.Iov, h.Hdr.Iovlen)
	h.Hdr.Iov, h.Hdr.Iovlen = &v, 1
	for _, p := range parts {
		data := unsafe.Slice(p.Base, p.Len)
		for len(data) > 0 {
			n := min(m.size, len(data))
			v.Base = &data[0]
			v.SetLen(n)
			if _, e := sysSendmmsg(s.fd, []unix.Mmsghdr{h}); e == 0 {
				s.datagrams++
				s.bytes += n
			} else {
				s.dropped++
			}
			data = data[n:]
		}
	}
}

func sysRecvmmsg(fd int32, h []unix.Mmsghdr) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
	return count(n, e)
}

func sysSendmmsg(fd int32, h []unix.Mmsghdr) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return count(n, e)
}

// count is n, or 0 if there is an error.
func count(n uintptr, e syscall.Errno) (int, syscall.Errno) {
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
