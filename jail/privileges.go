package jail

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeUser returns the steps that make the calling thread run as a, without
// capabilities and without a way to get any: all five sets are emptied (capabilities(7)) and
// no_new_privs is set, so that set-user-ID programs give nothing either. With
// keepCaps the sets stay as they are, also across the change of the user, and
// set-user-ID programs work: that is for programs that are trusted, because
// with CAP_SYS_ADMIN a program can leave the jail.
//
// Only this thread changes: it is the one that becomes the program. After an
// error it must not be used for anything else.
func becomeUser(a account, keepCaps bool) []execStep {
	if keepCaps {
		return []execStep{{"change the user and keep capabilities", func() error { return becomeUserWithCaps(a) }}}
	}
	return []execStep{
		{"empty the bounding set", dropBoundingSet},
		{"change the user", func() error { return setIDs(a) }},
		{"drop the capabilities", func() error { return setCaps([2]unix.CapUserData{}) }}, // the ambient set goes with them
		{"set no_new_privs", setNoNewPrivs},
	}
}

func setNoNewPrivs() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", os.NewSyscallError("prctl", err))
	}
	return nil
}

// dropBoundingSet leaves nothing that execve(2) could give to root.
func dropBoundingSet() error {
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel knows no more of them
		}
		if err == nil && has == 1 {
			err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, os.NewSyscallError("prctl", err))
		}
	}
}

// setIDs changes the user of the calling thread. The functions of package
// syscall would change all threads.
func setIDs(a account) error {
	if !a.change {
		return nil
	}
	var groups *uint32
	if len(a.groups) > 0 {
		groups = &a.groups[0]
	}
	if _, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(a.groups)), uintptr(unsafe.Pointer(groups)), 0); errno != 0 {
		return fmt.Errorf("set the supplementary groups: %w", os.NewSyscallError("setgroups", errno))
	}
	gid, uid := uintptr(a.gid), uintptr(a.uid)
	if _, _, errno := unix.RawSyscall(sysSetresgid, gid, gid, gid); errno != 0 {
		return fmt.Errorf("become group %d: %w", gid, os.NewSyscallError("setresgid", errno))
	}
	if _, _, errno := unix.RawSyscall(sysSetresuid, uid, uid, uid); errno != 0 {
		return fmt.Errorf("become user %d: %w", uid, os.NewSyscallError("setresuid", errno))
	}
	return nil
}

func capHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: this thread
}

func setCaps(sets [2]unix.CapUserData) error {
	if err := unix.Capset(capHeader(), &sets[0]); err != nil {
		return fmt.Errorf("set the capabilities: %w", os.NewSyscallError("capset", err))
	}
	return nil
}

// becomeUserWithCaps changes the user and keeps the capabilities. execve(2)
// takes them from a user who is not root unless they are in the ambient set.
func becomeUserWithCaps(a account) error {
	if !a.change || a.uid == 0 {
		return setIDs(a)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil { // execve clears it
		return fmt.Errorf("keep the capabilities: %w", os.NewSyscallError("prctl", err))
	}
	if err := setIDs(a); err != nil {
		return err
	}
	var sets [2]unix.CapUserData
	if err := unix.Capget(capHeader(), &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", os.NewSyscallError("capget", err))
	}
	for i := range sets {
		sets[i].Effective, sets[i].Inheritable = sets[i].Permitted, sets[i].Permitted
	}
	if err := setCaps(sets); err != nil {
		return err
	}
	for c := range uintptr(64) {
		if sets[c/32].Permitted>>(c%32)&1 == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, os.NewSyscallError("prctl", err))
		}
	}
	return nil
}
