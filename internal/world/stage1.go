package world

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stage1 is process 1 of the world. When it returns, the kernel kills the rest.
func stage1() (code int) {
	lifeline := os.NewFile(lifelineFd, "lifeline")
	closeOnExec()
	go dieWith(lifeline)
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "world:", err)
		return 1
	}
	os.Setenv(stageVar, "2")
	os.Setenv("TMPDIR", tmpDir)
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, reportFd},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "world: start stage 2:", err)
		return 1
	}
	unix.Close(reportFd)
	return reap(pid)
}

// dieWith ends the world when the process that made it has died.
func dieWith(lifeline *os.File) {
	io.Copy(io.Discard, lifeline)
	os.Exit(1)
}

// reap waits for every child, as process 1 must, until pid has ended. It returns
// pid's exit status.
func reap(pid int) int {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR) || err == nil && got != pid:
			continue
		case err != nil:
			fmt.Fprintln(os.Stderr, "world: wait:", err)
			return 1
		case status.Signaled():
			fmt.Fprintln(os.Stderr, "world: the test was killed by signal:", status.Signal())
			return 128 + int(status.Signal())
		}
		return status.ExitStatus()
	}
}

// tmpDir is the world's TMPDIR.
const tmpDir = "/run/tmp"

// prepare makes the mounts and the network of the world.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"proc", func() error { return unix.Mount("proc", "/proc", "proc", nosuidetc, "") }},
		{"etc", privateEtc},
		{"run", freshRun},
		{"sys", freshSys},
		{"tun", tunDevice},
		{"lo", loUp},
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
	for dir, mode := range map[string]os.FileMode{"/run/lock": 0o777, tmpDir: 0o777, "/run/user": 0o755} {
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

// tunDevice makes /dev/net/tun if there is none, without changing the machine's
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

func loUp() error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	return errors.Join(setLoUp(nl), noForwarding())
}

// noForwarding makes the calling thread's namespace a host and not a router: a
// new namespace copies what the machine is.
func noForwarding() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
}

func setLoUp(nl *netlink.Handle) error {
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return nl.LinkSetUp(lo)
}

// uncover takes away what is mounted below dir, which is about to be hidden:
// programs that look a path up in the mount table would find it there.
func uncover(dir string) error {
	paths, err := mountsBelow(dir)
	for _, path := range slices.Backward(paths) {
		unix.Unmount(path, unix.MNT_DETACH) // hidden already, or of a user namespace above
	}
	return err
}

// mountsBelow returns the mount points below dir, as listed in
// proc_pid_mountinfo(5).
func mountsBelow(dir string) ([]string, error) {
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
