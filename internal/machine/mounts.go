package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prepare makes the mounts and the network of the machine.
func prepare(resolv string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"proc", func() error { return unix.Mount("proc", "/proc", "proc", nosuidetc, "") }},
		{"etc", func() error { return privateEtc(resolv) }},
		{"run", freshRun},
		{"sys", freshSys},
		{"tun", tunDevice},
		{"lo", NewHost},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("prepare %s: %w", s.what, err)
		}
	}
	return nil
}

const nosuidetc = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// freshRun mounts an empty /run, with the directories that programs expect.
func freshRun() error {
	if err := uncover("/run"); err != nil {
		return err
	}
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for dir, mode := range map[string]os.FileMode{"/run/lock": 0o777, TmpDir: 0o777, "/run/user": 0o755} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if mode == 0o777 {
			mode |= os.ModeSticky
		}
		if err := os.Chmod(dir, mode); err != nil {
			return err
		}
	}
	return nil
}

// freshSys mounts the sysfs of the new network namespace, and what is mounted
// at /sys/fs/cgroup back into it.
func freshSys() error {
	const cgroup, aside = "/sys/fs/cgroup", "/run/cgroup"
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	defer os.Remove(aside)
	moved := unix.Mount(cgroup, aside, "", unix.MS_MOVE, "") == nil
	if err := unix.Mount("sysfs", "/sys", "sysfs", nosuidetc, ""); err != nil {
		return err
	}
	if !moved { // nothing is mounted there
		return nil
	}
	return unix.Mount(aside, cgroup, "", unix.MS_MOVE, "")
}

// tunDevice makes /dev/net/tun if there is none, without changing the real
// /dev beyond an empty directory.
func tunDevice() error {
	const path = "/dev/net/tun"
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("net", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755"); err != nil {
		return err
	}
	return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200)))
}

// NewHost makes the calling thread's network namespace, a new one, a host: lo is
// up, and it does not forward, whatever the real machine does.
func NewHost() error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(nl.LinkSetUp(lo), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
}

// uncover takes away what is mounted below dir, which is about to be hidden:
// programs that look a path up in the mount table would find it there.
func uncover(dir string) error {
	paths, err := MountsBelow(dir)
	for _, path := range slices.Backward(paths) {
		unix.Unmount(path, unix.MNT_DETACH) // hidden already, or of a user namespace above
	}
	return err
}

// MountsBelow returns the mount points below dir, as listed in
// proc_pid_mountinfo(5).
func MountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			paths = append(paths, f[4])
		}
	}
	return paths, nil
}
