// Package dialx makes connections out of sockets that somebody else makes, in
// another network namespace for example. A socket belongs to the namespace that
// it was made in; everything else can be done from any thread:
//
//	Dialer.Socket        the caller's goroutine
//	  socket(2)    ───►  bind, connect, wait for it (netpoller) ───► net.Conn
//
// So one target that does not answer holds up nobody else, which it would if a
// thread that is locked into the namespace waited for it.
//
// It takes addresses, never names: those would be looked up elsewhere.
package dialx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Dialer connects to addresses. It may be used by many goroutines at once.
type Dialer struct {
	// Socket makes a socket as socket(2) does; it need not be non-blocking.
	Socket func(family, kind, protocol int) (fd int, err error)

	// Source holds at most one address per family. Sockets for datagrams are
	// bound to it, and those to loopback targets: services trust clients from
	// there. A loopback target without a Source of its family is not dialled.
	Source []netip.Addr
}

// Dial connects to an address, for network "tcp" or "udp". For UDP that needs
// no packet. The error is a *net.OpError; errors.Is finds the system's error in
// it, and ctx's if that was done first.
func (d *Dialer) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c, err := d.dial(ctx, network, to)
	if err != nil {
		var addr net.Addr = net.TCPAddrFromAddrPort(to)
		if network == "udp" {
			addr = net.UDPAddrFromAddrPort(to)
		}
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if !to.IsValid() || to.Addr().IsUnspecified() || to.Addr().IsMulticast() || to.Port() == 0 {
		return nil, unix.EADDRNOTAVAIL // connect(2) takes 0.0.0.0 for loopback
	}
	f, err := d.socket(network, to.Addr(), network == "udp" || to.Addr().IsLoopback())
	if err != nil {
		return nil, err
	}
	defer f.Close() // net.FileConn has its own
	if err := connect(ctx, f, sockaddr(to)); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// ListenPacket returns a UDP socket of to's family that is bound to Source, to
// send from and to get the answers.
func (d *Dialer) ListenPacket(to netip.Addr) (*net.UDPConn, error) {
	f, err := d.socket("udp", to.Unmap(), true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// socket makes a socket for targets of to's family.
func (d *Dialer) socket(network string, to netip.Addr, bound bool) (*os.File, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if to.Is6() {
		family = unix.AF_INET6
	}
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := d.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if bound {
		err = d.bind(fd, to)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), network), nil
}

func (d *Dialer) bind(fd int, to netip.Addr) error {
	for _, s := range d.Source {
		if s.Is4() != to.Is4() {
			continue
		}
		// The port is chosen by connect, which knows the target (ip(7)).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(s, 0))))
	}
	if to.IsLoopback() {
		return unix.EADDRNOTAVAIL
	}
	return nil
}

// connect waits until the socket is connected, without holding a thread.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	begun := false
	var result error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), to)
		} else {
			result = connected(int(fd))
		}
		return result != unix.EINPROGRESS && result != unix.EINTR
	})
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", result)
}

// connected is what became of an earlier connect(2).
func connected(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	if _, err := unix.Getpeername(fd); err == unix.ENOTCONN {
		return unix.EINPROGRESS
	}
	return nil
}

// sockaddr is what the kernel calls an address. A zone must be a number.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	six := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	fmt.Sscan(a.Addr().Zone(), &six.ZoneId)
	return six
}

// Take takes the descriptor away from a connection, which is closed: nobody
// else has one for the same socket then.
func Take(c *net.TCPConn) (fd int, err error) {
	defer c.Close() // the Go runtime forgets its descriptor, the socket stays
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr); err != nil {
		return -1, err
	}
	return fd, nil
}
