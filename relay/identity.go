package relay

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	proxyproto "github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// How a target learns who its client is: it is dialled from the client's own
// address, or told in a header before the first byte. Whoever cannot be named
// for certain is not served under another name.

// A ProxyProtocol is a version of HAProxy's PROXY protocol
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
type ProxyProtocol uint8

const (
	ProxyV1 ProxyProtocol = 1 // a line of text
	ProxyV2 ProxyProtocol = 2 // binary
)

// clientAddr returns the address of c's client, and false if it is gone.
func (c *conn) clientAddr() (netip.AddrPort, bool) {
	var raw unix.RawSockaddrInet6
	if sysPeer(c.end[client].fd, &raw) != 0 {
		return netip.AddrPort{}, false
	}
	return addrPort(&raw), true
}

// takeover returns the address that c's target is to be dialled from, which is
// not valid if that does not depend on the client, and false if the client is
// gone.
func (c *conn) takeover() (netip.AddrPort, bool) {
	if !c.port.forward.FromClient {
		return netip.AddrPort{}, true
	}
	from, ok := c.clientAddr()
	if a := from.Addr(); a.IsLoopback() || a.Is6() && a.IsLinkLocalUnicast() {
		return netip.AddrPort{}, ok
	}
	return from, ok
}

// dialAs dials from the address of the client. Its port may be in use there, by
// a listener or by another connection of the same client: then any other will
// do.
func (w *worker) dialAs(c *conn, r *route, from netip.AddrPort) syscall.Errno {
	if from.Addr().Is4() != r.target.Addr().Is4() {
		return unix.EAFNOSUPPORT
	}
	options := []option{
		{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, // the same client may dial two targets
	}
	if from.Addr().Is6() {
		options[0] = option{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1}
	}
	if m := c.port.forward.Mark; m != 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_MARK, int32(m)})
	}
	source := newSockaddr(from)
	e := w.dialFrom(c, r, &source, options)
	if e == unix.EADDRINUSE || e == unix.EADDRNOTAVAIL {
		source = newSockaddr(netip.AddrPortFrom(from.Addr(), 0))
		e = w.dialFrom(c, r, &source, options)
	}
	return e
}

// announce writes the header of the PROXY protocol to c's target. It reports
// false if c has ended because its client is gone.
func (w *worker) announce(c *conn) bool {
	version := c.port.forward.Proxy
	if version == 0 || c.end[target].is(broken) {
		return true
	}
	from, ok := c.clientAddr()
	var raw unix.RawSockaddrInet6
	if !ok || sysName(unix.SYS_GETSOCKNAME, c.end[client].fd, &raw) != 0 {
		w.reset(c)
		return false
	}
	header, err := proxyHeader(version, from, addrPort(&raw))
	if err != nil {
		w.relay.reports.send(report{reportDial, c.port.routes[c.route].target, c.port.addr, err})
		w.reset(c)
		return false
	}
	w.write(c, target, header)
	return true
}

func proxyHeader(version ProxyProtocol, from, asked netip.AddrPort) ([]byte, error) {
	h := proxyproto.HeaderProxyFromAddrs(byte(version), net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(asked))
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("header of the PROXY protocol: %w", err)
	}
	return b, nil
}
