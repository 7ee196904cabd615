package jail

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoLandlock means that the kernel has no Landlock, or one that cannot do
// this without taking other things away.
var errNoLandlock = errors.New("the kernel's Landlock is missing or too old")

// shutIn keeps the calling thread, and what it becomes and starts, from
// looking into processes outside: ptrace(2), pidfd_getfd(2) and the files of
// /proc/PID that show another process's root, files and memory, through which
// everything that is masked could be reached by a program of the same user.
// From version 6 of Landlock's interface on it cannot signal them either. See
// landlock(7). The thread must have no_new_privs or CAP_SYS_ADMIN.
func shutIn() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return errNoLandlock
	}
	if errno != 0 {
		return fmt.Errorf("ask for Landlock: %w", os.NewSyscallError("landlock_create_ruleset", errno))
	}
	return shutInWith(int(version))
}

// shutInWith uses no more than what this version has. A domain needs something
// to handle. Before there were scopes, that is the one access that does not
// restrict when it is allowed below the root: moving files between
// directories. Version 1 forbids that to every domain.
func shutInWith(version int) error {
	if version < 2 {
		return errNoLandlock
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_REFER}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if version >= 6 {
		attr = unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_SIGNAL}
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("make a Landlock domain: %w", os.NewSyscallError("landlock_create_ruleset", errno))
	}
	defer unix.Close(int(fd))
	if attr.Handled_access_fs != 0 {
		if err := allowMoves(int(fd)); err != nil {
			return err
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("enter the Landlock domain: %w", os.NewSyscallError("landlock_restrict_self", errno))
	}
	return nil
}

func allowMoves(ruleset int) error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(root)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_REFER, Parent_fd: int32(root)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset),
		unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("add a Landlock rule: %w", os.NewSyscallError("landlock_add_rule", errno))
	}
	return nil
}
