package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// abort ends the services' sockets of TCP connections in the jail (sock_diag(7),
// SOCK_DESTROY), which resets them: the service is told, and the client. Kernels
// are built without it now and then (CONFIG_INET_DIAG_DESTROY): then the client is
// told by the host when it sends something, and the service not at all.
func abort(ns *netnsx.Namespace, ways map[way]bool) error {
	open, err := openSockets(ns)
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		var errs []error
		for w := range ways {
			socket := open[w.serviceEnd()]
			if w.protocol != unix.IPPROTO_TCP || socket == nil {
				continue
			}
			switch err := destroySocket(socket.ID); {
			case errors.Is(err, unix.EOPNOTSUPP):
				return nil
			case err != nil && !errors.Is(err, unix.ENOENT): // it has ended meanwhile
				errs = append(errs, fmt.Errorf("reset a connection: %w", err))
			}
		}
		return errors.Join(errs...)
	})
}

// destroySocket resets a TCP socket in the caller's namespace. The cookie in its ID
// keeps the kernel from taking the one that listens, if it is gone by now.
func destroySocket(id netlink.SocketID) error {
	r := nl.NewNetlinkRequest(unix.SOCK_DESTROY, unix.NLM_F_ACK)
	r.AddRawData(diagRequest(id))
	_, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// diagRequest is struct inet_diag_req_v2 (linux/inet_diag.h) for one TCP socket.
func diagRequest(id netlink.SocketID) []byte {
	local, remote := addrOf(id.Source), addrOf(id.Destination)
	b := []byte{byte(family(local.Is6())), unix.IPPROTO_TCP, 0, 0}
	b = append(b, native32(^uint32(0))...) // in whatever state
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	for _, a := range []netip.Addr{local, remote} {
		var field [16]byte
		copy(field[:], a.AsSlice())
		b = append(b, field[:]...)
	}
	for _, v := range []uint32{id.Interface, id.Cookie[0], id.Cookie[1]} {
		b = append(b, native32(v)...)
	}
	return b
}
