package veth

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/wgjail/wgjail/internal/world"
)

// TestJailText: what jailrules.go says in nft's words is what is set over netlink:
// a table that nft makes of the words is the same.
func TestJailText(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		ours, theirs := w.Namespace(t, "ours"), w.Namespace(t, "theirs")
		sides := []side{side4, side6}
		services := []netip.Addr{netip.MustParseAddr("10.64.0.2"), netip.MustParseAddr("fd64::2")}
		table, err := openJailTable(ours.Namespace, sides, services)
		if err != nil {
			t.Fatal(err)
		}
		if err := table.ensure(); err != nil {
			t.Fatal(err)
		}
		var forwards []Forward
		for _, id := range []string{"tcp-one", "udp-range", "tcp-shifted"} {
			f := examples()[id][0]
			if index, err := table.add(f, 0); err != nil || int(index) != len(forwards)+1 {
				t.Fatalf("add %s: %d, %v", id, index, err)
			}
			forwards = append(forwards, f)
		}
		path := filepath.Join(t.TempDir(), "table.nft")
		if err := os.WriteFile(path, []byte(tableText(sides, services, forwards)), 0o600); err != nil {
			t.Fatal(err)
		}
		theirs.Run(t, "nft", "-f", path)
		list := func(n *world.Node) string {
			var out []byte
			err := n.Do(func() (err error) {
				out, err = exec.Command("nft", "list", "table", "inet", innerTable).Output()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			// The library writes no byte order of a concatenation, and no keys' names.
			return regexp.MustCompile(` comment "[^"]*"`).ReplaceAllString(string(out), "")
		}
		if got, want := list(ours), list(theirs); got != want {
			t.Errorf("over netlink:\n%s\nby nft:\n%s", got, want)
		}
		if err := table.ensure(); err != nil {
			t.Fatal(err)
		}
		if got, want := list(ours), list(theirs); got != want {
			t.Errorf("after a second ensure:\n%s\nby nft:\n%s", got, want)
		}
	})
}

// tableText is the whole table as nft reads it.
func tableText(sides []side, services []netip.Addr, forwards []Forward) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", innerTable)
	var marks []string
	for i := range forwards {
		marks = append(marks, fmt.Sprintf("0x%08x", markBase|i+1))
	}
	for _, set := range []string{setIn, setOut} {
		fmt.Fprintf(&b, "set %s { type mark; counter; elements = { %s }; }\n", set, strings.Join(marks, ", "))
	}
	for _, s := range sides {
		addr := map[bool]string{false: "ipv4_addr", true: "ipv6_addr"}[s.v6]
		fmt.Fprintf(&b, "set %s { type %s . inet_service; size %d; flags dynamic,timeout; timeout 1d; }\n", clientSet(s.v6), addr, maxClients)
	}
	hooks := map[*nftables.ChainHook]string{nftables.ChainHookPrerouting: "prerouting", nftables.ChainHookOutput: "output", nftables.ChainHookPostrouting: "postrouting"}
	for _, c := range jailChains(sides, services) {
		fmt.Fprintf(&b, "chain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "type %s hook %s priority %d; policy accept;\n", c.kind, hooks[c.hook], *c.prio)
		}
		rules := c.rules
		if c.name == "new" {
			for i, f := range forwards {
				rules = append(rules, f.newRules(sides, uint16(i+1))...)
			}
		}
		for _, r := range rules {
			fmt.Fprintln(&b, r.text)
		}
		fmt.Fprintln(&b, "}")
	}
	fmt.Fprintln(&b, "}")
	return b.String()
}
