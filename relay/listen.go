package relay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Listener is a bound Forward.
type Listener struct {
	forward Forward
	routes  []route
	stats   *Stats
	relay   *Relay
	fd      int32
	addr    netip.AddrPort

	closing sync.Once
}

// Listen binds f.Listen and listens, on the calling thread and so in its network
// namespace. Clients may connect from then on; they wait until Serve runs.
// It may be called while Serve runs.
//
// If the address cannot be bound the error is a *net.OpError, and errors.Is
// finds EADDRINUSE, EACCES (os.ErrPermission) or EADDRNOTAVAIL in it.
func (r *Relay) Listen(f Forward) (*Listener, error) {
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("forward %v: %w", f.Listen, err)
	}
	l := &Listener{forward: f, routes: f.routes(), stats: f.Stats, relay: r}
	if l.stats == nil {
		l.stats = new(Stats)
	}
	if err := l.open(); err != nil {
		var addr net.Addr = net.TCPAddrFromAddrPort(f.Listen)
		if f.Network == "udp" {
			addr = net.UDPAddrFromAddrPort(f.Listen)
		}
		return nil, &net.OpError{Op: "listen", Net: f.Network, Addr: addr, Err: err}
	}
	if err := r.add(l); err != nil {
		sysClose(l.fd)
		return nil, err
	}
	return l, nil
}

// Addr returns the address that is bound, with the port that the kernel chose.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Stats returns the counters: the Forward's, or the Listener's own.
func (l *Listener) Stats() *Stats { return l.stats }

// Close stops listening. The port is free when it returns. TCP connections that
// were accepted go on; UDP flows end, for they need the socket.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		l.relay.remove(l)
		sysClose(l.fd)
	})
	return nil
}

func (l *Listener) open() error {
	kind := unix.SOCK_STREAM
	if l.forward.Network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	listen, err := withZone(l.forward.Listen)
	if err != nil {
		return err
	}
	sa := newSockaddr(listen)
	fd, errno := sysSocket(sa.family, kind)
	if errno != 0 {
		return os.NewSyscallError("socket", errno)
	}
	if err := l.bind(fd, &sa); err != nil {
		sysClose(fd)
		return err
	}
	name, err := unix.Getsockname(int(fd))
	if err != nil {
		sysClose(fd)
		return os.NewSyscallError("getsockname", err)
	}
	port := uint16(0)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port = uint16(name.Port)
	case *unix.SockaddrInet6:
		port = uint16(name.Port)
	}
	l.fd, l.addr = fd, netip.AddrPortFrom(l.forward.Listen.Addr().Unmap(), port)
	return nil
}

func (l *Listener) bind(fd int32, sa *sockaddr) error {
	set := tcpOptions()
	if l.forward.Network == "udp" {
		set = udpOptions(sa.family)
	}
	if sa.family == unix.AF_INET6 {
		set = append(set, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	for _, o := range set {
		if errno := sysSetInt(fd, o.level, o.name, o.value); errno != 0 {
			return os.NewSyscallError("setsockopt", errno)
		}
	}
	if l.forward.Network == "udp" {
		for _, o := range udpTuning {
			sysSetInt(fd, o.level, o.name, o.value)
		}
	}
	if errno := sysBind(fd, sa); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	if l.forward.Network == "tcp" {
		if err := unix.Listen(int(fd), backlog); err != nil {
			return os.NewSyscallError("listen", err)
		}
	}
	return nil
}

// backlog is the queue of clients asked for; the kernel cuts it to
// net.core.somaxconn.
const backlog = 4096

type option struct {
	level, name int
	value       int32
}

// Keepalive finds a peer that went away without a word in about two and a half
// minutes, as package net does by default.
const (
	keepIdle     = 15 * time.Second
	keepInterval = 15 * time.Second
	keepCount    = 9
)

// tcpOptions are set once, on the listening socket: what it accepts inherits
// them, which saves as many system calls for every connection.
func tcpOptions() []option {
	return append([]option{
		// The port can be bound again while old connections are in TIME_WAIT.
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}, keepalive...)
}

var keepalive = []option{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(keepIdle / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int32(keepInterval / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
}

// withZone replaces the name of an IPv6 zone by its number, in the namespace of
// the calling thread.
func withZone(ap netip.AddrPort) (netip.AddrPort, error) {
	zone := ap.Addr().Zone()
	if _, err := strconv.ParseUint(zone, 10, 32); zone == "" || err == nil {
		return ap, nil
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return ap, err
	}
	return netip.AddrPortFrom(ap.Addr().WithZone(strconv.Itoa(link.Index)), ap.Port()), nil
}
