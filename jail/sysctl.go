package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctlDir shows the network settings of the calling thread's namespace.
const sysctlDir = "/proc/sys/net"

// A setting is a file below sysctlDir and what the jail needs in it.
type setting struct{ path, value string }

// settings are set explicitly, because a new network namespace takes some of
// them from the host (ip-sysctl: devconf_inherit_init_net) and some from the
// kernel's defaults. "all" covers what is there, "default" what comes.
var settings = []setting{
	// Nothing is routed through a jail, and nothing steers its routes.
	{"ipv4/conf/all/forwarding", "0"},
	{"ipv4/conf/default/forwarding", "0"},
	{"ipv4/conf/all/rp_filter", "1"},
	{"ipv4/conf/default/rp_filter", "1"},
	{"ipv4/conf/all/accept_redirects", "0"},
	{"ipv4/conf/default/accept_redirects", "0"},
	{"ipv4/conf/all/send_redirects", "0"},
	{"ipv4/conf/default/send_redirects", "0"},
	{"ipv4/conf/all/accept_source_route", "0"},
	{"ipv4/conf/default/accept_source_route", "0"},
	{"ipv4/conf/all/arp_ignore", "2"},
	{"ipv4/conf/default/arp_ignore", "2"},
	{"ipv4/conf/all/route_localnet", "0"},
	{"ipv4/conf/default/route_localnet", "0"},
	{"ipv6/conf/all/forwarding", "0"}, // sets default's too
	{"ipv6/conf/all/accept_ra", "0"},
	{"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/all/accept_redirects", "0"},
	{"ipv6/conf/default/accept_redirects", "0"},
	{"ipv6/conf/all/accept_source_route", "0"},
	{"ipv6/conf/default/accept_source_route", "0"},
	// No interface gets an address that the configuration does not name.
	{"ipv6/conf/default/addr_gen_mode", "1"}, // none
	// Loopback speaks IPv6 even where the host's default is off: services
	// that listen on ::1 are reached by forwards.
	{"ipv6/conf/lo/disable_ipv6", "0"},
	// Answers of services to clients that they see under their own addresses
	// keep the mark that leads them back: see forward_client.go.
	{"ipv4/tcp_fwmark_accept", "1"},
	{"ipv4/fwmark_reflect", "1"},
	{"ipv6/fwmark_reflect", "1"},
	// Programs inside have no capabilities. As in a container, they may still
	// ping and listen on any port of the jail.
	{"ipv4/ping_group_range", pingGroups()},
	{"ipv4/ip_unprivileged_port_start", "0"},
}

// pingGroups are the groups whose programs may ping: all that there are.
func pingGroups() string {
	if rootless() {
		return fmt.Sprintf("%d %[1]d", os.Getegid())
	}
	return "0 2147483647"
}

// applySettings writes the settings of the calling thread's namespace.
func applySettings(list []setting) error {
	for _, s := range list {
		if err := s.apply(); err != nil {
			return fmt.Errorf("set sysctl %s: %w", s.name(), err)
		}
	}
	return nil
}

func (s setting) name() string { return "net." + strings.ReplaceAll(s.path, "/", ".") }

func (s setting) file() string { return filepath.Join(sysctlDir, s.path) }

// apply writes the value. A kernel without IPv6 lacks the whole ipv6 folder,
// and with it what the setting is there to prevent.
func (s setting) apply() error {
	err := os.WriteFile(s.file(), []byte(s.value), 0)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.path, "ipv6/") && !haveIPv6() {
		return nil
	}
	return err
}

// haveIPv6 reports whether the kernel has IPv6 at all.
func haveIPv6() bool { return !missing(filepath.Join(sysctlDir, "ipv6")) }

// checkSettings reports the first setting of the calling thread's namespace
// that has another value.
func checkSettings(list []setting) error {
	for _, s := range list {
		got, err := os.ReadFile(s.file())
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.path, "ipv6/") {
			continue
		}
		if err != nil {
			return err
		}
		if strings.Join(strings.Fields(string(got)), " ") != s.value {
			return fmt.Errorf("sysctl %s is %s, not %s", s.name(), strings.TrimSpace(string(got)), s.value)
		}
	}
	return nil
}
