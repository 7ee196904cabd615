package world

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/machine"
)

// mounts returns the mount table without the numbers of mounts and groups.
func mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		for i := 6; i < len(f) && f[i] != "-"; i++ {
			f[i], _, _ = strings.Cut(f[i], ":")
		}
		lines = append(lines, "mount "+strings.Join(f[3:], " "))
	}
	return lines, nil
}

// processes returns the command lines of the world's processes, except those
// that have ended and are not yet waited for.
func processes() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, dir := range dirs {
		if args, err := os.ReadFile(dir + "/cmdline"); err == nil && len(args) > 0 {
			lines = append(lines, "process "+string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '})))
		}
	}
	return lines, nil
}

// inEtc are the directories in /etc that a jail or its user may have to do with.
var inEtc = []string{"/etc/iproute2", "/etc/netns", "/etc/sysctl.d", "/etc/systemd", "/etc/wireguard"}

// files returns the files in /run, in /etc itself and in some directories there,
// with a hash of what is in them.
func files() ([]string, error) {
	var lines []string
	for _, top := range []string{"/run", "/etc"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, os.ErrNotExist):
				return nil
			case err != nil:
				return err
			case path == machine.TmpDir || path == "/run/mount": // umount(8) leaves that
				return fs.SkipDir
			case path == "/run/xtables.lock": // and iptables that
				return nil
			}
			line, err := describe(path)
			if err != nil {
				return err
			}
			lines = append(lines, line)
			if d.IsDir() && filepath.Dir(path) == "/etc" && !slices.Contains(inEtc, path) {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// describe returns a line about a file.
func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("file %s: %v %d:%d", path, info.Mode(), st.Uid, st.Gid)
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		return line + " -> " + target, err
	case 0:
		text, err := os.ReadFile(path)
		if errors.Is(err, unix.EINVAL) { // a namespace
			return fmt.Sprintf("%s namespace %d", line, st.Ino), nil
		}
		return fmt.Sprintf("%s %d bytes %x", line, len(text), sha256.Sum256(text)), err
	}
	return line, nil
}
