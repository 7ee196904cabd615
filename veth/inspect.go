package veth

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Counters are what has gone through a forward. Packets and bytes are counted in
// the jail, by the port there: of several forwards to one port the last one has
// them all.
type Counters struct {
	Total      uint64 // connections, and UDP clients, that were redirected
	Active     uint64 // of them, those that are open, or for UDP still remembered
	PacketsIn  uint64 // from clients into the jail
	BytesIn    uint64
	PacketsOut uint64 // from the jail to clients
	BytesOut   uint64
}

// A Report is what is known of a pair now.
type Report struct {
	Missing  []string            // parts that should be there, or what is in the way, in words; none: it is whole
	Forwards map[string]Counters // by ID
}

// Inspect looks at the pair of a jail, whichever processes use it, and changes
// nothing. forwards are those that should be there.
func Inspect(opts Options, forwards []Forward) (*Report, error) {
	v, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	defer v.closeHandles()
	v.hold(forwards)
	return v.Inspect()
}

// Inspect is what the function of that name returns for this process's forwards.
func (v *Veth) Inspect() (r *Report, err error) {
	err = v.locked(func() (err error) {
		r, err = v.inspect(v.mine())
		return err
	})
	return r, v.named(err)
}

// hold makes forwards of other processes this one's.
func (v *Veth) hold(forwards []Forward) {
	for _, f := range forwards {
		v.forwards = append(v.forwards, &own{Forward: f})
	}
}

// mine returns this process's forwards.
func (v *Veth) mine() (list []Forward) {
	for _, o := range v.forwards {
		list = append(list, o.Forward)
	}
	return list
}

func (v *Veth) inspect(forwards []Forward) (*Report, error) {
	lacks, whole, err := v.examine(forwards)
	if err != nil || !whole {
		return &Report{Missing: lacks}, err
	}
	if err := v.blocked(); err != nil {
		lacks = append(lacks, err.Error())
	}
	counters, err := v.count(forwards)
	return &Report{lacks, counters}, err
}

// examine says what is not as it should be, and whether there is a pair.
func (v *Veth) examine(forwards []Forward) (lacks []string, joined bool, err error) {
	whole, err := v.find()
	if err != nil {
		return nil, false, err
	}
	if !whole {
		return []string{"the pair of links " + v.names.link + " and " + innerLink}, false, nil
	}
	if err := v.openTable(v.pair.sides); err != nil {
		return nil, false, err
	}
	lacks, err = v.lacks(forwards)
	return lacks, true, err
}

// lacks says what is not as it should be.
func (v *Veth) lacks(forwards []Forward) ([]string, error) {
	rules, err := v.table.rules()
	if err != nil {
		return nil, err
	}
	list := slices.Concat(missing(v.pieces()), v.table.lacks(rules))
	forwards = slices.DeleteFunc(slices.Clone(forwards), func(f Forward) bool { return !v.redirects(f) })
	inside, err := v.lacksInside(forwards, rules)
	if err != nil {
		return nil, err
	}
	list = append(list, inside...)
	guards, err := v.guards()
	if err != nil {
		return nil, err
	}
	for i, s := range v.pair.sides {
		want := v.names.fixed(s, guards[i], v.known[i])
		for _, f := range forwards {
			want = append(want, v.names.forward(f, s)...)
		}
		for _, name := range v.names.check(want, v.known[i]) {
			list = append(list, fmt.Sprintf("%s (%s)", name, familyName(s.v6)))
		}
		if !v.switches.isOn(s.v6, guards[i]) {
			list = append(list, "forwarding of the host's links, "+familyName(s.v6))
		}
	}
	return list, nil
}

// lacksInside says what of forwards the jail does not have.
func (v *Veth) lacksInside(forwards []Forward, rules map[string][]*nftables.Rule) (list []string, err error) {
	in, err := v.table.indexes(setIn)
	if err != nil {
		return nil, err
	}
	out, err := v.table.indexes(setOut)
	if err != nil {
		return nil, err
	}
	there := map[string]int{}
	for _, r := range rules["new"] {
		there[ruleID(r)]++
	}
	replies := map[int]int{} // rules of the routing policy, by priority
	for _, v6 := range v.families() {
		policy, err := policyRules(v.jail, family(v6))
		if err != nil {
			return nil, err
		}
		for _, r := range policy {
			replies[r.Priority]++
		}
	}
	for _, f := range forwards {
		index, isIn := in[f.ID]
		_, isOut := out[f.ID]
		if !isIn || !isOut || there[f.ID] != len(f.newRules(v.pair.sides, index)) {
			list = append(list, fmt.Sprintf("forward %s in the jail", f.ID))
		} else if f.Network == "udp" && replies[replyPref+int(index)] != len(v.pair.sides) {
			list = append(list, fmt.Sprintf("routing rule for answers of forward %s", f.ID))
		}
	}
	return list, nil
}

// count reads the counters of forwards.
func (v *Veth) count(forwards []Forward) (map[string]Counters, error) {
	in, err := v.table.counts(setIn)
	if err != nil {
		return nil, err
	}
	out, err := v.table.counts(setOut)
	if err != nil {
		return nil, err
	}
	redirected, err := v.redirections()
	if err != nil {
		return nil, err
	}
	list := map[string]Counters{}
	for _, f := range forwards {
		a, b := in[f.ID], out[f.ID]
		list[f.ID] = Counters{Total: redirected[f.ID], PacketsIn: a.Packets, BytesIn: a.Bytes, PacketsOut: b.Packets, BytesOut: b.Bytes}
	}
	return list, v.countActive(forwards, list)
}

type count struct{ Packets, Bytes uint64 }

// counts returns the counters of a set, by forward.
func (t *jailTable) counts(set string) (map[string]count, error) {
	elements, err := t.elements(set)
	if err != nil {
		return nil, err
	}
	list := map[string]count{}
	for _, e := range elements {
		if e.Counter != nil {
			list[readClaim(e).id] = count{e.Counter.Packets, e.Counter.Bytes}
		}
	}
	return list, nil
}

// redirections returns how many first packets each forward has redirected.
func (v *Veth) redirections() (map[string]uint64, error) {
	sums := map[string]uint64{}
	for i, book := range v.books {
		for name := range v.known[i]["nat"] {
			if !v.names.isGroup(name) {
				continue
			}
			lines, err := book.counters("nat", name)
			if err != nil {
				return nil, err
			}
			for _, line := range lines {
				if id, ours := v.names.idOf(line); ours {
					sums[id] += packets(line)
				}
			}
		}
	}
	return sums, nil
}

// countActive adds how many connections forwards have.
func (v *Veth) countActive(forwards []Forward, list map[string]Counters) error {
	open, err := openSockets(v.opts.Namespace)
	if err != nil {
		return err
	}
	all, err := flows(v.host)
	for _, flow := range all {
		if !isRedirected(flow, v.pair.sides) || flow.Forward.Protocol == unix.IPPROTO_TCP && open[outside(flow).serviceEnd()] == nil {
			continue
		}
		for _, f := range forwards {
			if f.asked(flow) {
				c := list[f.ID]
				c.Active++
				list[f.ID] = c
			}
		}
	}
	return err
}
