package relay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never block, so they go to the kernel without telling the Go
// scheduler (RawSyscall): the announcement costs as much as a short call does.
// They take and return plain numbers and allocate nothing.

func sysRecv(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
	return int(n), e
}

func sysSend(fd int32, p []byte, flags int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(flags), 0, 0)
	return int(n), e
}

func sysSplice(from, to int32, n int) (int, syscall.Errno) {
	r, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(r), e
}

// sysAccept stores the client's address in sa.
func sysAccept(fd int32, sa *unix.RawSockaddrInet6) (int32, syscall.Errno) {
	size := uint32(unix.SizeofSockaddrInet6)
	n, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(sa)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int32(n), e
}

func sysSocket(family, kind int) (int32, syscall.Errno) {
	n, _, e := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), 0)
	return int32(n), e
}

func sysBind(fd int32, a *sockaddr) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(a.size))
	return e
}

func sysConnect(fd int32, a *sockaddr) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(a.size))
	return e
}

// sysHasPeer reports whether a TCP socket is connected now.
func sysHasPeer(fd int32) bool {
	var raw unix.RawSockaddrInet6
	return sysPeer(fd, &raw) == 0
}

// sysPeer stores the address of a connected socket's peer in sa (getpeername(2)).
// The error is ENOTCONN when the peer has reset the connection.
func sysPeer(fd int32, sa *unix.RawSockaddrInet6) syscall.Errno {
	return sysName(unix.SYS_GETPEERNAME, fd, sa)
}

func sysName(call uintptr, fd int32, sa *unix.RawSockaddrInet6) syscall.Errno {
	size := uint32(unix.SizeofSockaddrInet6)
	_, _, e := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(sa)), uintptr(unsafe.Pointer(&size)))
	return e
}

func sysShutdown(fd int32, how int) {
	syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
}

func sysClose(fd int32) {
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

func sysSetInt(fd int32, level, name int, value int32) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value)), 4, 0)
	return e
}

func sysSetString(fd int32, level, name int, value string) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(unsafe.StringData(value))), uintptr(len(value)), 0)
	return e
}

func sysGetInt(fd int32, level, name int) (int32, syscall.Errno) {
	var value int32
	size := uint32(4)
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	return value, e
}

// sysReset closes a TCP socket with a RST instead of a FIN (socket(7), SO_LINGER).
func sysReset(fd int32) {
	l := unix.Linger{Onoff: 1}
	syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	sysClose(fd)
}

// sysUnsent returns how many bytes the peer has not acknowledged yet (tcp(7), SIOCOUTQ).
func sysUnsent(fd int32) int {
	var n int32
	syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

func sysEpollCtl(ep int32, op int, fd int32, ev *unix.EpollEvent) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return e
}

// sysPoll is epoll_wait(2) for at most a millisecond or so.
func sysPoll(ep int32, evs []unix.EpollEvent, ms int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&evs[0])), uintptr(len(evs)), uintptr(ms), 0, 0)
	return int(n), e
}

// sysWait is epoll_wait(2) for as long as it takes; ms < 0 is for ever. The
// scheduler knows that this thread is away.
func sysWait(ep int32, evs []unix.EpollEvent, ms int) (int, syscall.Errno) {
	n, _, e := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&evs[0])), uintptr(len(evs)), uintptr(ms), 0, 0)
	return int(n), e
}

// sysYield lets others have the CPU if they want it.
func sysYield() { syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
