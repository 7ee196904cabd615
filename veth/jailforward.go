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
	claims, err := t.claims(setIn)
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(claims, func(c claim) bool { return c.id == f.ID })
	if at >= 0 || prefer != 0 {
		if at >= 0 {
			whole, err := t.isWhole(f, claims[at].index)
			if err != nil || whole {
				return claims[at].index, err
			}
		}
		if err := t.takeAway([]string{f.ID}, false); err != nil { // connections with its mark may go on
			return 0, err
		}
	}
	var index uint16
	if at >= 0 {
		index = claims[at].index
	} else if index, err = freeIndex(claims, prefer); err != nil {
		return 0, err
	}
	chain := &nftables.Chain{Name: "new", Table: innerNFT}
	for _, r := range f.newRules(t.sides, index) {
		t.conn.AddRule(&nftables.Rule{Table: innerNFT, Chain: chain, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, f.ID)})
	}
	element := []nftables.SetElement{{Key: native32(markBase | uint32(index)), Comment: claimOf(f)}}
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

// freeIndex returns an index that nobody claims: 1 or more.
func freeIndex(claims []claim, prefer uint16) (uint16, error) {
	used := make([]bool, maxIndex+1)
	for _, c := range claims {
		used[c.index] = true
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

// A claim is what an element of the sets of marks says: which forward has the
// mark, which ports inside, and which one on the host is the first. A mark that forwards have shared, since both lead
// to one port, outlives the one that it was for: then it has no ID, and stays as
// long as the table.
type claim struct {
	id          string
	index       uint16
	network     string
	first, last uint16
	host        uint16
}

// claimOf is an element's comment.
func claimOf(f Forward) string {
	return fmt.Sprintf("%s %s %d %d %d", f.ID, f.Network, f.Target, f.targetLast(), f.First)
}

func readClaim(e nftables.SetElement) (c claim) {
	c.index = uint16(binaryutil.NativeEndian.Uint32(e.Key))
	fmt.Sscanf(e.Comment, "%s %s %d %d %d", &c.id, &c.network, &c.first, &c.last, &c.host)
	return c
}

func (c claim) overlaps(o claim) bool {
	return c.network == o.network && c.first <= o.last && o.first <= c.last
}

// redirected reports whether the forward has redirected a flow of the host's.
func (c claim) redirected(flow *netlink.ConntrackFlow) bool {
	asked, inside := flow.Forward.DstPort, flow.Reverse.SrcPort
	return c.id != "" && protocol(c.network) == flow.Forward.Protocol && inside >= c.first && inside <= c.last && asked-c.host == inside-c.first
}

// claims returns those in a set.
func (t *jailTable) claims(set string) (list []claim, err error) {
	elements, err := t.elements(set)
	for _, e := range elements {
		list = append(list, readClaim(e))
	}
	return list, err
}

// indexes returns the index of each forward that is in a set.
func (t *jailTable) indexes(set string) (map[string]uint16, error) {
	have := map[string]uint16{}
	claims, err := t.claims(set)
	for _, c := range claims {
		if c.id != "" {
			have[c.id] = c.index
		}
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
		if err := t.dropMarks(set, ids); err != nil {
			return err
		}
	}
	return nil
}

// dropMarks adds the removal of forwards' marks to the transaction. Those that
// others may have connections with stay, without a name.
func (t *jailTable) dropMarks(set string, ids []string) error {
	claims, err := t.claims(set)
	if err != nil {
		return err
	}
	var gone, left []claim
	for _, c := range claims {
		if slices.Contains(ids, c.id) {
			gone = append(gone, c)
		} else {
			left = append(left, c)
		}
	}
	var drop, nameless []nftables.SetElement
	for _, c := range gone {
		key := native32(markBase | uint32(c.index))
		drop = append(drop, nftables.SetElement{Key: key})
		if slices.ContainsFunc(left, c.overlaps) {
			nameless = append(nameless, nftables.SetElement{Key: key})
		}
	}
	if len(drop) == 0 {
		return nil
	}
	if err := t.conn.SetDeleteElements(marks(set), drop); err != nil || len(nameless) == 0 {
		return err
	}
	return t.conn.SetAddElements(marks(set), nameless)
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
