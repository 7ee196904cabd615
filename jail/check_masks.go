package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"
)

// probeMasks looks with the eyes of each program at what exec hides and
// replaces.
func (c *checker) probeMasks(context.Context) outcome {
	links := map[string]bool{}
	err := withJail(c.ns, func(h *netlink.Handle) error {
		list, err := whole(h.LinkList)
		for _, l := range list {
			links[l.Attrs().Name] = true
		}
		return err
	})
	if err != nil {
		return unknown(err)
	}
	return c.settle("end it, and start it with wgjail exec",
		"programs find the jail's resolv.conf, and no daemon of the host that resolves names", func(pid int) (string, error) {
			root := fmt.Sprintf("/proc/%d/root", pid)
			if _, err := os.Stat(root); err != nil {
				return "", err
			}
			for _, look := range []func(string) (string, error){c.seesNames, seesDaemons, func(root string) (string, error) { return seesLinks(root, links) }} {
				if trouble, err := look(root); err != nil || trouble != "" {
					return trouble, err
				}
			}
			return "", nil
		})
}

// seesNames says whether a program with this root asks others for names.
func (c *checker) seesNames(root string) (string, error) {
	conf, err := os.ReadFile(filepath.Join(root, "etc/resolv.conf"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if !bytes.Equal(conf, resolvConf(c.DNS, c.Search)) {
		return "reads another resolv.conf than the jail's", nil
	}
	nsswitch, err := os.ReadFile(filepath.Join(root, "etc/nsswitch.conf"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // files and dns, then (nsswitch.conf(5))
	}
	for line := range strings.Lines(string(nsswitch)) {
		field, services, _ := strings.Cut(strings.TrimSpace(line), ":")
		if strings.EqualFold(strings.TrimSpace(field), "hosts") && strings.Join(strings.Fields(services), " ") != "files dns" {
			return "resolves names with: " + strings.Join(strings.Fields(services), " "), nil
		}
	}
	return "", err
}

// seesDaemons says whether a program with this root reaches daemons of the host
// that answer from outside, or will once they run.
func seesDaemons(root string) (string, error) {
	var host, inside unix.Stat_t
	if err := unix.Stat("/run", &host); err != nil {
		return "", err
	}
	err := unix.Stat(filepath.Join(root, "run"), &inside)
	if err == nil && host.Dev == inside.Dev && host.Ino == inside.Ino {
		return "sees the host's /run, where daemons listen that resolve names outside", nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, hidden := range runHidden {
		path := filepath.Join(root, "run", hidden)
		if err := unix.Lstat(path, &inside); err == nil {
			return "sees /run/" + hidden, nil
		}
	}
	return "", nil
}

// seesLinks says whether /sys shows a program other interfaces than the jail's.
func seesLinks(root string, links map[string]bool) (string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "sys/class/net"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 && !links[e.Name()] {
			return "sees the host's interface " + e.Name() + " in /sys", nil
		}
	}
	return "", err
}
