package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// A forward needs capabilities to bind low ports and to enter the namespace.
// When that is done it goes on without: what comes from its clients meets a
// process that can do little.

// errCapabilities is the error of a forward that cannot get rid of capabilities.
var errCapabilities = errors.New("drop capabilities")

// shed takes what is not needed any more from the process.
func (f *Forwarder) shed() error {
	keep, inherit := f.opts.Into.watchCapabilities(), capabilities(0)
	if f.opts.Mode == ModeVeth {
		// It repairs rules: those in the jail from within it, and those of the
		// host with iptables, which as iptables-legacy uses a raw socket.
		inherit = capability(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW)
	}
	if f.client != nil {
		keep |= capability(unix.CAP_NET_ADMIN) // for IP_TRANSPARENT, and to remove the routes for it
	}
	if err := shedCapabilities(keep|inherit, inherit); err != nil {
		return fmt.Errorf("%w: %w", errCapabilities, err)
	}
	return nil
}

// A capabilities is a set of them, by their numbers in capabilities(7).
type capabilities uint64

func capability(numbers ...int) (c capabilities) {
	for _, n := range numbers {
		c |= 1 << n
	}
	return c
}

// shedCapabilities leaves the process, in all threads that it has and will have,
// at most the capabilities in keep, and no way to get others. Programs that it
// starts have at most those in inherit. The sets belong to threads
// (capabilities(7)), hence the calls for all of them at once.
func shedCapabilities(keep, inherit capabilities) error {
	header := capHeader()
	var sets [2]unix.CapUserData
	if err := unix.Capget(header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if sets[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if inherit&(1<<c) != 0 {
				continue
			}
			if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || has == 0 {
				continue // or not known to this kernel
			}
			if err := allThreads("prctl", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c); err != nil {
				return err
			}
		}
	}
	for i := range sets {
		left := sets[i].Permitted & uint32(keep>>(32*i))
		sets[i] = unix.CapUserData{Permitted: left, Effective: left}
	}
	if err := allThreads("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(&sets[0]))); err != nil {
		return err
	}
	return allThreads("prctl", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
}

// allThreads makes a system call in every thread. The syscall package can do
// that as well, but not in a binary that was built with cgo.
//
//go:uintptrescapes
func allThreads(name string, call, a1, a2 uintptr) error {
	if _, _, e := psx.Syscall6(call, a1, a2, 0, 0, 0, 0); e != 0 {
		return os.NewSyscallError(name, e)
	}
	return nil
}

// process opens the process of which the place's file, such as
// /proc/PID/ns/net, is one, or returns -1. To look at the file again takes
// rights over the process, and this does not.
func (p Place) process() pidfd {
	rest, ok := strings.CutPrefix(p.Path, "/proc/")
	number, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(number)
	if !ok || err != nil {
		return -1
	}
	f, err := openPidfd(pid)
	if err != nil {
		return -1
	}
	return f
}

// watchCapabilities are those that it takes to see whether the place is still
// there. What wgjail makes belongs to root; other files may lie in folders that
// only their owner may enter.
func (p Place) watchCapabilities() capabilities {
	path, err := filepath.EvalSymlinks(p.Path)
	if p.Jail != "" || err != nil || strings.HasPrefix(path, "/proc/") {
		return 0
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Geteuid() && st.Mode&0o001 == 0 {
			return capability(unix.CAP_DAC_READ_SEARCH)
		}
		if dir == "/" {
			return 0
		}
	}
}
