package veth

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// add opens the forward in the jail and returns its index, the lower half of its
// connections' mark. It keeps the one it has, or had: prefer, if that is not 0
// and free. A forward that is there in part is made whole.
func (t *jailTable) add(f Forward, prefer uint16) (uint16, error) {
	in, err := t.indexes(setIn)
	if err != nil {
		return 0, err
	}
	if index, isIn := in[f.ID]; isIn || prefer != 0 {
		whole, err := t.isWhole(f, index)
		if err != nil || whole && isIn {
			return index, err
		}
		if isIn {
			prefer = index // connections with its mark may go on
		}
		if err := t.takeAway([]string{f.ID}, true); err != nil {
			return 0, err
		}
		delete(in, f.ID)
	}
	index, err := freeIndex(in, prefer)
	if err != nil {
		return 0, err
	}
	chain := &nftables.Chain{Name: "new", Table: innerNFT}
	for _, r := range f.newRules(t.sides, index) {
		t.conn.AddRule(&nftables.Rule{Table: innerNFT, Chain: chain, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, f.ID)})
	}
	element := []nftables.SetElement{{Key: native32(markBase | uint32(index)), Comment: f.ID}}
	for _, name := range []string{setIn, setOut} {
		if err := t.conn.SetAddElements(marks(name), element); err != nil {
			return 0, err
		}
	}
	return index, rulesError(t.conn.Flush())
}

// isWhole reports whether a forward that has an index has everything else.
func (t *jailTable) isWhole(f Forward, index uint16) (bool, error) {
	rules, err := t.rules()
	if err != nil {
		return false, err
	}
	out, err := t.indexes(setOut)
	if err != nil {
		return false, err
	}
	_, isOut := out[f.ID]
	return isOut && rulesOf(f.ID, rules) == len(f.newRules(t.sides, index)), nil
}

// freeIndex returns an index that no forward has: 1 or more.
func freeIndex(have map[string]uint16, prefer uint16) (uint16, error) {
	used := make([]bool, maxIndex+1)
	for _, i := range have {
		used[i] = true
	}
	if prefer != 0 && !used[prefer] {
		return prefer, nil
	}
	for i := 1; i <= maxIndex; i++ {
		if !used[i] {
			return uint16(i), nil
		}
	}
	return 0, fmt.Errorf("more than %d forwards into one jail", maxIndex)
}

// indexes returns the index of each forward that is in a set.
func (t *jailTable) indexes(set string) (map[string]uint16, error) {
	have := map[string]uint16{}
	elements, err := t.elements(set)
	for _, e := range elements {
		have[e.Comment] = uint16(binaryutil.NativeEndian.Uint32(e.Key))
	}
	return have, err
}

// elements returns the elements of a set; none if there is no such set.
func (t *jailTable) elements(set string) ([]nftables.SetElement, error) {
	elements, err := t.conn.GetSetElements(marks(set))
	if err != nil { // it does not tell which error it is
		if _, setErr := t.conn.GetSetByName(innerNFT, set); errors.Is(setErr, unix.ENOENT) {
			return nil, nil
		}
	}
	return elements, rulesError(err)
}

// removeForwards closes the forwards with these IDs. With their marks, their
// connections end as well; without, those go on.
func (t *jailTable) removeForwards(ids []string, withMarks bool) error {
	for some := range slices.Chunk(ids, 100) { // the kernel confirms each change: not more than fit in its buffer
		if err := t.takeAway(some, withMarks); err != nil {
			return err
		}
		if err := t.conn.Flush(); err != nil {
			return rulesError(err)
		}
	}
	return nil
}

// takeAway adds the removal to the transaction.
func (t *jailTable) takeAway(ids []string, withMarks bool) error {
	rules, err := t.rules()
	if err != nil {
		return err
	}
	for _, r := range rules["new"] {
		if slices.Contains(ids, ruleID(r)) {
			if err := t.conn.DelRule(r); err != nil {
				return err
			}
		}
	}
	if !withMarks {
		return nil
	}
	for _, set := range []string{setIn, setOut} {
		have, err := t.indexes(set)
		if err != nil {
			return err
		}
		var elements []nftables.SetElement
		for _, id := range ids {
			if index, ok := have[id]; ok {
				elements = append(elements, nftables.SetElement{Key: native32(markBase | uint32(index))})
			}
		}
		if len(elements) == 0 {
			continue
		}
		if err := t.conn.SetDeleteElements(marks(set), elements); err != nil {
			return err
		}
	}
	return nil
}

// replyRule lets a UDP service answer clients that the jail has no route to: its
// own socket is not marked, so that without it there would be no answer to mark.
// It comes after all tables that have routes, and is for packets from the
// forwarded ports only: those of other programs are refused at once, as before.
func (f Forward) replyRule(v6 bool, index uint16) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = family(v6), replyPref+int(index), routeTab
	r.IPProto, r.Sport = unix.IPPROTO_UDP, netlink.NewRulePortRange(f.Target, f.targetLast())
	return r
}

// replyRules are those rules as pieces.
func (f Forward) replyRules(h *netlink.Handle, sides []side, index uint16) []piece {
	var list []piece
	if f.Network == "udp" {
		for _, s := range sides {
			list = append(list, policyRule(h, fmt.Sprintf("rule for answers of forward %s, %s", f.ID, familyName(s.v6)), f.replyRule(s.v6, index)))
		}
	}
	return list
}

// removeRules removes the routing rules that choose says, in both families.
func removeRules(h *netlink.Handle, choose func(netlink.Rule) bool) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		rules, err := policyRules(h, family(v6))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range rules {
			if choose(r) {
				r.Family = family(v6)
				errs = append(errs, ignore(h.RuleDel(&r), unix.ENOENT))
			}
		}
	}
	return errors.Join(errs...)
}
