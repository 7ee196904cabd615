package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
)

// Numbers of RFC 1928 and RFC 1929.
const (
	socksVersion    = 5
	passwordVersion = 1

	methodNone     = 0x00
	methodPassword = 0x02
	methodNoneOK   = 0xff

	cmdConnect   = 1
	cmdAssociate = 3

	addrV4   = 1
	addrName = 3
	addrV6   = 4

	replyDone           = 0
	replyFailed         = 1
	replyDenied         = 2
	replyNoRoute        = 3
	replyNoHost         = 4
	replyRefused        = 5
	replyTimeout        = 6 // "TTL expired", for want of a better one
	replyBadCommand     = 7
	replyBadAddressType = 8
)

// socksReplies says how SOCKS5 calls a failure.
var socksReplies = map[failure]byte{
	failed: replyFailed, denied: replyDenied, noRoute: replyNoRoute,
	noHost: replyNoHost, refused: replyRefused, timeout: replyTimeout,
}

var (
	errNotSOCKS    = errors.New("the client does not speak SOCKS5")
	errAddressType = errors.New("an address of an unknown type")
)

// socks reads what a SOCKS5 client wants, and does it.
func (x *session) socks() {
	if !x.greetSOCKS() {
		return
	}
	command, to, err := readSOCKS(x.r)
	switch {
	case errors.Is(err, errAddressType):
		x.sendAway(socksReply(replyBadAddressType, netip.AddrPort{}))
	case err != nil:
		x.log("request", "error", err)
	case command == cmdConnect:
		x.socksConnect(to)
	case command == cmdAssociate:
		x.associate(to)
	default:
		x.sendAway(socksReply(replyBadCommand, netip.AddrPort{}))
	}
}

// greetSOCKS agrees on a method and checks the password. It reports whether a
// request may follow.
func (x *session) greetSOCKS() bool {
	var head [2]byte
	if _, err := io.ReadFull(x.r, head[:]); err != nil || head[0] != socksVersion {
		x.log("greeting", "error", errNotSOCKS)
		return false
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(x.r, methods); err != nil {
		return false
	}
	want := byte(methodNone)
	if len(x.Users) > 0 {
		want = methodPassword
	}
	for _, m := range methods {
		if m == want {
			_, err := x.client.Write([]byte{socksVersion, want})
			return err == nil && (want == methodNone || x.checkPassword())
		}
	}
	x.refused()
	x.sendAway([]byte{socksVersion, methodNoneOK})
	return false
}

// checkPassword is the dialogue of RFC 1929.
func (x *session) checkPassword() bool {
	version, err := x.r.ReadByte()
	if err != nil || version != passwordVersion {
		return false
	}
	name, err := readShort(x.r)
	if err != nil {
		return false
	}
	password, err := readShort(x.r)
	if err != nil {
		return false
	}
	if !x.Users.has(name, password) {
		x.refused()
		x.sendAway([]byte{passwordVersion, 1})
		return false
	}
	_, err = x.client.Write([]byte{passwordVersion, 0})
	return err == nil
}

// readShort reads a text that follows its length in one byte.
func readShort(r io.Reader) (string, error) {
	var size [1]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return "", err
	}
	text := make([]byte, size[0])
	_, err := io.ReadFull(r, text)
	return string(text), err
}

// socksConnect is CONNECT.
func (x *session) socksConnect(to endpoint) {
	target, err := x.dial(to.host, to.port)
	if err != nil {
		x.sendAway(socksReply(socksReplies[reason(err)], netip.AddrPort{}))
		return
	}
	defer target.Close()
	if _, err := x.client.Write(socksReply(replyDone, addrOf(target.LocalAddr()))); err != nil {
		return
	}
	x.join(target, x.ahead())
}

// An endpoint is an address or a name, with a port.
type endpoint struct {
	host string
	port uint16
}

// readSOCKS reads a request.
func readSOCKS(r io.Reader) (command byte, to endpoint, err error) {
	var head [3]byte // version, command, reserved
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, to, err
	}
	if head[0] != socksVersion {
		return 0, to, errNotSOCKS
	}
	to, err = readEndpoint(r)
	return head[1], to, err
}

// readEndpoint reads an address of any type, and a port.
func readEndpoint(r io.Reader) (to endpoint, err error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return to, err
	}
	switch kind[0] {
	case addrV4:
		var a [4]byte
		_, err = io.ReadFull(r, a[:])
		to.host = netip.AddrFrom4(a).String()
	case addrV6:
		var a [16]byte
		_, err = io.ReadFull(r, a[:])
		to.host = netip.AddrFrom16(a).Unmap().String()
	case addrName:
		to.host, err = readShort(r)
	default:
		err = errAddressType
	}
	if err != nil {
		return to, err
	}
	var port [2]byte
	_, err = io.ReadFull(r, port[:])
	to.port = binary.BigEndian.Uint16(port[:])
	return to, err
}

// appendAddr writes an address and a port as SOCKS5 does; none is 0.0.0.0.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap().WithZone("")
	switch {
	case !ip.IsValid():
		b = append(b, addrV4, 0, 0, 0, 0)
	case ip.Is4():
		b = append(append(b, addrV4), ip.AsSlice()...)
	default:
		b = append(append(b, addrV6), ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func socksReply(code byte, bound netip.AddrPort) []byte {
	return appendAddr([]byte{socksVersion, code, 0}, bound)
}
