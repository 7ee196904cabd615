package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
)

// refusals are what other kernels, containers and security modules refuse, by
// the value of refuseVariable. No kernel refuses all of this here for real.
var refusals = map[string][]fault.Refusal{
	"user namespaces, as a kernel without":  {{Call: unix.SYS_UNSHARE, Has: unix.CLONE_NEWUSER, Errno: unix.EINVAL}, {Call: unix.SYS_CLONE, Has: unix.CLONE_NEWUSER, Errno: unix.EINVAL}},
	"user namespaces, as a container":       {{Call: unix.SYS_UNSHARE, Has: unix.CLONE_NEWUSER, Errno: unix.EPERM}, {Call: unix.SYS_CLONE, Has: unix.CLONE_NEWUSER, Errno: unix.EPERM}},
	"user namespaces, as a security module": {{Call: unix.SYS_UNSHARE, Has: unix.CLONE_NEWUSER, Errno: unix.EACCES}, {Call: unix.SYS_CLONE, Has: unix.CLONE_NEWUSER, Errno: unix.EACCES}},
	"rights":                                {{Call: unix.SYS_UNSHARE, Has: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Errno: unix.EPERM}, {Call: unix.SYS_MOUNT, Errno: unix.EPERM}},
	"mounts":                                {{Call: unix.SYS_MOUNT, Errno: unix.EACCES}},
	"nf_tables":                             {{Call: unix.SYS_SOCKET, Arg: 2, Is: unix.NETLINK_NETFILTER, Errno: unix.EPROTONOSUPPORT}},
}

// nested runs what comes after in a user namespace of the user's, in which it may
// set the limits of namespaces; $0 is the user and $1 its group.
const nested = "exec setpriv --reuid=$0 --regid=$1 --clear-groups unshare --user --map-user=$0 --map-group=$1 --keep-caps sh -ec '"

// What is missing for jails without root is named, each thing on a machine that
// lacks it and nothing else.
func TestCheckRootlessFindsWhatIsMissing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		install(t)
		u := w.User(t, "ann")
		sysctl := func(name, value string) string {
			return "mount -t tmpfs none /proc/sys/kernel; echo " + value + " >/proc/sys/kernel/" + name + "; "
		}
		// The check runs as the user, at the end of what breaks the machine for it:
		// a script in a mount namespace of its own.
		const check = `exec setpriv --reuid=$0 --regid=$1 --clear-groups wgjail check --rootless --json`
		for _, tt := range []struct {
			name, script string
			env          []string
			id           string // of the one probe that fails
			why, do      string
		}{
			{"nothing", check, nil, "", "", ""},
			{"kernel", "mount -t tmpfs none /proc/$$/ns; " + check, []string{refuseVariable + "=user namespaces, as a kernel without"},
				"kernel", "this kernel has none", "CONFIG_USER_NS=y"},
			{"limit of none", nested + "echo 0 >/proc/sys/user/max_user_namespaces; exec wgjail check --rootless --json'", nil,
				"limit", "user.max_user_namespaces is 0", "echo user.max_user_namespaces=15000 | sudo tee"},
			{"limit reached", nested + "echo 1 >/proc/sys/user/max_user_namespaces; mkfifo begun; unshare --user sh -c \"echo >begun; exec sleep 1000\" >/dev/null 2>&1 & read line <begun; rm begun; exec wgjail check --rootless --json'", nil,
				"limit", "user.max_user_namespaces is 1, and no more can be made", "sysctl -p"},
			{"Debian's switch", sysctl("unprivileged_userns_clone", "0") + check, []string{refuseVariable + "=user namespaces, as a container"},
				"unprivileged-userns-clone", "kernel.unprivileged_userns_clone is 0", "echo kernel.unprivileged_userns_clone=1 | sudo tee"},
			{"AppArmor, no namespace", sysctl("apparmor_restrict_unprivileged_userns", "1") + check, []string{refuseVariable + "=user namespaces, as a security module"},
				"apparmor", "kernel.apparmor_restrict_unprivileged_userns is 1", "apparmor_parser -r /etc/apparmor.d/wgjail"},
			{"AppArmor, no rights", sysctl("apparmor_restrict_unprivileged_userns", "1") + check, []string{refuseVariable + "=rights"},
				"apparmor", "gives this program no rights", `flags=(unconfined) { userns, }`},
			{"seccomp", check, []string{refuseVariable + "=user namespaces, as a container"},
				"seccomp", "a filter refuses it: make a user namespace: operation not permitted", "--security-opt seccomp=unconfined"},
			{"chroot", "mkdir /run/new; mount --rbind / /run/new; exec chroot /run/new sh -c 'cd; " + check + "' $0 $1", nil,
				"user-namespace", "make a user namespace: operation not permitted", "in a chroot there is no user namespace"},
			{"mounts", check, []string{refuseVariable + "=mounts"},
				"mounts", "make private /: permission denied", "--security-opt apparmor=unconfined"},
			{"masks in /sys", "mount -t tmpfs none /sys/kernel; " + check, nil, "", "", ""},
			{"limit of networks", nested + "echo 0 >/proc/sys/user/max_net_namespaces; exec wgjail check --rootless --json'", nil,
				"network", "user.max_net_namespaces is 0, and no more can be made", "echo user.max_net_namespaces=15000 | sudo tee"},
			{"read-only sysctls", "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; " + check, nil,
				"sysctls", "read-only file system", "unmask=ALL"},
			{"no device", "mount -t tmpfs none /dev/net; " + check, nil,
				"tun", "there is no /dev/net/tun", "modprobe tun"},
			{"a device for root", "mount -t tmpfs none /dev/net; mknod /dev/net/tun c 10 200; chmod 600 /dev/net/tun; " + check, nil,
				"tun", "its mode is 0600", "chmod 0666 /dev/net/tun"},
			{"a device without a driver", "mount -t tmpfs none /dev/net; mknod /dev/net/tun c 10 254; chmod 666 /dev/net/tun; " + check, nil,
				"tun", "the kernel has no driver for it", "modprobe tun"},
			{"no device files", "mount -t tmpfs -o nodev none /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun; " + check, nil,
				"tun", "permission denied", "--device /dev/net/tun"},
			{"nf_tables", check, []string{refuseVariable + "=nf_tables"},
				"rules", "protocol not supported", "modprobe -a nf_tables"},
			{"another's folder", "unset XDG_RUNTIME_DIR; mount -t tmpfs none /run/user; mount -t tmpfs -o mode=1777 none /tmp; mkdir -m 700 /tmp/wgjail-$0; " + check, nil,
				"folder", "/tmp/wgjail-" + fmt.Sprint(u.UID) + ": not a folder that only this user may enter", "remove it, or set XDG_RUNTIME_DIR"},
			{"a read-only folder", "mount --bind $XDG_RUNTIME_DIR $XDG_RUNTIME_DIR; mount -o remount,bind,ro $XDG_RUNTIME_DIR; " + check, nil,
				"folder", "read-only file system", "set XDG_RUNTIME_DIR to a folder of yours"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				cmd := u.Command("unshare", "--mount", "sh", "-ec", tt.script, fmt.Sprint(u.UID), fmt.Sprint(u.GID))
				cmd.SysProcAttr = nil // root breaks it
				cmd.Env = append(cmd.Env, tt.env...)
				r := checkedRootless(t, w, cmd)
				var want []string
				if tt.id != "" {
					want = []string{tt.id}
				}
				if got := r.failed(); !slices.Equal(got, want) {
					t.Fatalf("failed %q, want %q: %+v", got, want, r.Probes)
				}
				if tt.id == "" {
					return
				}
				if f := r.find(t, tt.id); !strings.Contains(f.Why, tt.why) || !strings.Contains(f.Do, tt.do) {
					t.Errorf("it says %+v, want %q and %q", f, tt.why, tt.do)
				}
			})
		}
	})
}

// checkedRootless runs a command that ends in check --rootless --json on the host.
func checkedRootless(t *testing.T, w *world.World, cmd *exec.Cmd) checkReport {
	t.Helper()
	r, err := runIn(w.Host, cmd)
	if err != nil {
		t.Fatal(err)
	}
	var report checkReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	if want := map[bool]int{true: 0, false: 1}[report.OK]; r.status != want || r.err != "" || report.OK != (len(report.failed()) == 0) {
		t.Errorf("exit status %d, ok %v, failed %q: %s", r.status, report.OK, report.failed(), r.err)
	}
	return report
}

// The table is as that of a jail, it tells of the invoking user if root asks
// through sudo, and nothing is left behind.
func TestCheckRootlessTable(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		install(t)
		u := w.User(t, "ann")
		before := w.Snapshot(t)
		run := func(cmd *exec.Cmd) result {
			t.Helper()
			r, err := runIn(w.Host, cmd)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		const begin, end = "jails without root, made by ann\n  passed ", "\nwgjail works without root here: all 11 probes passed; 3 not applicable\n"
		r := run(u.Command("wgjail", "check", "--rootless"))
		if r.status != 0 || r.err != "" || !strings.HasPrefix(r.out, begin) || !strings.HasSuffix(r.out, end) || !strings.Contains(r.out, u.Runtime+"/wgjail is this user's alone\n") {
			t.Errorf("it ended with %+v", r)
		}
		sudo := exec.Command("wgjail", "check", "--rootless")
		sudo.Env = append(sudo.Environ(), fmt.Sprint("SUDO_UID=", u.UID), fmt.Sprint("SUDO_GID=", u.GID), "SUDO_USER=ann", "XDG_RUNTIME_DIR=/run/user/0")
		if got := run(sudo); got != r {
			t.Errorf("with sudo it ended with %+v, without with %+v", got, r)
		}
		if err := w.Host.Sysctl("net/ipv4/ip_unprivileged_port_start", "80"); err != nil {
			t.Fatal(err)
		}
		relative := u.Command("wgjail", "check", "--rootless", "--json")
		relative.Env = append(relative.Env, "XDG_RUNTIME_DIR=run")
		report := checkedRootless(t, w, relative)
		for id, why := range map[string]string{
			"ports":  "those from 80 on can be published; lower ones need root",
			"folder": u.Runtime + "/wgjail is this user's alone; XDG_RUNTIME_DIR names no such folder",
		} {
			if f := report.find(t, id); f.Result != "passed" || !strings.Contains(f.Why, why) {
				t.Errorf("%+v, want %q", f, why)
			}
		}
		if err := w.Host.Sysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
			t.Fatal(err)
		}
		sudo = exec.Command("wgjail", "check", "--rootless", "--json")
		sudo.Env = append(sudo.Environ(), "DOAS_USER=ann", refuseVariable+"=user namespaces, as a container")
		report = checkedRootless(t, w, sudo)
		if f := report.find(t, "ports"); f.Why != "all can be published" || !slices.Equal(report.failed(), []string{"seccomp"}) {
			t.Errorf("failed %q, %+v", report.failed(), f)
		}
		for _, tt := range []struct {
			args, env []string
			status    int
			says      string
		}{
			{nil, nil, 1, "hint: call it as the user who is to run wgjail, or as that user through sudo"},
			{nil, []string{"SUDO_UID=x"}, 1, "SUDO_UID"},
			{[]string{"vpn"}, nil, 2, "hint: leave the name out"},
			{[]string{"--timeout", "1s"}, nil, 2, "--rootless and --timeout exclude each other"},
			{[]string{"--egress", "http://192.0.2.1"}, nil, 2, "--rootless and --egress exclude each other"},
		} {
			if r := run(withEnv(tt.env, append([]string{"check", "--rootless"}, tt.args...)...)); r.status != tt.status || r.out != "" || !strings.Contains(r.err, tt.says) {
				t.Errorf("with %q and %q it ended with %+v", tt.args, tt.env, r)
			}
		}
		if err := w.Host.Sysctl("net/ipv4/ip_unprivileged_port_start", "1024"); err != nil {
			t.Fatal(err)
		}
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("the machine is not as before:\n%s", diff)
		}
	})
}
