package jail

import (
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// An account is the user that a program in the jail runs as.
type account struct {
	uid, gid uint32
	groups   []uint32 // supplementary
	name     string   // "": the uid has none
	home     string
	shell    string
	change   bool // false: the ids stay those of the caller, groups included
}

// invoker finds the user who stands behind root: the one that called sudo(8)
// or run0(1), doas(1), or pkexec(1). ok is false if nobody does.
func (s accountSource) invoker(getenv func(string) string) (a account, ok bool, err error) {
	if uid := getenv("SUDO_UID"); uid != "" {
		if a, err = s.sudoer(uid, getenv); err != nil {
			return account{}, false, fmt.Errorf("SUDO_UID: %w", err)
		}
		return a, true, nil
	}
	if name := getenv("DOAS_USER"); name != "" {
		if a, err = s.byName(name); err != nil {
			return account{}, false, fmt.Errorf("DOAS_USER: %w", err)
		}
		return a, true, nil
	}
	if uid := getenv("PKEXEC_UID"); uid != "" {
		if a, err = s.byUID(uid); err == nil && a.name == "" {
			err = user.UnknownUserIdError(a.uid)
		}
		if err != nil {
			return account{}, false, fmt.Errorf("PKEXEC_UID: %w", err)
		}
		return a, true, nil
	}
	return account{}, false, nil
}

// sudoer completes from sudo's variables what the host's files do not say.
func (s accountSource) sudoer(uid string, getenv func(string) string) (account, error) {
	a, err := s.byUID(uid)
	if err != nil {
		return account{}, err
	}
	if gid := getenv("SUDO_GID"); gid != "" {
		if a.gid, err = parseAccountID(gid); err != nil {
			return account{}, fmt.Errorf("SUDO_GID: %w", err)
		}
	} else if a.name == "" {
		return account{}, fmt.Errorf("nothing says what the group of user %d is", a.uid)
	}
	if a.name == "" {
		a.name, a.home = getenv("SUDO_USER"), getenv("SUDO_HOME")
	}
	a.groups = s.groupsOf(a.name, a.gid)
	return a, nil
}

// forWorld is a without a change of the user: in a world there is only one.
func (a account) forWorld(spec string) (account, error) {
	if a.change && (int(a.uid) != os.Geteuid() || strings.Contains(spec, ":") && int(a.gid) != os.Getegid()) {
		return a, hint.Wrap(fmt.Errorf("user %q: only root can run programs as other users", spec), "leave --user out; or try again with sudo")
	}
	a.change = false
	return a, nil
}

// find returns the user that spec names: NAME, UID, UID:GID or NAME:GROUP, and
// any mixture of them. With a group, there are no supplementary ones, as with
// docker's --user. "" is the invoking user if euid is root and there is one,
// else whoever the caller is already.
func (s accountSource) find(spec string, euid int, getenv func(string) string) (account, error) {
	if spec == "" {
		if euid == 0 {
			a, ok, err := s.invoker(getenv)
			if err != nil {
				return account{}, hint.Wrap(fmt.Errorf("find the invoking user: %w", err), "say who the program is to run as, with --user")
			}
			if ok && a.uid != 0 {
				a.change = true
				return a, nil
			}
		}
		return account{uid: uint32(euid)}, nil
	}
	userPart, groupPart, withGroup := strings.Cut(spec, ":")
	a, err := s.byName(userPart)
	if err != nil && isAccountID(userPart) {
		a, err = s.byUID(userPart)
	}
	if err != nil {
		return account{}, badUser(spec, err)
	}
	if !withGroup && a.name == "" { // docker and systemd take such a user's group to be root's
		return account{}, hint.Wrap(fmt.Errorf("user %q: nothing says what its group is", spec), "say the group too: %d:GID", a.uid)
	}
	if withGroup {
		if a.gid, err = s.gid(groupPart); err != nil {
			return account{}, badUser(spec, err)
		}
		a.groups = nil
	}
	a.change = true
	return a, nil
}

func badUser(spec string, err error) error {
	return hint.Wrap(fmt.Errorf("user %q: %w", spec, err), "a user is NAME, UID, NAME:GROUP or UID:GID")
}
