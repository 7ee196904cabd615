package world

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An ordinary user has what a login gives and nothing more, and can make a
// tunnel interface in namespaces of its own; the machine's device is untouched.
func TestUser(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		device := func() string {
			var st unix.Stat_t
			err := unix.Stat("/dev/net/tun", &st)
			return fmt.Sprintf("%o of %d, %d on %d: %v", st.Mode, st.Uid, st.Ino, st.Dev, err)
		}
		machines := device()
		ann, bob := w.User(t, "ann"), w.User(t, "bob")
		do := func(u *User, script string) string {
			t.Helper()
			var out bytes.Buffer
			cmd := u.Command("sh", "-ec", script)
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := w.Host.Do(cmd.Start); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("as %s: %s: %v: %s", u.Name, script, err, &out)
			}
			return out.String()
		}
		os.Setenv("SUDO_UID", "0") // the world ends with this process
		os.Setenv("XDG_DATA_HOME", "/root")
		for _, u := range []*User{ann, bob} {
			if got, want := do(u, `echo $(id -un) $(id -u) $(id -gn) $(id -g) $(id -G) $USER $HOME $(pwd) $XDG_RUNTIME_DIR $SUDO_UID$XDG_DATA_HOME`),
				fmt.Sprintln(u.Name, u.UID, u.Name, u.GID, u.GID, u.Name, u.Home, u.Home, u.Runtime); got != want {
				t.Errorf("it is %q, want %q", got, want)
			}
			if got := do(u, "grep -c -E '^Cap(Inh|Prm|Eff|Amb):\t0+$' /proc/self/status"); got != "4\n" {
				t.Errorf("%s has capabilities", u.Name)
			}
			do(u, `touch file; rm file; test "$(stat -c %a%u $XDG_RUNTIME_DIR)" = 700`+fmt.Sprint(u.UID))
			if got := do(u, "unshare -Urn sh -c 'ip tuntap add t0 mode tun; ip -o link show t0'"); !strings.Contains(got, "t0: ") {
				t.Errorf("%s makes no tunnel interface: %s", u.Name, got)
			}
		}
		do(ann, "! ls "+bob.Home+" && ! ls "+bob.Runtime+" && ! ls /root && ! ip tuntap add t0 mode tun")
		if err := unix.Unmount("/dev/net/tun", 0); err != nil {
			t.Fatal(err)
		}
		if got := device(); got != machines {
			t.Errorf("the machine's device was %s and is %s", machines, got)
		}
	})
}
