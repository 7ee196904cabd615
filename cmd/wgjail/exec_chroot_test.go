package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// chroot makes a plain directory that has what the host's root has, but for what
// is left out.
func chroot(t *testing.T, without string) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		from, to := "/"+e.Name(), filepath.Join(dir, e.Name())
		switch target, err := os.Readlink(from); {
		case err == nil:
			err = os.Symlink(target, to)
			if err != nil {
				t.Fatal(err)
			}
		case e.IsDir():
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			if from == without {
				continue
			}
			if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
		}
	}
	return dir
}

// Where "/" is a directory and no mount, a program sees what it is to see too,
// and nothing that is mounted for it reaches the host.
func TestExecInAChroot(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		dir := chroot(t, "")
		if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil { // as systemd has it
			t.Fatal(err)
		}
		before, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		const script = `cd /usr; exec wgjail exec vpn -- sh -c 'pwd; cat /etc/resolv.conf; ls /sys/class/net; ls -d /run/wgjail; exit 7'`
		r := l.runCmd(t, exec.Command("chroot", dir, "sh", "-c", script))
		if r.status != 7 || !strings.HasPrefix(r.out, "/usr\n") || !strings.Contains(r.out, "nameserver 10.64.0.1") || !strings.Contains(r.out, "lo\nvpn\n") || !strings.Contains(r.err, "/run/wgjail") {
			t.Errorf("in a chroot: %+v", r)
		}
		if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(after) != string(before) {
			t.Errorf("the host's mounts were\n%s\nand are\n%s", before, after)
		}
		r = l.runCmd(t, exec.Command("chroot", chroot(t, "/proc"), "wgjail", "exec", "vpn", "--", "true"))
		if r.status != 1 || !strings.Contains(r.err, "hint: there is no /proc here: mount -t proc proc /proc") {
			t.Errorf("in a chroot without /proc: %+v", r)
		}
	})
}
