package jail

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"golang.org/x/sys/unix"
)

// A RootlessReport is all that CheckRootless found.
type RootlessReport struct {
	User   string    `json:"user"`
	OK     bool      `json:"ok"` // no probe has failed
	Probes []Finding `json:"probes"`
}

// CheckRootless looks whether the calling user, who is not root, can make jails
// on this machine. It tries what a jail needs, in a user namespace that is gone
// afterwards; what the kernel says of itself only explains what fails. A
// probe that fails is not an error.
func CheckRootless() (*RootlessReport, error) {
	if err := outside(); err != nil {
		return nil, err
	}
	c := &rootlessChecker{trial: runTrial()}
	c.blame()
	r := &RootlessReport{User: whoami(), OK: true, Probes: []Finding{}}
	for _, p := range []struct {
		id, what string
		run      func() outcome
	}{
		{causeKernel, "user namespaces", c.cause(causeKernel)},
		{causeLimit, "their limit", c.cause(causeLimit)},
		{causeSwitch, "Debian's switch", c.cause(causeSwitch)},
		{causeAppArmor, "AppArmor", c.cause(causeAppArmor)},
		{causeSeccomp, "seccomp", c.cause(causeSeccomp)},
		{causeOther, "a namespace of its own", c.cause(causeOther)},
		{tryMounts, "mounts", c.part(tryMounts, "a tmpfs and bind mounts are allowed in it", mountsRefused)},
		{trySys, "/sys and /proc", c.part(trySys, "its own network can be shown in /sys", c.sysRefused)},
		{tryNetwork, "a network of its own", c.part(tryNetwork, "a network namespace can be made in it", networkRefused)},
		{trySettings, "sysctls", c.part(trySettings, "those of its own network can be set", settingsRefused)},
		{tryTUN, tunPath, c.probeTUN},
		{tryRules, "nf_tables", c.part(tryRules, "its own network takes the rules for name servers", rulesRefused)},
		{"folder", "a folder for its state", probeFolder},
		{"ports", "ports on the host", probePorts},
	} {
		v := p.run()
		r.OK = r.OK && v.result != Failed
		r.Probes = append(r.Probes, Finding{ID: p.id, Probe: p.what, Result: v.result, Why: v.why, Do: v.do})
	}
	return r, nil
}

// whoami names the calling user, as well as can be.
func whoami() string {
	uid := fmt.Sprint(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// A rootlessChecker is one call of CheckRootless.
type rootlessChecker struct {
	trial   *trial
	culprit string             // which cause has kept the trial from its namespace; "": none
	causes  map[string]outcome // by cause
}

func (c *rootlessChecker) cause(id string) func() outcome {
	return func() outcome { return c.causes[id] }
}

// part is the probe for a part of the trial; explain says what a failure means.
func (c *rootlessChecker) part(id, works string, explain func(error) outcome) func() outcome {
	return func() outcome {
		err, tried := c.trial.tried[id]
		switch {
		case !tried && c.trial.began == nil && id != tryNetwork:
			return skipped("there is no network to try it in")
		case !tried:
			return skipped("there is no user namespace to try it in")
		case id == trySys && errors.Is(c.trial.tried[tryMounts], os.ErrPermission):
			return skipped("no mounts are allowed: see mounts")
		case err == nil:
			return passed("%s", works)
		case c.culprit == causeAppArmor && errors.Is(err, os.ErrPermission):
			return skipped("AppArmor takes the rights away")
		}
		return explain(err)
	}
}

func mountsRefused(err error) outcome {
	if !errors.Is(err, os.ErrPermission) {
		return failed("", "%v", err)
	}
	return failed("a container needs --security-opt seccomp=unconfined --security-opt apparmor=unconfined (docker, podman); on a host a security module forbids it", "%v", err)
}

func (c *rootlessChecker) sysRefused(err error) outcome {
	spare, tried := c.trial.tried[trySysSpare]
	if tried && spare == nil {
		return passed("something is mounted over a part of /sys: jails see one without devices")
	}
	return failed("", "%v", errors.Join(err, spare))
}

func networkRefused(err error) outcome {
	if errors.Is(err, unix.ENOSPC) {
		return failed(sysctlLine("user.max_net_namespaces", "15000"), "user.max_net_namespaces is %s, and no more can be made", kernelValue("user/max_net_namespaces"))
	}
	return failed("", "%v", err)
}

func settingsRefused(err error) outcome {
	if errors.Is(err, unix.EROFS) {
		return failed("a container needs --security-opt unmask=ALL (podman) or --security-opt systempaths=unconfined (docker)", "%v", err)
	}
	return failed("", "%v", err)
}

func rulesRefused(err error) outcome {
	return failed("as root: modprobe -a nf_tables nft_ct nft_reject_inet; in a container, on its host", "%v", err)
}

// kernelValue reads a sysctl, "unknown" if there is none.
func kernelValue(path string) string {
	text, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// sysctlLine is a command for a shell that sets a sysctl, also after a boot.
func sysctlLine(name, value string) string {
	return fmt.Sprintf("echo %s=%s | sudo tee /etc/sysctl.d/90-wgjail.conf && sudo sysctl -p /etc/sysctl.d/90-wgjail.conf", name, value)
}
