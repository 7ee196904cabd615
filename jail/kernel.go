package jail

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// makeKernelLink makes the interface where its UDP socket is to stay, on the
// host, configures it there, and only then moves it into the jail. So it is
// never in the jail without its keys, and the socket is never in the jail.
func makeKernelLink(ns *netnsx.Namespace, name string, mtu int, dev wgtypes.Config) error {
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	birth := temporaryLink(name)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = birth, mtu
	link := &netlink.Wireguard{LinkAttrs: attrs}
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("make interface %s: %w", birth, err)
	}
	if err := configureOnHost(birth, dev); err != nil {
		return errors.Join(fmt.Errorf("configure WireGuard: %w", err), h.LinkDel(link))
	}
	if err := h.LinkSetNsFd(link, ns.Fd()); err != nil {
		return errors.Join(fmt.Errorf("move the interface into the jail: %w", err), h.LinkDel(link))
	}
	return withJail(ns, func(h *netlink.Handle) error {
		inside, err := h.LinkByName(birth)
		if err != nil {
			return err
		}
		return h.LinkSetName(inside, name)
	})
}

func configureOnHost(link string, dev wgtypes.Config) error {
	c, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.ConfigureDevice(link, dev)
}

// removeBirthLink removes what an interrupted makeKernelLink left on the host. The
// name was free before (birthLinkFree); an interface of another kind is not ours.
func removeBirthLink(name string) error {
	return withBirthLink(name, func(h *netlink.Handle, link netlink.Link) error {
		if link.Type() != "wireguard" {
			return nil
		}
		return h.LinkDel(link)
	})
}

// birthLinkFree reports whether nobody has the name that the kernel's interface is
// made under.
func birthLinkFree(name string) error {
	return withBirthLink(name, func(_ *netlink.Handle, link netlink.Link) error {
		return hint.Wrap(fmt.Errorf("interface %s: a %s that wgjail did not make", link.Attrs().Name, link.Type()),
			"give it another name with: ip link set %s name NAME", link.Attrs().Name)
	})
}

// withBirthLink calls fn with the host's interface of that name, if there is one.
func withBirthLink(name string, fn func(*netlink.Handle, netlink.Link) error) error {
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(temporaryLink(name))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fn(h, link)
}

// isNotFound reports whether err says that there is no such link.
func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// withJail calls fn with a netlink handle on the jail's namespace.
func withJail(ns *netnsx.Namespace, fn func(*netlink.Handle) error) error {
	h, err := jailHandle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// jailHandle opens netlink in the jail's namespace. It works from any thread.
func jailHandle(ns *netnsx.Namespace) (h *netlink.Handle, err error) {
	err = ns.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, err
}

// whole repeats a netlink dump that another change has interrupted: the kernel
// then says that the list may lack something (NLM_F_DUMP_INTR).
func whole[T any](dump func() (T, error)) (T, error) {
	for {
		list, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
}
