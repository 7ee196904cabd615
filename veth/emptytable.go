package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/nft"
)

// iptables-nft makes the tables and base chains that it needs, and leaves them
// when they are empty again. Those that were not there before are removed with the
// last pair, so that the host is as it was. What was absent is kept in the pair's
// alias: "4mPF" stands for the chains PREROUTING and FORWARD of IPv4's mangle, and
// with a T for the table itself.

// baseChains are the names that iptables gives to base chains, by letter.
var baseChains = map[rune]string{'P': "PREROUTING", 'I': "INPUT", 'F': "FORWARD", 'O': "OUTPUT", 'S': "POSTROUTING"}

// absentChains returns what nf_tables lacks of tables, as words for the alias.
func absentChains() (words []string, err error) {
	conn, err := nft.Open(nil)
	if err != nil {
		return nil, absentError(err)
	}
	defer conn.CloseLasting()
	for version, family := range map[string]nftables.TableFamily{"4": nftables.TableFamilyIPv4, "6": nftables.TableFamilyIPv6} {
		there, err := conn.ListTablesOfFamily(family)
		if err != nil {
			return nil, absentError(err)
		}
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, absentError(err)
		}
		for _, table := range tables {
			letters := ""
			for _, letter := range slices.Sorted(maps.Keys(baseChains)) {
				if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == table && c.Name == baseChains[letter] }) {
					letters += string(letter)
				}
			}
			if !slices.ContainsFunc(there, func(t *nftables.Table) bool { return t.Name == table }) {
				letters += "T"
			}
			if letters != "" {
				words = append(words, version+table[:1]+letters)
			}
		}
	}
	return words, nil
}

func absentError(err error) error { return fmt.Errorf("list the host's tables of rules: %w", err) }

// joinAbsent joins words about the same tables.
func joinAbsent(words []string) []string {
	letters := map[string]string{}
	for _, w := range words {
		for _, letter := range w[min(2, len(w)):] {
			if key := w[:2]; !strings.ContainsRune(letters[key], letter) {
				letters[key] += string(letter)
			}
		}
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(letters)) {
		list = append(list, key+letters[key])
	}
	return list
}

// removeEmpty removes what was absent, as far as it is empty again: base chains
// without rules that accept everything, and tables without chains. The kernel
// checks that once more, as a part of removing them: nobody's rule is ever lost.
func removeEmpty(absent []string) error {
	if len(absent) == 0 {
		return nil
	}
	conn, err := nft.Open(nil)
	if err != nil {
		return absentError(err)
	}
	defer conn.CloseLasting()
	var errs []error
	for _, word := range joinAbsent(absent) {
		family := nftables.TableFamilyIPv4
		if word[0] == '6' {
			family = nftables.TableFamilyIPv6
		}
		i := slices.IndexFunc(tables, func(name string) bool { return name[0] == word[1] })
		if i < 0 {
			continue
		}
		all, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		left := 0
		var empty []*nftables.Chain
		for _, c := range all {
			if c.Table.Name != tables[i] {
				continue
			}
			removable := wasAbsent(word, c.Name)
			if removable {
				removable, err = isEmpty(conn, c)
				errs = append(errs, err)
			}
			if removable {
				empty = append(empty, c)
			} else {
				left++
			}
		}
		whole := left == 0 && strings.HasSuffix(word, "T")
		if len(empty) == 0 && !whole {
			continue
		}
		err = deleteEmpty(family, tables[i], empty, whole)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove empty chains of table %s: %w", tables[i], err))
		}
	}
	return errors.Join(errs...)
}

func wasAbsent(word, chain string) bool {
	for _, letter := range word[2:] {
		if baseChains[letter] == chain {
			return true
		}
	}
	return false
}

func isEmpty(conn *nftables.Conn, c *nftables.Chain) (bool, error) {
	rules, err := conn.GetRules(c.Table, c)
	if errors.Is(err, unix.ENOENT) { // others have removed it since
		return false, nil
	}
	return err == nil && len(rules) == 0 && (c.Policy == nil || *c.Policy == nftables.ChainPolicyAccept), err
}

// deleteEmpty deletes chains, and their table if it is to go as well, in one
// transaction, or fails with EBUSY if there is anything in them (NLM_F_NONREC,
// which the library does not set).
func deleteEmpty(family nftables.TableFamily, table string, chains []*nftables.Chain, whole bool) error {
	acks := len(chains)
	batch := nfMessage(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	for _, c := range chains {
		batch = append(batch, nfMessage(nftMessage(unix.NFT_MSG_DELCHAIN), unix.NLM_F_ACK|nonRecursive, byte(family), 0,
			attribute(unix.NFTA_CHAIN_TABLE, table), attribute(unix.NFTA_CHAIN_NAME, c.Name))...)
	}
	if whole {
		acks++
		batch = append(batch, nfMessage(nftMessage(unix.NFT_MSG_DELTABLE), unix.NLM_F_ACK|nonRecursive, byte(family), 0,
			attribute(unix.NFTA_TABLE_NAME, table))...)
	}
	batch = append(batch, nfMessage(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("send", err)
	}
	return firstError(fd, acks)
}

const nonRecursive = 0x100 // NLM_F_NONREC

func nftMessage(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// nfMessage is a netlink message of netfilter: header, nfgenmsg, attributes.
func nfMessage(kind, flags uint16, family byte, resource uint16, attributes ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	for _, a := range attributes {
		body = append(body, a...)
	}
	head := binaryutil.NativeEndian.PutUint32(uint32(unix.NLMSG_HDRLEN + len(body)))
	head = append(head, binaryutil.NativeEndian.PutUint16(kind)...)
	head = append(head, binaryutil.NativeEndian.PutUint16(unix.NLM_F_REQUEST|flags)...)
	return append(append(head, make([]byte, 8)...), body...)
}

// attribute is a string as a netlink attribute.
func attribute(kind uint16, text string) []byte {
	data := append([]byte(text), 0)
	a := append(binaryutil.NativeEndian.PutUint16(uint16(unix.SizeofNlAttr+len(data))), binaryutil.NativeEndian.PutUint16(kind)...)
	a = append(a, data...)
	return append(a, make([]byte, -len(a)&3)...)
}

// firstError reads acknowledgements and returns the first error among them.
func firstError(fd, acks int) error {
	buf := make([]byte, 1<<16)
	for acks > 0 {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN+4; {
			size := int(binaryutil.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				break
			}
			if binaryutil.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				acks--
				if errno := int32(binaryutil.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); errno != 0 {
					return unix.Errno(-errno)
				}
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
	return nil
}
