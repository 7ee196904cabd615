package veth

import (
	"bytes"
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What becomes of a packet in a chain, as far as that can be told.
type fate int

const (
	passes fate = iota // the chain's end is reached, or may be
	accepted
	dropped
	unclear // it may be accepted
)

// drops reports whether the base chain certainly drops the packet.
func (fw *firewall) drops(c *nftables.Chain, p packet) bool {
	switch fw.walk(c, p, 0) {
	case dropped:
		return true
	case passes:
		return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	}
	return false
}

// maxJumps is how deep chains may lead into each other (the kernel: 16).
const maxJumps = 16

// walk follows the packet through a chain. A rule that may match counts if it
// accepts, and does not if it drops.
func (fw *firewall) walk(c *nftables.Chain, p packet, depth int) fate {
	if depth > maxJumps {
		return unclear
	}
	for _, r := range fw.rulesOf(c) {
		does := fw.apply(r, p)
		if does.no || does.verdict == nil {
			continue
		}
		result := passes
		switch does.verdict.Kind {
		case expr.VerdictAccept:
			result = accepted
		case expr.VerdictDrop:
			result = dropped
		case expr.VerdictReturn:
			if does.certain {
				return passes
			}
			result = unclear // who knows what it spares the packet
		case expr.VerdictJump, expr.VerdictGoto:
			if to := fw.chains[chainKey(c.Table, does.verdict.Chain)]; to != nil {
				result = fw.walk(to, p, depth+1)
			}
			if does.verdict.Kind == expr.VerdictGoto && result == passes && does.certain {
				return passes
			}
		case expr.VerdictQueue:
			result = unclear
		}
		switch {
		case result == unclear, result == accepted && !does.certain:
			return unclear
		case result != passes && does.certain:
			return result
		}
	}
	return passes
}

// An effect is what a rule does to a packet.
type effect struct {
	no      bool          // it does not match
	certain bool          // it does match
	verdict *expr.Verdict // nil: none
}

// A value is what a register holds.
type value struct {
	data  []byte
	known bool
}

// apply runs a rule's expressions, as nf_tables' virtual machine would, on what
// is known of the packet.
func (fw *firewall) apply(r *nftables.Rule, p packet) effect {
	regs := map[uint32]value{}
	does := effect{certain: true}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				regs[e.Register] = p.load(e)
			}
		case *expr.Ct:
			if !e.SourceRegister {
				regs[e.Register] = p.load(e)
			}
		case *expr.Bitwise:
			regs[e.DestRegister] = mask(regs[e.SourceRegister], e)
		case *expr.Immediate:
			regs[e.Register] = value{e.Data, true}
		case *expr.Cmp:
			if does.compare(regs[e.Register], e) {
				return effect{no: true}
			}
		case *expr.Lookup:
			if fw.lookup(&does, r.Table, regs[e.SourceRegister], e) {
				return effect{no: true}
			}
		case *expr.Verdict:
			does.verdict = e
		case *expr.Reject:
			does.verdict = &expr.Verdict{Kind: expr.VerdictDrop}
		case *expr.Counter, *expr.Log, *expr.Notrack:
			// They do not decide.
		case *expr.Target:
			if e.Name == "REJECT" || e.Name == "DROP" {
				does.verdict = &expr.Verdict{Kind: expr.VerdictDrop}
			}
		default: // addresses, ports, limits, extensions of iptables, …
			does.certain = false
			if d, ok := e.(*expr.Payload); ok {
				regs[d.DestRegister] = value{}
			}
		}
	}
	return does
}

func (p packet) load(e expr.Any) value {
	data, known := p.field(e)
	return value{data, known}
}

// mask applies a mask. Of a connection's status one bit is known.
func mask(v value, e *expr.Bitwise) value {
	if len(v.data) != len(e.Mask) || len(e.Mask) != len(e.Xor) {
		return value{}
	}
	if !v.known && !(len(v.data) == 4 && bytes.Equal(e.Mask, native32(statusDNAT))) {
		return value{}
	}
	out := make([]byte, len(v.data))
	for i := range out {
		out[i] = v.data[i]&e.Mask[i] ^ e.Xor[i]
	}
	return value{out, true}
}

// compare reports whether the comparison certainly fails.
func (does *effect) compare(v value, e *expr.Cmp) (fails bool) {
	if !v.known {
		does.certain = false
		return false
	}
	order := bytes.Compare(v.data[:min(len(v.data), len(e.Data))], e.Data) // "wgjv*" is a comparison of the first bytes
	switch e.Op {
	case expr.CmpOpEq:
		return order != 0
	case expr.CmpOpNeq:
		return order == 0
	case expr.CmpOpLt:
		return order >= 0
	case expr.CmpOpLte:
		return order > 0
	case expr.CmpOpGt:
		return order <= 0
	case expr.CmpOpGte:
		return order < 0
	}
	does.certain = false
	return false
}

// lookup reports whether the value is certainly not in the set. In a map to
// verdicts it finds the verdict.
func (fw *firewall) lookup(does *effect, t *nftables.Table, v value, e *expr.Lookup) (fails bool) {
	elements, readable := fw.elementsOf(t, e.SetName)
	if !v.known || !readable {
		does.certain = false
		if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
			does.verdict = &expr.Verdict{Kind: expr.VerdictAccept} // one of them may be
		}
		return false
	}
	for _, x := range elements {
		if bytes.Equal(x.Key, v.data) {
			if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
				does.verdict = verdictOf(x)
			}
			return e.Invert
		}
	}
	return !e.Invert
}

// verdictOf decodes what a verdict map has for an element; the library leaves it
// as attributes (NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN).
func verdictOf(x nftables.SetElement) *expr.Verdict {
	if x.VerdictData != nil {
		return x.VerdictData
	}
	v := &expr.Verdict{Kind: expr.VerdictAccept} // if it cannot be decoded: nothing is said to block
	for b := x.Val; len(b) >= 4; {
		size := int(binaryutil.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		switch data := b[4:size]; binaryutil.NativeEndian.Uint16(b[2:]) &^ unix.NLA_F_NESTED {
		case unix.NFTA_VERDICT_CODE:
			if len(data) == 4 {
				v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(data)))
			}
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = string(bytes.TrimRight(data, "\x00"))
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return v
}
