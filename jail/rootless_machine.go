package jail

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
)

// probeTUN looks at the device even where there is no namespace to use it in.
func (c *rootlessChecker) probeTUN() outcome {
	err, tried := c.trial.tried[tryDevice]
	if !tried {
		err = openDevice()
	}
	if err != nil {
		return noDevice(err)
	}
	if v := c.part(tryTUN, "it makes an interface in a network of one's own", func(err error) outcome { return failed("", "%v", err) })(); v.result != NotApplicable {
		return v
	}
	return passed("it can be opened")
}

const giveDevice = "a container needs --device /dev/net/tun"

func noDevice(err error) outcome {
	info, statErr := os.Stat(tunPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return failed("as root: modprobe tun; "+giveDevice, "there is no %s", tunPath)
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return failed("as root: modprobe tun", "the kernel has no driver for it, or has not loaded it: %v", err)
	case errors.Is(err, unix.EPERM):
		return failed(giveDevice+" (its device rules refuse it)", "%v", err)
	case statErr == nil && info.Mode()&0o006 != 0o006:
		return failed("sudo chmod 0666 "+tunPath+", as udev does (in a container, on its host): nobody gets rights over the host's network by it",
			"its mode is %04o: not for this user", info.Mode().Perm())
	}
	return failed(giveDevice, "%v", err)
}

// probeFolder looks whether there is a place for what is known of the user's jails.
func probeFolder() outcome {
	dir, err := userDir()
	if err != nil {
		return failed(hint.Of(err), "%v", err)
	}
	lock, err := filelock.Folder(dir)
	if err != nil {
		return unknown(err)
	}
	defer lock.Release() // removes an empty folder
	probe, err := os.MkdirTemp(dir, ".check")
	if err != nil {
		return failed("make room there, or remount it writable", "%v", err)
	}
	if err := os.Remove(probe); err != nil {
		return unknown(err)
	}
	if base := os.Getenv("XDG_RUNTIME_DIR"); filepath.Dir(dir) != base {
		return passed("%s is this user's alone; XDG_RUNTIME_DIR names no such folder", dir)
	}
	return passed("%s is this user's alone", dir)
}

// probePorts tells which ports a user can publish. It does not fail: others do.
func probePorts() outcome {
	const name = "net/ipv4/ip_unprivileged_port_start"
	first, err := strconv.Atoi(kernelValue(name))
	switch {
	case err != nil:
		return passed("those from 1024 on can be published")
	case first == 0:
		return passed("all can be published")
	}
	return passed("those from %d on can be published; lower ones need root, or sysctl net.ipv4.ip_unprivileged_port_start=0", first)
}
