package veth

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var (
	side4 = sideOf(netip.MustParseAddr("169.254.9.0"))
	side6 = sideOf(netip.MustParseAddr("fd00:0:0:9::"))
)

func sideFor(v6 bool) side {
	if v6 {
		return side6
	}
	return side4
}

// examples are forwards with every combination of options, by name.
func examples() map[string][]Forward {
	lan := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("192.168.7.0/24"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
	}
	list := map[string][]Forward{"none": nil}
	for _, network := range []string{"tcp", "udp"} {
		for ports, f := range map[string]Forward{
			"one":     {First: 8080, Last: 8080, Target: 8080},
			"moved":   {First: 80, Last: 80, Target: 8080},
			"range":   {First: 9000, Last: 9999, Target: 9000},
			"shifted": {First: 9000, Last: 9999, Target: 19000},
		} {
			f.ID, f.Network, f.Allow = network+"-"+ports, network, lan
			list[f.ID] = []Forward{f}
		}
	}
	for where, addr := range map[string]string{
		"at4": "192.168.1.2", "at6": "2001:db8::2", "all4": "0.0.0.0", "all6": "::", "loopback4": "127.0.0.1", "loopback6": "::1", "linklocal": "fe80::1",
	} {
		list[where] = []Forward{{ID: where, Network: "tcp", Listen: netip.MustParseAddr(addr), First: 80, Last: 80, Target: 80, Allow: lan}}
	}
	jail := Forward{ID: "tcp-1", Network: "tcp", First: 1, Last: 2, Target: 1, Source: SourceJail}
	jailAt := Forward{ID: "udp-1", Network: "udp", Listen: netip.MustParseAddr("192.168.1.2"), First: 1, Last: 1, Target: 1, Source: SourceJail}
	list["source"] = []Forward{jail, jailAt}
	list["several"] = slices.Concat(list["tcp-one"], list["udp-range"], list["at4"], list["source"])
	return list
}

// TestGolden: the rules on the host and in the jail as text, for every combination
// of options, and after they were removed again.
func TestGolden(t *testing.T) {
	n := namesOf("vpn")
	for name, forwards := range examples() {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, v6 := range []bool{false, true} {
				book, s := newFake(), sideFor(v6)
				up(t, n, book, s, forwards, "eth0")
				fmt.Fprintf(&b, "# %s\n%s", familyName(v6), book.save())
				down(t, n, book)
				fmt.Fprintf(&b, "# %s, removed\n%s", familyName(v6), book.save())
				if book.save() != newFake().save() {
					t.Errorf("something is left, or missing:\n%s", book.save())
				}
			}
			for i, f := range forwards {
				for _, r := range f.newRules([]side{side4, side6}, uint16(i+1)) {
					fmt.Fprintf(&b, "# in the jail\n%s\n", r.text)
				}
			}
			golden(t, name, b.String())
		})
	}
}

// TestGoldenGuards: the rules that keep links from forwarding, for no link, some,
// and all of them.
func TestGoldenGuards(t *testing.T) {
	n := namesOf("vpn")
	for name, links := range map[string][]string{"guards-none": nil, "guards-two": {"eth0", "wlan0"}, "guards-all": {everyLink}} {
		book := newFake()
		up(t, n, book, side6, nil, links...)
		golden(t, name, book.save())
		up(t, n, book, side6, nil) // nothing to guard any more
		have, _ := book.snapshot()
		if got := n.guarded(have); len(got) > 0 {
			t.Errorf("%s: still guarded: %v", name, got)
		}
	}
}

// TestGoldenJail: the rules in the jail, for both kinds of tunnel.
func TestGoldenJail(t *testing.T) {
	sides := []side{side4, side6}
	tunnel := []netip.Addr{netip.MustParseAddr("10.64.0.2"), netip.MustParseAddr("fd64::2")}
	for name, services := range map[string][]netip.Addr{
		"jail-both": tunnel, "jail-none": {side4.inner, side6.inner}, "jail-only4": {tunnel[0], side6.inner},
	} {
		var b strings.Builder
		for _, c := range jailChains(sides, services) {
			fmt.Fprintf(&b, "chain %s {\n", c.name)
			for _, r := range c.rules {
				fmt.Fprintf(&b, "\t%s\n", r.text)
			}
			fmt.Fprintln(&b, "}")
		}
		golden(t, name, b.String())
	}
}

// up sets the rules of forwards, as ensure and Add do.
func up(t *testing.T, n names, book rulebook, s side, forwards []Forward, guards ...string) {
	t.Helper()
	have, _ := book.snapshot()
	scripts := [][]chain{n.fixed(s, guards, have)}
	for _, f := range forwards {
		scripts = append(scripts, n.forward(f, s))
	}
	for _, want := range scripts {
		have, _ := book.snapshot()
		if err := book.restore(n.setup(want, have)); err != nil {
			t.Fatal(err)
		}
	}
}

// down removes them, as tearDown does.
func down(t *testing.T, n names, book rulebook) {
	t.Helper()
	have, _ := book.snapshot()
	for _, tables := range [][]string{{"nat"}, {"filter", "mangle"}} {
		if err := book.restore(n.teardown(have, tables...)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIdempotent: up twice is up once, and what this process notes is what the
// tables hold.
func TestIdempotent(t *testing.T) {
	n := namesOf("vpn")
	forwards := examples()["several"]
	for _, v6 := range []bool{false, true} {
		book, s := newFake(), sideFor(v6)
		up(t, n, book, s, forwards, "eth0")
		once := book.save()
		up(t, n, book, s, forwards, "eth0")
		if book.save() != once {
			t.Errorf("%s: twice is not once:\n%s\nbut\n%s", familyName(v6), book.save(), once)
		}
		have, _ := book.snapshot()
		noted, _ := newFake().snapshot()
		want := n.fixed(s, []string{"eth0"}, noted)
		for _, f := range forwards {
			want = append(want, n.forward(f, s)...)
		}
		n.note(want, noted)
		if script := n.setup(want, noted); script != "" {
			t.Errorf("%s: after note there is still to do:\n%s", familyName(v6), script)
		}
		if lacks := n.check(want, have); len(lacks) > 0 {
			t.Errorf("%s: missing: %v", familyName(v6), lacks)
		}
	}
}

// TestEveryPrefix: after any part of up, down leaves nothing of ours and
// everything of others; and up makes the rest.
func TestEveryPrefix(t *testing.T) {
	n := namesOf("vpn")
	forwards := examples()["several"]
	whole := newFake()
	up(t, n, whole, side4, forwards, "eth0")
	for stop := 0; ; stop++ {
		book := &interrupted{fakeBook: newFake(), left: stop}
		complete := book.up(n, side4, forwards)
		half := book.save()
		book.left = -1
		up(t, n, book, side4, forwards, "eth0")
		if book.save() != whole.save() {
			t.Errorf("after %d tables, up made\n%s\nwant\n%s", stop, book.save(), whole.save())
		}
		half2 := &fakeBook{parseSave(half)}
		down(t, n, half2)
		if half2.save() != newFake().save() {
			t.Errorf("after %d tables, down left\n%s", stop, half2.save())
		}
		if complete {
			if stop < 4 {
				t.Fatalf("only %d steps", stop)
			}
			return
		}
	}
}

// interrupted stops after some tables have been changed.
type interrupted struct {
	*fakeBook
	left int // -1: never
}

func (b *interrupted) up(n names, s side, forwards []Forward) (complete bool) {
	have, _ := b.snapshot()
	scripts := [][]chain{n.fixed(s, []string{"eth0"}, have)}
	for _, f := range forwards {
		scripts = append(scripts, n.forward(f, s))
	}
	for _, want := range scripts {
		have, _ := b.snapshot()
		for part := range strings.SplitAfterSeq(n.setup(want, have), "COMMIT\n") {
			if part == "" {
				continue
			}
			if b.left == 0 {
				return false
			}
			b.left--
			if err := b.restore(part); err != nil {
				panic(err)
			}
		}
	}
	return true
}

// TestForget: a forward goes and takes along its list of clients if it was the
// last one; others stay.
func TestForget(t *testing.T) {
	n := namesOf("vpn")
	all := examples()["several"]
	for _, f := range all {
		book, want := newFake(), newFake()
		up(t, n, book, side4, all)
		have, _ := book.snapshot()
		if err := book.restore(n.forget([]string{f.ID}, have)); err != nil {
			t.Fatal(err)
		}
		have, _ = book.snapshot()
		if slices.Contains(n.forwards(have), f.ID) || len(n.forwards(have)) != len(all)-1 {
			t.Errorf("%s: left: %v", f.ID, n.forwards(have))
		}
		up(t, n, want, side4, all[:0])
		rest := slices.DeleteFunc(slices.Clone(all), func(o Forward) bool { return o.ID == f.ID })
		for _, o := range rest {
			if err := book.restore(n.forget([]string{o.ID}, have)); err != nil {
				t.Fatal(err)
			}
			have, _ = book.snapshot()
		}
		delete(book.have["nat"], n.chain("from")) // stays until the pair goes
		book.have["nat"]["POSTROUTING"] = nil
		if book.save() != want.save() {
			t.Errorf("%s: after all have gone:\n%s\nwant\n%s", f.ID, book.save(), want.save())
		}
	}
}

// TestClaims: what is read of a claim is what was written, and it is about the
// connections to its ports.
func TestClaims(t *testing.T) {
	for name, list := range examples() {
		for _, f := range list {
			c := readClaim(nftables.SetElement{Key: native32(markBase | 7), Comment: claimOf(f)})
			if want := (claim{f.ID, 7, f.Network, f.Target, f.targetLast(), f.First}); c != want {
				t.Errorf("%s: got %+v from %+v", name, c, f)
			}
			for _, x := range []struct {
				asked, inside uint16
				want          bool
			}{{f.First, f.Target, true}, {f.Last, f.targetLast(), true}, {f.First, f.Target + 1, false}, {f.Last + 1, f.targetLast() + 1, false}} {
				flow := &netlink.ConntrackFlow{Forward: netlink.IPTuple{Protocol: protocol(f.Network), DstPort: x.asked}, Reverse: netlink.IPTuple{SrcPort: x.inside}}
				if got := c.redirected(flow); got != x.want {
					t.Errorf("%s: %d to %d: %v, want %v", name, x.asked, x.inside, got, x.want)
				}
			}
		}
	}
}

// TestNames: no two of many jails share a name, and names fit.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		n := namesOf(fmt.Sprintf("jail%d", i))
		if seen[n.link] || len(n.link) > 15 || len(n.chain("d12345678")) > 28 {
			t.Fatalf("%+v", n)
		}
		seen[n.link] = true
	}
}
