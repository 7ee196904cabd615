package jail

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// An accountSource answers what the host knows about users and groups.
type accountSource struct {
	passwd, group string // texts of passwd(5) and group(5)
	// getent asks the other name services of the host, as getent(1) does: it
	// returns the entry of key in the database, or "". It may be nil.
	getent func(database, key string) string
}

// hostAccounts reads the host's files. They must be read before the masks are
// set, and the other name services asked before the host's are out of reach.
func hostAccounts() (accountSource, error) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return accountSource{}, err
	}
	group, err := os.ReadFile("/etc/group")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return accountSource{}, err
	}
	return accountSource{string(passwd), string(group), runGetent}, nil
}

// runGetent finds users of directory services (sssd, LDAP, systemd-homed),
// which a static program cannot ask itself.
func runGetent(database, key string) string {
	out, err := exec.Command("getent", database, key).Output()
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}

func (s accountSource) byName(name string) (account, error) {
	if a, ok := s.entry(name, 0); ok {
		return a, nil
	}
	return account{}, user.UnknownUserError(name)
}

// byUID returns the user with this number, which need not have a name.
func (s accountSource) byUID(text string) (account, error) {
	uid, err := parseAccountID(text)
	if err != nil {
		return account{}, err
	}
	if a, ok := s.entry(text, 2); ok {
		return a, nil
	}
	return account{uid: uid}, nil
}

// entry finds the line of passwd(5) whose field is key.
func (s accountSource) entry(key string, field int) (account, bool) {
	if key == "" || key[0] == '-' { // never an option of getent
		return account{}, false
	}
	f := accountFields(s.passwd, 7, field, key)
	if f == nil && s.getent != nil {
		f = accountFields(s.getent("passwd", key), 7, field, key)
	}
	if f == nil {
		return account{}, false
	}
	uid, err1 := parseAccountID(f[2])
	gid, err2 := parseAccountID(f[3])
	if err1 != nil || err2 != nil {
		return account{}, false
	}
	return account{uid: uid, gid: gid, groups: s.groupsOf(f[0], gid), name: f[0], home: f[5], shell: f[6]}, true
}

func (s accountSource) gid(key string) (uint32, error) {
	f := accountFields(s.group, 4, 0, key)
	if f == nil && s.getent != nil && key != "" && key[0] != '-' {
		f = accountFields(s.getent("group", key), 4, 0, key)
	}
	if f != nil {
		return parseAccountID(f[2])
	}
	if isAccountID(key) {
		return parseAccountID(key)
	}
	return 0, user.UnknownGroupError(key)
}

// groupsOf returns the groups that list the user as a member, and primary, as
// initgroups(3) does.
func (s accountSource) groupsOf(name string, primary uint32) []uint32 {
	groups := []uint32{primary}
	add := func(text string) {
		if gid, err := parseAccountID(text); err == nil && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	for line := range strings.Lines(s.group) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if name != "" && len(f) == 4 && slices.Contains(strings.Split(f[3], ","), name) {
			add(f[2])
		}
	}
	if s.getent != nil && name != "" && accountFields(s.passwd, 7, 0, name) == nil {
		if f := strings.Fields(s.getent("initgroups", name)); len(f) > 1 {
			for _, text := range f[1:] {
				add(text)
			}
		}
	}
	return groups
}

// accountFields returns the fields of the first line of text that has n of them, and
// key as the one called field. Lines of other shapes, such as those of NIS,
// are not entries.
func accountFields(text string, n, field int, key string) []string {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) == n && f[field] == key && f[0] != "" && !strings.HasPrefix(f[0], "#") {
			return f
		}
	}
	return nil
}

func isAccountID(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

// parseAccountID reads a uid or a gid. The highest value means "no change" to the
// kernel, and is nobody's.
func parseAccountID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("%q is not a user or group number", text)
	}
	return uint32(n), nil
}
