package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// all returns the programs inside and, first, the visitor.
func (c *checker) all() []Process {
	if c.visitor == nil {
		return c.programs
	}
	return append([]Process{c.visitor.process()}, c.programs...)
}

// each looks at every program inside and returns the first trouble, with who
// has it. One that ends meanwhile has none.
func (c *checker) each(look func(pid int) (trouble string, err error)) (who, trouble string, err error) {
	for _, p := range c.all() {
		trouble, err := look(p.PID)
		if isGone(err) {
			continue
		}
		if err != nil || trouble != "" {
			return p.title(), trouble, err
		}
	}
	return "", "", nil
}

// isGone reports whether err says that a process has ended.
func isGone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}

func (p Process) title() string {
	if p.Name == "" {
		return "a new program"
	}
	return fmt.Sprintf("program %d (%s)", p.PID, p.Name)
}

// counted says which were looked at.
func (c *checker) counted() string {
	if n := len(c.programs); n > 0 {
		return fmt.Sprintf("a new one, and %d inside", n)
	}
	return "a new one; none is inside"
}

// settle is the outcome of each.
func (c *checker) settle(do, whole string, look func(pid int) (string, error)) outcome {
	if c.refused != nil {
		return failed(c.again(), "no program can be started: %v", c.refused)
	}
	who, trouble, err := c.each(look)
	switch {
	case err != nil:
		return failed("", "%s cannot be looked at: %v", who, err)
	case trouble != "":
		return failed(do, "%s %s", who, trouble)
	}
	return passed("%s (%s)", whole, c.counted())
}

// probeProgramSockets wants every socket of the programs to be of the jail: one
// that was made outside stays outside (L27 of the threats).
func (c *checker) probeProgramSockets(context.Context) outcome {
	return c.settle("end it, and start it with wgjail exec, which passes no open files on",
		"no program has a socket that was made outside", func(pid int) (string, error) { return strangeSocket(pid, c.ns.ID()) })
}

// strangeSocket returns what is wrong with a socket of the process, if one is of
// another network namespace. Unix sockets do not count: they belong to files.
func strangeSocket(pid int, id netnsx.ID) (string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	for _, f := range fds {
		number, _ := strconv.Atoi(f.Name())
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil || !strings.HasPrefix(to, "socket:") {
			continue // closed meanwhile, or something else
		}
		strange, err := socketElsewhere(process, number, id)
		if errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return "", err
		}
		if strange {
			return fmt.Sprintf("has a socket that was made outside (descriptor %d)", number), nil
		}
	}
	return "", nil
}

// siocgskns is SIOCGSKNS of <linux/sockios.h>: it opens a socket's namespace.
const siocgskns = 0x894c

// socketElsewhere takes a copy of the process's descriptor (pidfd_getfd(2), since
// Linux 5.6) and asks it for its namespace.
func socketElsewhere(process, number int, id netnsx.ID) (bool, error) {
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return false, os.NewSyscallError("pidfd_getfd", err)
	}
	defer unix.Close(fd)
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain == unix.AF_UNIX {
		return false, err
	}
	ns, err := unix.IoctlRetInt(fd, siocgskns)
	if err != nil {
		return false, os.NewSyscallError("ioctl SIOCGSKNS", err)
	}
	defer unix.Close(ns)
	return !isNamespace(fmt.Sprintf("/proc/self/fd/%d", ns), id), nil
}

// undoing are the capabilities with which a program can undo the jail: leave
// it, change its routes and rules, or take over a process or the kernel.
var undoing = map[int]string{
	unix.CAP_BPF: "CAP_BPF", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
	unix.CAP_SYS_MODULE: "CAP_SYS_MODULE", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE", unix.CAP_SYS_RAWIO: "CAP_SYS_RAWIO",
}

// probeCapabilities wants no program to be able to undo the jail.
func (c *checker) probeCapabilities(context.Context) outcome {
	return c.settle("end it, and start it with wgjail exec, without --keep-caps; a service needs NoNewPrivileges=yes and a User=",
		"no program has a capability to undo the jail with, or a way to get one", powers)
}

// powers says with which capability the process could undo the jail. Those that
// it has in a user namespace of its own count there only.
func powers(pid int) (string, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	theirs, err := os.Readlink(dir + "/ns/user")
	if err != nil {
		return "", err
	}
	if own, err := os.Readlink("/proc/self/ns/user"); err != nil || theirs != own {
		return "", err
	}
	fields, err := statusFields(pid)
	if err != nil {
		return "", err
	}
	has, err := capabilityBits(fields, "CapPrm", "CapInh", "CapAmb")
	if err != nil {
		return "", err
	}
	if name := firstCapability(has); name != "" {
		return "has " + name, nil
	}
	if fields["NoNewPrivs"] == "1" {
		return "", nil
	}
	may, err := capabilityBits(fields, "CapBnd")
	if name := firstCapability(may); err == nil && name != "" {
		return "can get " + name + " through a set-user-ID program", nil
	}
	return "", err
}

func capabilityBits(fields map[string]string, sets ...string) (bits uint64, err error) {
	for _, set := range sets {
		v, err := strconv.ParseUint(fields[set], 16, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", set, err)
		}
		bits |= v
	}
	return bits, nil
}

// firstCapability names one of those that undo the jail, or "".
func firstCapability(bits uint64) string {
	var names []string
	for bit, name := range undoing {
		if bits>>bit&1 == 1 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if slices.Contains(names, "CAP_SYS_ADMIN") {
		return "CAP_SYS_ADMIN"
	}
	return strings.Join(names, ", ")
}
