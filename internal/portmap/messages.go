package portmap

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// refusals are the results that are not success, by number.
var refusals = map[Protocol][]string{
	NATPMP: {
		1: "version not supported", 2: "not authorized", 3: "network failure", 4: "out of resources", 5: "not supported",
	},
	PCP: {
		1: "version not supported", 2: "not authorized", 3: "malformed request", 4: "operation not supported",
		5: "option not supported", 6: "malformed option", 7: "network failure", 8: "no resources",
		9: "protocol not supported", 10: "quota exceeded", 11: "external address not available",
		12: "there is a NAT before it", 13: "too many remote peers",
	},
}

const (
	natpmpVersion = 0
	pcpVersion    = 2
	response      = 0x80 // bit of the operation
	badVersion    = 1    // result, in both protocols
	pcpMap        = 1
)

// natpmpOp is the operation that maps a port of the network.
func natpmpOp(network string) byte {
	if network == "udp" {
		return 1
	}
	return 2
}

// natpmpQuery is the request of RFC 6886, 3.3:
//
//	version, operation, reserved (2) | internal (2), external (2) | lifetime (4)
func natpmpQuery(network string, internal, external uint16, lifetime time.Duration) []byte {
	b := []byte{natpmpVersion, natpmpOp(network), 0, 0}
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, external)
	return binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
}

// readNATPMP reads the response to it, and reports whether b is that:
//
//	version, operation, result (2) | time (4) | internal (2), external (2) | lifetime (4)
//
// One that refuses may end after the time.
func readNATPMP(b []byte, network string, internal uint16) (m Mapping, ours bool, err error) {
	if len(b) < 4 || b[1] != response|natpmpOp(network) {
		return m, false, nil
	}
	if b[0] != natpmpVersion { // a gateway of PCP alone (RFC 6887, appendix A)
		return m, true, ErrVersion
	}
	result := int(binary.BigEndian.Uint16(b[2:]))
	if result == badVersion {
		return m, true, ErrVersion
	}
	if result != 0 {
		return m, true, &Refusal{NATPMP, result}
	}
	if len(b) < 16 || binary.BigEndian.Uint16(b[8:]) != internal {
		return m, false, nil
	}
	return Mapping{
		Internal: internal, External: binary.BigEndian.Uint16(b[10:]),
		Lifetime: time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second,
	}, true, nil
}

const pcpSize = 24 + 36

// pcpQuery is the MAP request of RFC 6887, 7.1 and 11.1:
//
//	version, operation, reserved (2) | lifetime (4) | our address (16)
//	nonce (12) | protocol, reserved (3) | internal (2), external (2) | external address (16)
func pcpQuery(us netip.Addr, nonce [12]byte, network string, internal, external uint16, lifetime time.Duration) []byte {
	b := []byte{pcpVersion, pcpMap, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
	ip := us.As16()
	b = append(b, ip[:]...)
	b = append(b, nonce[:]...)
	b = append(b, ipProtocol(network), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, external)
	any := netip.IPv6Unspecified()
	if us.Is4() {
		any = netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff})
	}
	ip = any.As16()
	return append(b, ip[:]...)
}

func ipProtocol(network string) byte {
	if network == "udp" {
		return 17
	}
	return 6
}

// readPCP reads the response to it (RFC 6887, 7.2), which looks the same but for
// the result in its fourth byte, and reports whether b is that.
func readPCP(b []byte, nonce [12]byte, network string, internal uint16) (m Mapping, ours bool, err error) {
	if len(b) >= 4 && b[0] == natpmpVersion && b[1]&response != 0 {
		return m, true, ErrVersion // a gateway of NAT-PMP alone (RFC 6886, 3.5)
	}
	if len(b) < 24 || b[0] != pcpVersion || b[1] != response|pcpMap {
		return m, false, nil
	}
	if b[3] == badVersion {
		return m, true, ErrVersion
	}
	if len(b) < pcpSize || [12]byte(b[24:36]) != nonce || b[36] != ipProtocol(network) || binary.BigEndian.Uint16(b[40:]) != internal {
		return m, false, nil
	}
	if b[3] != 0 {
		return m, true, &Refusal{PCP, int(b[3])}
	}
	return Mapping{
		Internal: internal, External: binary.BigEndian.Uint16(b[42:]),
		Lifetime: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second,
	}, true, nil
}
