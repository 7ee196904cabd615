package veth

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// abort ends the services' sockets of TCP connections in the jail (sock_diag(7),
// SOCK_DESTROY), which resets them: the service is told, and the client. Kernels
// are built without it now and then (CONFIG_INET_DIAG_DESTROY): then the client is
// told by the host when it sends something, and the service not at all.
func abort(ns *netnsx.Namespace, flows []*netlink.ConntrackFlow) error {
	return ns.Do(func() error {
		var errs []error
		for _, f := range flows {
			if f.Forward.Protocol != unix.IPPROTO_TCP || !isOpen(f) {
				continue
			}
			service := netip.AddrPortFrom(addrOf(f.Reverse.SrcIP), f.Reverse.SrcPort)
			client := netip.AddrPortFrom(addrOf(f.Reverse.DstIP), f.Reverse.DstPort)
			switch err := destroySocket(service, client); {
			case errors.Is(err, unix.EOPNOTSUPP):
				return nil
			case err != nil && !errors.Is(err, unix.ENOENT): // it has ended meanwhile
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// destroySocket resets the TCP socket with these addresses in the caller's
// namespace.
func destroySocket(local, remote netip.AddrPort) error {
	r := nl.NewNetlinkRequest(unix.SOCK_DESTROY, unix.NLM_F_ACK)
	r.AddRawData(diagRequest(local, remote))
	_, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// diagRequest is struct inet_diag_req_v2 (linux/inet_diag.h) for one TCP socket.
func diagRequest(local, remote netip.AddrPort) []byte {
	v6 := local.Addr().Is6()
	b := []byte{byte(family(v6)), unix.IPPROTO_TCP, 0, 0}
	b = append(b, native32(^uint32(0))...) // in whatever state
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, a := range []netip.Addr{local.Addr(), remote.Addr()} {
		var field [16]byte
		copy(field[:], a.AsSlice())
		b = append(b, field[:]...)
	}
	b = append(b, native32(0)...) // over whichever interface
	const noCookie = ^uint64(0)   // INET_DIAG_NOCOOKIE, twice
	return append(b, binaryutil.NativeEndian.PutUint64(noCookie)...)
}
