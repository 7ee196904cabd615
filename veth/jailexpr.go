package veth

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A phrase is a piece of a rule in nft(8)'s words, with the expressions of
// nf_tables' virtual machine that it stands for.
type phrase struct {
	text  string
	exprs []expr.Any
}

// say puts phrases together.
func say(list ...phrase) phrase {
	var all phrase
	var texts []string
	for _, p := range list {
		texts = append(texts, p.text)
		all.exprs = append(all.exprs, p.exprs...)
	}
	all.text = strings.Join(texts, " ")
	return all
}

func native32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func linkName16(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

func fromLink(name string) phrase {
	return phrase{fmt.Sprintf("iifname %q", name), meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, linkName16(name))}
}

func notFromLink(name string) phrase {
	return phrase{fmt.Sprintf("iifname != %q", name), meta(expr.MetaKeyIIFNAME, expr.CmpOpNeq, linkName16(name))}
}

func toLink(name string) phrase {
	return phrase{fmt.Sprintf("oifname %q", name), meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, linkName16(name))}
}

func ofFamily(v6 bool) phrase {
	if v6 {
		return phrase{"meta nfproto ipv6", meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})}
	}
	return phrase{"meta nfproto ipv4", meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})}
}

// Offsets of addresses in IP headers and of ports in TCP's and UDP's.
func addrField(v6, destination bool, register uint32) *expr.Payload {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	if v6 {
		p.Offset, p.Len = 8, 16
	}
	if destination {
		p.Offset += p.Len
	}
	return p
}

func portField(destination bool, register uint32) *expr.Payload {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Len: 2}
	if destination {
		p.Offset = 2
	}
	return p
}

func familyWord(v6 bool) string {
	if v6 {
		return "ip6"
	}
	return "ip"
}

// toAddr is "ip daddr A"; nft leaves out the family, which the address tells.
func toAddr(a netip.Addr) phrase {
	return phrase{fmt.Sprintf("%s daddr %s", familyWord(a.Is6()), a), append(ofFamily(a.Is6()).exprs,
		addrField(a.Is6(), true, 1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()})}
}

func ofNetwork(network string) phrase {
	return phrase{"meta l4proto " + network, meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{protocol(network)})}
}

func protocol(network string) byte {
	if network == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// toPorts is "tcp dport FIRST-LAST".
func toPorts(network string, first, last uint16) phrase {
	text := fmt.Sprintf("%s dport %d", network, first)
	exprs := append(ofNetwork(network).exprs, portField(true, 1))
	from, to := binaryutil.BigEndian.PutUint16(first), binaryutil.BigEndian.PutUint16(last)
	if first == last {
		return phrase{text, append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from})}
	}
	return phrase{fmt.Sprintf("%s-%d", text, last), append(exprs,
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: from}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: to})}
}

func newConnection() phrase {
	return phrase{"ct state new", []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(expr.CtStateBitNEW), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native32(0)},
	}}
}

// connectionMarkIn is "ct mark @SET". The set counts.
func connectionMarkIn(set string) phrase {
	return phrase{"ct mark @" + set, []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// connectionMarked is "ct mark & MASK == MARK".
func connectionMarked() phrase {
	return phrase{fmt.Sprintf("ct mark & 0x%08x == 0x%08x", uint32(markMask), uint32(markBase)), []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(markMask), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native32(markBase)},
	}}
}

func markConnection(mark uint32) phrase {
	return phrase{fmt.Sprintf("ct mark set 0x%08x", mark), []expr.Any{
		&expr.Immediate{Register: 1, Data: native32(mark)},
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK, SourceRegister: true},
	}}
}

func markPacket() phrase {
	return phrase{"meta mark set ct mark", []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}}
}

// Registers of four bytes: a concatenation lies in consecutive ones, from the
// first on.
const firstReg = unix.NFT_REG_1

func regAfterAddr(v6 bool) uint32 {
	if v6 {
		return unix.NFT_REG_2
	}
	return unix.NFT_REG32_01
}

// rememberClient is "update @SET { ip saddr . udp dport }".
func rememberClient(v6 bool) phrase {
	set := clientSet(v6)
	return phrase{fmt.Sprintf("update @%s { %s saddr . udp dport }", set, familyWord(v6)), []expr.Any{
		addrField(v6, false, firstReg),
		portField(true, regAfterAddr(v6)),
		&expr.Dynset{SrcRegKey: firstReg, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE)},
	}}
}

// toClient is "ip daddr . udp sport @SET".
func toClient(v6 bool) phrase {
	set := clientSet(v6)
	return phrase{fmt.Sprintf("%s daddr . udp sport @%s", familyWord(v6), set), append(
		append(ofFamily(v6).exprs, ofNetwork("udp").exprs...),
		addrField(v6, true, firstReg),
		portField(false, regAfterAddr(v6)),
		&expr.Lookup{SourceRegister: firstReg, SetName: set},
	)}
}

// redirectTo is "dnat ip to A".
func redirectTo(a netip.Addr) phrase {
	fam := uint32(unix.NFPROTO_IPV4)
	if a.Is6() {
		fam = unix.NFPROTO_IPV6
	}
	return phrase{fmt.Sprintf("dnat %s to %s", familyWord(a.Is6()), a), []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: 1},
	}}
}

func counter() phrase { return phrase{"counter", []expr.Any{&expr.Counter{}}} }

func accept() phrase { return verdict("accept", expr.VerdictAccept) }
func drop() phrase   { return verdict("drop", expr.VerdictDrop) }

func verdict(text string, kind expr.VerdictKind) phrase {
	return phrase{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

func jump(chain string) phrase {
	return phrase{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}
