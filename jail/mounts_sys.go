package jail

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountSys covers /sys, so that it shows no network devices but those of the
// calling thread's namespace. Without a /sys there is nothing to do.
//
// In a user namespace the kernel refuses a sysfs where a part of the one that is
// seen is covered, as in most containers: a new one would show it. Then devices
// are shown of no namespace.
func mountSys(log *slog.Logger) error {
	err := mountOwnSys()
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	log.Debug("/sys shows no devices in the jail", "reason", err)
	return mirrorSys(log)
}

// sysWithoutDevices lists what of /sys tells nothing of networks: processors and
// memory, by which programs choose their number of threads; cgroups and other
// file systems; settings of the kernel.
var sysWithoutDevices = []string{"devices/system", "fs", "kernel"}

// mirrorSys covers /sys with a mirror of what tells nothing of networks. All else is
// left out, as a device that comes later may be anywhere.
func mirrorSys(log *slog.Logger) error {
	m, err := newMirror("/sys", "", mirrorRule{only: sysWithoutDevices})
	if err != nil {
		return err
	}
	m.readonly = true
	return m.mount(log)
}

// mountOwnSys mounts a new sysfs: one shows the devices of the namespace it was
// mounted in. What the host has mounted below (cgroups, bpf, tracing, …) is
// mounted below the new one as well.
func mountOwnSys() error {
	const dir = "/sys"
	table, err := os.ReadFile("/proc/thread-self/mountinfo") // self is another thread, elsewhere
	if err != nil {
		return err
	}
	below, found := submounts(string(table), dir)
	if !found {
		return nil
	}
	old, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(old)
	var st unix.Statfs_t
	if err := unix.Fstatfs(old, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	// ST_RDONLY and MS_RDONLY are the same bit (statfs(2)).
	flags := uintptr(st.Flags)&unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("sysfs", dir, "sysfs", flags, ""); err != nil {
		return &os.PathError{Op: "mount a sysfs on", Path: dir, Err: err}
	}
	for _, name := range below {
		source := fmt.Sprintf("/proc/self/fd/%d/%s", old, name)
		target := filepath.Join(dir, name)
		err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
		if err != nil && err != unix.ENOENT { // below a device that is not in the jail
			return &os.PathError{Op: "mount", Path: target, Err: err}
		}
	}
	return nil
}

// submounts returns the paths, relative to dir, of the mounts directly on the
// one that is seen at dir, out of a table in the form of mountinfo (proc(5)).
// found is false if nothing is mounted at dir.
func submounts(table, dir string) (paths []string, found bool) {
	type mount struct{ id, parent, path string }
	var mounts, there []mount
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		m := mount{f[0], f[1], unescapeMount(f[4])}
		mounts = append(mounts, m)
		if m.path == dir {
			there = append(there, m)
		}
	}
	var seen string // the one that no other there covers
	for _, m := range there {
		if !slices.ContainsFunc(there, func(other mount) bool { return other.parent == m.id }) {
			seen = m.id
		}
	}
	for _, m := range mounts {
		if name, ok := strings.CutPrefix(m.path, dir+"/"); ok && m.parent == seen {
			paths = append(paths, name)
		}
	}
	return paths, seen != ""
}

// unescapeMount undoes the \ooo that stand for blanks and backslashes.
func unescapeMount(path string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(path, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(after) < 3 {
			b.WriteString(`\` + after)
			return b.String()
		}
		n, err := strconv.ParseUint(after[:3], 8, 8)
		if err != nil {
			b.WriteString(`\` + after[:3])
		} else {
			b.WriteByte(byte(n))
		}
		path = after[3:]
	}
}
