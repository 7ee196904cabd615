package veth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/hint"
)

// What is the same for all jails. None of it may ever change: a later version
// must find what an earlier one made.
const (
	linkPrefix  = "wgjv"    // of the host's ends; a rule matches them all
	chainPrefix = "WGJAIL-" // of the host's chains

	// In a jail there is only one pair, so its names need not differ.
	innerLink  = "host0"
	innerTable = "wgjail-veth" // of nf_tables

	markBase  = 0x57470000 // of forwarded connections; the lower half tells which forward
	markMask  = 0xffff0000
	maxIndex  = 0xffff
	routeTab  = 22343 // 0x5747: the routing table of marked packets
	rulePref  = 100   // before the table main
	replyPref = 40000 // after the tables main and default
)

// names are what the kernel shows of one jail's pair on the host.
type names struct {
	jail   string
	link   string // 14 characters; an interface may have 15
	chains string // 18 characters; a chain may have 28
	mark   string // with which the comments of its rules begin, as iptables-save(8) shows them
}

// namesOf is the one place where names of the kernel's objects come from.
func namesOf(jail string) names {
	sum := sha256.Sum256([]byte("wgjail veth\x00" + jail))
	h := hex.EncodeToString(sum[:5])
	return names{jail, linkPrefix + h, chainPrefix + h + "-", `--comment "wgjail ` + jail}
}

// chain returns the name of one of the jail's chains on the host.
func (n names) chain(suffix string) string { return n.chains + suffix }

// address is the hardware address of an end of the pair, the host's or the jail's:
// local and unicast (IEEE 802). The links are made with it, so that one that is not
// yet wgjail's by its alias is known again, and nobody gives them another one later,
// as systemd-udevd does with those that the kernel has chosen (systemd.link(5)).
func (n names) address(host bool) net.HardwareAddr {
	sum := sha256.Sum256([]byte("wgjail veth address\x00" + n.jail))
	last := byte(2)
	if host {
		last = 1
	}
	return append(net.HardwareAddr{0x02}, sum[0], sum[1], sum[2], sum[3], last)
}

// owns returns an error unless a link on the host is the pair's.
func (n names) owns(link netlink.Link) error {
	a := link.Attrs()
	ours := bytes.Equal(a.HardwareAddr, n.address(true)) || strings.HasPrefix(a.Alias+" ", n.alias()+" ")
	if link.Type() == "veth" && ours {
		return nil
	}
	return hint.Wrap(fmt.Errorf("link %s: a %s that wgjail did not make", a.Name, link.Type()),
		"give it another name with: ip link set %s name NAME; or use relay mode, which needs no link", a.Name)
}

// alias begins the host end's alias (see ip-link(8)), which tells people what
// it is, and wgjail that it is its own.
func (n names) alias() string { return "wgjail " + n.jail }

// comment is what rules carry, to be told apart. Without an ID it is that of
// the jump into a chain.
func (n names) comment(id string) string {
	return strings.TrimSpace("wgjail " + n.jail + " " + id)
}

// checkID reports whether id can be part of a comment. The space keeps a
// forward from being taken for one of the fixed rules, whose IDs have one.
func checkID(id string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-"
	if id == "" || len(id) > 128 || strings.Trim(id, letters) != "" {
		return fmt.Errorf("forward %q: not an ID", id)
	}
	return nil
}

// HostLink returns the name of the host's end of a jail's pair.
func HostLink(jail string) string { return namesOf(jail).link }

// JailLink returns the name of the jail's end of its pair.
func JailLink() string { return innerLink }

// RouteTable returns the number of the one routing table, besides the kernel's
// own, in which routes in a jail lead to its end of the pair.
func RouteTable() int { return routeTab }
