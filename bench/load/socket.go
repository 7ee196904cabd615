package load

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Enter moves the calling goroutine's thread to where sockets are to be made,
// for good. Nil leaves it where it is.
type Enter func() error

func (e Enter) enter() error {
	if e == nil {
		return nil
	}
	return e()
}

// threads is how many workers a client, and a server, has: one on a small
// machine, because what is measured needs a core as well.
func threads() int { return min(max(1, runtime.NumCPU()/4), 8) }

// Places is how many goroutines that run a server or a client's worker keep busy
// at a time, for GOMAXPROCS: they do not give way to others.
func Places() int { return 2*threads() + 2 }

// patience is how long a connection may take to come about, or a first answer.
const patience = 5 * time.Second

// The system calls of the hot loops, none of which blocks: without telling the
// scheduler of Go, which takes longer than some of them.

func rawRead(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

func rawWrite(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

func rawAccept(fd int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), errno
}

func rawClose(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// listen makes a listening TCP or a bound UDP socket on all addresses.
func listen(kind int, port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		if err = unix.Listen(fd, 4096); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}

// dial returns a connected socket that blocks, for at most patience a call.
func dial(kind int, to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	if kind == unix.SOCK_STREAM {
		noDelay(fd)
	}
	for {
		if err = unix.Connect(fd, sockaddr(to)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// noDelay sends small messages at once, as every program that cares does.
func noDelay(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// A poll is an epoll instance and room for its events.
type poll struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poll{fd: fd}, nil
}

func (p *poll) close() { unix.Close(p.fd) }

func (p *poll) add(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev))
}

// tick is how long a worker may sleep before it looks whether it should stop, in
// milliseconds.
const tick = 20

// wait returns what has happened. It is empty after a tick without events.
//
// Where traffic flows, the next event is near: for a millisecond the worker waits
// without telling Go's scheduler, which would give its place to others and make
// it queue for one when it wakes. A garbage collection may have to wait that long.
func (p *poll) wait() ([]unix.EpollEvent, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), 1, 0, 0)
	if errno == 0 && n > 0 {
		return p.events[:n], nil
	}
	m, err := unix.EpollWait(p.fd, p.events[:], tick)
	if err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("epoll_wait", err)
	}
	return p.events[:m], nil
}

// again says whether a call could not go on without waiting.
func again(errno syscall.Errno) bool { return errno == unix.EAGAIN || errno == unix.EINTR }
