package jail

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
)

// A Backend is an implementation of WireGuard.
type Backend string

const (
	Auto      Backend = "auto"      // the kernel's if it has one, else the embedded one
	Kernel    Backend = "kernel"    // the kernel's
	Userspace Backend = "userspace" // the embedded one (golang.zx2c4.com/wireguard)
)

// ParseBackend returns the backend called s.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case Auto, Kernel, Userspace:
		return b, nil
	}
	return "", hint.Wrap(fmt.Errorf("unknown backend %q", s), "use auto, kernel or userspace")
}

// choose settles which backend Auto means on this machine.
func (b Backend) choose() (Backend, error) {
	if b == Userspace || b == Auto && rootless() {
		return Userspace, nil
	}
	if rootless() {
		return "", hint.Wrap(errors.New("the kernel's WireGuard needs root: an ordinary user's would have its socket in the jail"),
			"leave --backend kernel out; or try again with sudo")
	}
	err := probeKernel()
	switch {
	case err == nil:
		return Kernel, nil
	case errors.Is(err, unix.EPERM):
		return "", hint.Wrap(fmt.Errorf("ask the kernel for WireGuard: %w", err),
			"this root lacks capabilities: call wgjail on the host, outside jails and containers")
	case !errors.Is(err, unix.EOPNOTSUPP):
		return "", fmt.Errorf("ask the kernel for WireGuard: %w", err)
	case b == Kernel:
		return "", hint.Wrap(errors.New("this kernel has no WireGuard"),
			"load it with: modprobe wireguard; or use --backend userspace")
	}
	return Userspace, nil
}

// probeKernel makes a WireGuard interface and removes it; asking for one is
// also what loads the module. The error is EOPNOTSUPP if there is none.
func probeKernel() error {
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("wgj-%x", unix.Gettid())}}
	if err := h.LinkAdd(probe); err != nil {
		return err
	}
	return h.LinkDel(probe)
}

// hostHandle returns a netlink handle on the namespace of the process.
func hostHandle() (*netlink.Handle, error) {
	return netlink.NewHandle(unix.NETLINK_ROUTE)
}
