package load

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many datagrams one system call moves.
const batch = 32

// datagramSize is the payload of each datagram.
const datagramSize = 64

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A datagrams is what recvmmsg(2) and sendmmsg(2) need, prepared for batch
// datagrams.
type datagrams struct {
	msgs    [batch]mmsghdr
	iovs    [batch]unix.Iovec
	bufs    [batch][datagramSize]byte
	names   [batch]unix.RawSockaddrInet4
	control [batch][32]byte // CMSG_SPACE of a struct in_pktinfo
}

// newDatagrams prepares; addressed also keeps from where, and to which of the
// own addresses, a datagram came, so that it can be answered.
func newDatagrams(addressed bool) *datagrams {
	d := &datagrams{}
	for i := range d.msgs {
		h := &d.msgs[i].hdr
		d.iovs[i].Base = &d.bufs[i][0]
		h.Iov = &d.iovs[i]
		h.SetIovlen(1)
		if addressed {
			h.Name = (*byte)(unsafe.Pointer(&d.names[i]))
			h.Control = &d.control[i][0]
		}
	}
	d.reset(batch, addressed)
	return d
}

// reset makes the first n messages whole again after a receive.
func (d *datagrams) reset(n int, addressed bool) {
	for i := range n {
		d.iovs[i].SetLen(datagramSize)
		if addressed {
			d.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
			d.msgs[i].hdr.SetControllen(len(d.control[i]))
		}
	}
}

// receive waits for datagrams, and returns how many have come.
func (d *datagrams) receive(fd int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.msgs)), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.msgs)), batch, unix.MSG_WAITFORONE, 0, 0)
	}
	return int(n), errno
}

// send sends the messages from one up to another, and returns how many went. It
// does not wait.
func (d *datagrams) send(fd, from, to int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.msgs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// answerable makes the first n messages, as they were received, their own
// answers: from the address they were sent to, whatever the link.
func (d *datagrams) answerable(n int) {
	for i := range n {
		d.iovs[i].SetLen(int(d.msgs[i].n))
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&d.control[i][unix.SizeofCmsghdr]))
		info.Ifindex = 0
	}
}

// A UDP server's sockets wait this long before it looks whether it should stop.
const udpTick = 50 * time.Millisecond

func prepareUDP(fd int) error {
	limit := unix.NsecToTimeval(udpTick.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	// As much as programs that expect many datagrams ask for; the kernel may cut it.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

func (s *Server) echoDatagrams(fd int) {
	d := newDatagrams(true)
	for !s.stop.Load() {
		n, errno := d.receive(fd)
		if errno != 0 {
			continue // nothing for a while, or an ICMP error
		}
		d.answerable(n)
		for from := 0; from < n; {
			sent, errno := d.send(fd, from, n)
			if errno != 0 {
				break // the client will count them as lost
			}
			from += sent
		}
		d.reset(n, true)
	}
}

func (s *Server) countDatagrams(fd int) {
	d := newDatagrams(false)
	for !s.stop.Load() {
		if n, errno := d.receive(fd); errno == 0 {
			s.counted.Add(uint64(n))
		}
	}
}
