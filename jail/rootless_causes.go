package jail

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/userns"
)

// What can keep a user from a user namespace with rights in it.
const (
	causeKernel   = "kernel"
	causeLimit    = "limit"
	causeSwitch   = "unprivileged-userns-clone"
	causeAppArmor = "apparmor"
	causeSeccomp  = "seccomp"
	causeOther    = "user-namespace"
)

// The switches that Debian and Ubuntu have added to the kernel.
const (
	debianSwitch = "kernel/unprivileged_userns_clone"
	ubuntuSwitch = "kernel/apparmor_restrict_unprivileged_userns"
)

// blame settles what each cause has to say, and which one, if any, has kept the
// trial from its namespace.
func (c *rootlessChecker) blame() {
	c.causes = map[string]outcome{
		causeKernel:   passed("the kernel has them"),
		causeLimit:    passed("user.max_user_namespaces is %s", kernelValue("user/max_user_namespaces")),
		causeSwitch:   passed("kernel.unprivileged_userns_clone is on"),
		causeAppArmor: passed("kernel.apparmor_restrict_unprivileged_userns is off"),
		causeSeccomp:  passed("it does not refuse what makes namespaces"),
		causeOther:    passed("it can be made, and gives rights over what is in it"),
	}
	if kernelValue(debianSwitch) == "unknown" {
		c.causes[causeSwitch] = skipped("this kernel has none")
	}
	switch kernelValue(ubuntuSwitch) {
	case "unknown":
		c.causes[causeAppArmor] = skipped("this kernel has none that restricts user namespaces")
	case "1":
		c.causes[causeAppArmor] = passed("it restricts user namespaces, but lets this program make them")
	}
	if !seccompFilter() {
		c.causes[causeSeccomp] = skipped("no filter applies to this process")
	}
	if c.culprit = c.trial.culprit(); c.culprit == "" {
		return
	}
	c.causes[c.culprit] = c.trial.accuse(c.culprit)
	if c.culprit != causeOther {
		c.causes[causeOther] = skipped("it cannot be made: see %s", c.culprit)
	}
}

// culprit tells by which error the kernel gave what has kept the trial from a
// namespace with rights: "" if it has one.
func (t *trial) culprit() string {
	err := t.began
	restricted := kernelValue(ubuntuSwitch) == "1"
	if err == nil {
		// Ubuntu's way: a namespace comes about, and no right in it.
		if restricted && errors.Is(t.tried[tryMounts], os.ErrPermission) && errors.Is(t.tried[tryNetwork], os.ErrPermission) {
			return causeAppArmor
		}
		return ""
	}
	if _, missing := os.Lstat("/proc/self/ns/user"); errors.Is(missing, os.ErrNotExist) {
		return causeKernel
	}
	var start *userns.StartError
	switch {
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS):
		return causeLimit
	case !errors.As(err, &start) || !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.ENOSYS):
		return causeOther
	case start.Step == userns.StepMakeUser && kernelValue(debianSwitch) == "0":
		return causeSwitch
	case restricted:
		return causeAppArmor
	case seccompFilter():
		return causeSeccomp
	}
	return causeOther
}

// accuse says what a cause has done, and what to do about it.
func (t *trial) accuse(cause string) outcome {
	switch cause {
	case causeKernel:
		return failed("take a kernel with CONFIG_USER_NS=y, or use sudo", "this kernel has none")
	case causeLimit:
		max := kernelValue("user/max_user_namespaces")
		if max == "0" {
			return failed(sysctlLine("user.max_user_namespaces", "15000"), "user.max_user_namespaces is 0")
		}
		return failed(sysctlLine("user.max_user_namespaces", "15000"), "user.max_user_namespaces is %s, and no more can be made", max)
	case causeSwitch:
		return failed(sysctlLine("kernel.unprivileged_userns_clone", "1"), "kernel.unprivileged_userns_clone is 0")
	case causeAppArmor:
		return failed(appArmorLine(), "kernel.apparmor_restrict_unprivileged_userns is 1: it gives this program no rights in its namespaces")
	case causeSeccomp:
		return failed("a container needs --security-opt seccomp=unconfined (docker, podman); a systemd unit, RestrictNamespaces=no and no SystemCallFilter=~@mount", "a filter refuses it: %v", t.began)
	}
	return failed("in a chroot there is no user namespace, and SELinux can refuse it; sudo needs none", "%v", t.began)
}

// seccompFilter reports whether one applies to this process (proc_pid_status(5)).
func seccompFilter() bool {
	text, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(text), "\nSeccomp:\t2\n")
}

// appArmorLine is a command for a shell that gives this program a profile with
// the right to make user namespaces, as Ubuntu's release notes (24.04) have it.
func appArmorLine() string {
	self, err := os.Executable()
	if err != nil {
		self = "/usr/bin/wgjail"
	}
	return fmt.Sprintf(`printf 'abi <abi/4.0>,\nprofile wgjail "%%s" flags=(unconfined) { userns, }\n' %s | sudo tee /etc/apparmor.d/wgjail && sudo apparmor_parser -r /etc/apparmor.d/wgjail`, self)
}
