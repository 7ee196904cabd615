package world

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Snapshot describes the world as sorted lines of text, for Diff: the network of
// the host, the processes, the mounts, and the files in /run and the nearer ones
// in /etc. It leaves out what changes by itself.
func (w *World) Snapshot(t testing.TB) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(w.Host.Snapshot(t)), "\n")
	for _, look := range []func() ([]string, error){mounts, processes, files} {
		more, err := look()
		if err != nil {
			t.Fatalf("snapshot: %v", err)
		}
		lines = append(lines, more...)
	}
	return sorted(lines)
}

// Snapshot describes the node's network as sorted lines of text: links,
// addresses, routes, rules, packet filters and sysctls.
func (n *Node) Snapshot(t testing.TB) string {
	t.Helper()
	var lines []string
	for _, look := range []func() ([]string, error){n.links, n.routes, n.filters, n.sysctls} {
		more, err := look()
		if err != nil {
			t.Fatalf("snapshot of %s: %v", n.Name, err)
		}
		lines = append(lines, more...)
	}
	return sorted(lines)
}

func sorted(lines []string) string {
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// Diff returns the lines that are in one snapshot only, with "-" or "+" before
// them. It is empty if nothing has changed.
func Diff(before, after string) string {
	return only("-", before, after) + only("+", after, before)
}

// only returns the lines of a that are not in b, as often as that.
func only(sign, a, b string) string {
	count := map[string]int{}
	for line := range strings.Lines(b) {
		count[line]++
	}
	var out strings.Builder
	for line := range strings.Lines(a) {
		if count[line]--; count[line] < 0 {
			out.WriteString(sign + line)
		}
	}
	return out.String()
}

// links returns links and addresses. Operational state follows the other end of
// a link, and index and counters say nothing.
func (n *Node) links() ([]string, error) {
	links, err := dump(n.Netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var lines []string
	for _, l := range links {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %s: %s, mtu %d, %v, address %v, master %d, alias %q, group %d",
			a.Name, l.Type(), a.MTU, a.Flags&^net.FlagRunning, a.HardwareAddr, a.MasterIndex, a.Alias, a.Group))
		addrs, err := dump(func() ([]netlink.Addr, error) { return n.Netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			lines = append(lines, fmt.Sprintf("address %s: %v, peer %v, scope %d, flags %#x",
				a.Name, addr.IPNet, addr.Peer, addr.Scope, addr.Flags&^unix.IFA_F_TENTATIVE))
		}
	}
	return lines, nil
}

// routes returns routes of all tables, and rules.
func (n *Node) routes() ([]string, error) {
	var lines []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		routes, err := dump(func() ([]netlink.Route, error) {
			return n.Netlink.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route: type %d %v", r.Type, r))
		}
		rules, err := dump(func() ([]netlink.Rule, error) { return n.Netlink.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule: family %d %v", family, r))
		}
	}
	return lines, nil
}

// dump lists again until nothing changes meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

// filters returns what the packet filters' own tools print, where there are any.
func (n *Node) filters() ([]string, error) {
	var lines []string
	for _, cmd := range []string{
		"nft list ruleset", "iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save",
	} {
		words := strings.Fields(cmd)
		if _, err := exec.LookPath(words[0]); err != nil {
			continue
		}
		c := exec.Command(words[0], words[1:]...)
		var out, errs bytes.Buffer
		c.Stdout, c.Stderr = &out, &errs
		if err := n.startCmd(c); err != nil {
			return nil, err
		}
		if err := c.Wait(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", cmd, err, &errs)
		}
		lines = append(lines, filterLines(words[0], out.String())...)
	}
	return lines, nil
}

// counters matches the packet counts that the tools print.
var counters = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+`)

// filterLines numbers the lines, because their order matters, from the nearest
// heading. Comments carry the time, and counters count.
func filterLines(tool, text string) []string {
	var lines []string
	heading, i := "", 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(counters.ReplaceAllString(line, "N"), "\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "*") || strings.HasPrefix(line, "table "):
			heading, i = line, 0
		}
		lines = append(lines, fmt.Sprintf("filter %s: %s %03d %s", tool, heading, i, line))
		i++
	}
	return lines
}

// sysctls returns what is below /proc/sys/net.
func (n *Node) sysctls() ([]string, error) {
	var lines []string
	err := n.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) { // a link that has gone meanwhile
				return nil
			}
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_count") {
				return err
			}
			value, err := os.ReadFile(path)
			if err != nil { // write-only, or not set
				return nil
			}
			lines = append(lines, fmt.Sprintf("sysctl %s = %s", path, bytes.TrimSpace(value)))
			return nil
		})
	})
	return lines, err
}
