package jail

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rootQuery asks for the name servers of the root (RFC 1035): every resolver
// knows them, and the question tells nobody anything.
func rootQuery(id uint16) []byte {
	return []byte{byte(id >> 8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
}

// probeServers asks each of the jail's name servers.
func (c *checker) probeServers(ctx context.Context) outcome {
	switch {
	case len(c.DNS) == 0:
		return skipped("the configuration names no server: programs resolve no names")
	case c.silent:
		return skipped("the tunnel has no handshake to ask through")
	}
	answers := make(chan netip.Addr, len(c.DNS))
	ctx, cancel := context.WithTimeout(ctx, c.opts.Patience)
	defer cancel()
	for _, server := range c.DNS {
		go func() {
			if c.askServer(ctx, server) != nil {
				server = netip.Addr{}
			}
			answers <- server
		}()
	}
	answered := map[netip.Addr]bool{}
	for range c.DNS {
		answered[<-answers] = true
	}
	var good, bad []string
	for _, server := range c.DNS {
		if answered[server] {
			c.answering = append(c.answering, server)
			good = append(good, server.String())
		} else {
			bad = append(bad, server.String())
		}
	}
	if len(bad) > 0 {
		return failed("see whether the DNS line of the configuration names the provider's servers, and AllowedIPs has them",
			"no answer from %s, through the tunnel, in %v", strings.Join(bad, ", "), c.opts.Patience)
	}
	return passed("%s answered through the tunnel", strings.Join(good, ", "))
}

// askServer sends the question until it is answered or ctx is done.
func (c *checker) askServer(ctx context.Context, server netip.Addr) error {
	const id = 0x5747
	conn, err := c.dialUDP(netip.AddrPortFrom(server, namePorts[0]))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := make([]byte, 2048)
	for ctx.Err() == nil {
		if _, err := conn.Write(rootQuery(id)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(min(time.Second, c.opts.Patience)))
		n, err := conn.Read(answer)
		if err == nil && n >= 12 && answer[0] == id>>8 && answer[1] == id&0xff {
			return nil
		}
	}
	return ctx.Err()
}

// dialUDP returns a socket that was made in the jail.
func (c *checker) dialUDP(to netip.AddrPort) (*os.File, error) {
	family, addr := sockaddr(to)
	fd := -1
	err := c.ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, addr); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), to.String()), nil
}

func sockaddr(to netip.AddrPort) (family int, addr unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// probeOtherServers sends to the ports of name servers where none of the
// jail's is. The counter of the rule that refuses must count each packet: an
// error alone could have come through the tunnel.
func (c *checker) probeOtherServers(context.Context) outcome {
	before, err := c.dropped(namesChain)
	if err != nil {
		return failed(c.again(), "the rule that refuses them is not there: %v", err)
	}
	sent := uint64(0)
	for _, to := range nowhere {
		for _, port := range namePorts {
			for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
				err := c.ns.Do(func() error { return sendFrom(to, kind, port) })
				if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
					sent++ // else there is no way to it at all
				}
			}
		}
	}
	after, err := c.dropped(namesChain)
	if err != nil {
		return unknown(err)
	}
	if after-before < sent {
		return failed(c.again(), "%d of %d packets to ports %d and %d of strangers were not refused", sent-(after-before), sent, namePorts[0], namePorts[1])
	}
	return passed("packets to ports %d and %d of others are refused in the jail", namePorts[0], namePorts[1])
}

// sendFrom sends one packet, a datagram or a SYN, from the calling thread's
// namespace and waits for nothing.
func sendFrom(to netip.Addr, kind int, port uint16) error {
	family, addr := sockaddr(netip.AddrPortFrom(to, port))
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_DGRAM {
		return unix.Sendto(fd, rootQuery(0), 0, addr)
	}
	return unix.Connect(fd, addr)
}
