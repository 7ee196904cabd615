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
	return c.settle("end it, and start it with wgjail exec, or attach its service with wgjail systemd attach",
		"programs find the jail's resolv.conf, and no daemon of the host that resolves names", func(pid int) (string, error) {
			root := rootOf(pid)
			if _, err := os.Stat(root); err != nil {
				return "", err
			}
			if trouble, err := c.seesNames(root); err != nil || trouble != "" {
				return trouble, err
			}
			return seesDaemons(root)
		})
}

// rootOf is a process's view of files.
func rootOf(pid int) string { return fmt.Sprintf("/proc/%d/root", pid) }

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
	shared, err := sameInode("/run", filepath.Join(root, "run"))
	if err != nil {
		return "", err
	}
	for _, hidden := range runHidden {
		path := filepath.Join(root, "run", hidden)
		entries, err := os.ReadDir(path)
		same, sameErr := sameInode(filepath.Join("/run", hidden), path)
		switch {
		case errors.Is(err, os.ErrNotExist) && shared:
			return "sees the host's /run, where daemons listen that resolve names outside", nil
		case errors.Is(err, os.ErrNotExist):
		case err != nil && !errors.Is(err, unix.ENOTDIR):
			return "", err
		case sameErr != nil:
			return "", sameErr
		case same || err != nil || len(entries) > 0:
			return "sees /run/" + hidden, nil
		}
	}
	return "", nil
}

// sameInode reports whether two paths lead to one file. What is not there is
// nowhere else.
func sameInode(a, b string) (bool, error) {
	var one, other unix.Stat_t
	for path, st := range map[string]*unix.Stat_t{a: &one, b: &other} {
		if err := unix.Stat(path, st); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return false, nil
			}
			return false, &os.PathError{Op: "stat", Path: path, Err: err}
		}
	}
	return one.Dev == other.Dev && one.Ino == other.Ino, nil
}

// strangeLinks warns of programs to which /sys shows other interfaces than the
// jail's. It tells them about the host, and leads nowhere.
func (c *checker) strangeLinks() []string {
	if c.ns == nil {
		return nil
	}
	links := map[string]bool{}
	err := withJail(c.ns, func(h *netlink.Handle) error {
		list, err := whole(h.LinkList)
		for _, l := range list {
			links[l.Attrs().Name] = true
		}
		return err
	})
	if err != nil {
		return []string{fmt.Sprintf("the jail's interfaces cannot be listed: %v", err)}
	}
	for _, p := range c.all() {
		entries, err := os.ReadDir(filepath.Join(rootOf(p.PID), "sys/class/net"))
		if err != nil {
			continue // it has ended, or sees no /sys
		}
		for _, e := range entries {
			if e.Type()&os.ModeSymlink != 0 && !links[e.Name()] {
				return []string{fmt.Sprintf("%s sees the host's interfaces in /sys, %s for one: wgjail exec hides them", p.title(), e.Name())}
			}
		}
	}
	return nil
}
