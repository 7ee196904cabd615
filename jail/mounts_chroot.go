package jail

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// keepMountsInChroot does what keepMounts does where "/" is a directory that
// chroot(2) has made the root, and not a mount: the mount above it, which would
// hand on what is mounted here, cannot be named from there. It goes to the root of
// the mount namespace, the calling thread's own, keeps its mounts, makes a mount
// of the directory and goes back. It needs Linux 5.2, and /proc in the directory.
func keepMountsInChroot() error {
	cwd := workingDirectory()
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(root)
	if err := netnsx.LeaveChroot(); err != nil {
		return err
	}
	if err := slaveMounts(); err != nil {
		return err
	}
	tree, err := unix.OpenTree(root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", root, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	if err := unix.Fchdir(tree); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	if cwd != "" {
		return os.NewSyscallError("chdir", unix.Chdir(cwd))
	}
	return nil
}
