package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Spaces are a user namespace and a mount namespace that belongs to it. They
// exist while they are open.
type Spaces struct {
	User  *os.File
	Mount *os.File // nil if there is none any more
}

// Of opens the namespaces of a process.
func Of(pid int) (*Spaces, error) {
	user, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return nil, err
	}
	mount, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		user.Close()
		return nil, err
	}
	return &Spaces{user, mount}, nil
}

// Close lets go of the namespaces.
func (s *Spaces) Close() {
	s.User.Close()
	s.dropMount()
}

func (s *Spaces) dropMount() {
	if s.Mount != nil {
		s.Mount.Close()
		s.Mount = nil
	}
}

// Names are what the kernel calls namespaces: "user:[1]" and "mnt:[2]". It gives
// a name again when its namespace is gone.
type Names struct {
	User  string `json:"user"`
	Mount string `json:"mount"`
}

// Names returns the names of the namespaces.
func (s *Spaces) Names() (n Names, err error) {
	if n.User, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.User.Fd())); err == nil {
		n.Mount, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.Mount.Fd()))
	}
	return n, err
}

// Find opens the namespaces with these names, if they are those in which something was
// mounted from the source called mark: nobody gives that name again. It finds
// them by the processes in them. Where there are some in the user namespace only,
// each in a mount namespace of its own, Mount is nil. The error is
// os.ErrNotExist if there are none.
func Find(want Names, mark string) (*Spaces, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var second *Spaces
	for _, dir := range processes {
		s := find(filepath.Base(dir), want, mark)
		switch {
		case s == nil:
		case s.Mount != nil:
			if second != nil {
				second.Close()
			}
			return s, nil
		case second != nil:
			s.Close()
		default:
			second = s
		}
	}
	if second == nil {
		return nil, os.ErrNotExist
	}
	return second, nil
}

// find opens what the process has of the namespaces, or returns nil if that is
// nothing.
func find(pid string, want Names, mark string) *Spaces {
	// Cheap, and right for nearly all processes.
	if user, err := os.Readlink(filepath.Join("/proc", pid, "ns/user")); err != nil || user != want.User {
		return nil
	}
	number, err := strconv.Atoi(pid)
	if err != nil {
		return nil
	}
	s, err := Of(number)
	if err != nil {
		return nil
	}
	// What is open stays; the process may be another program by now.
	names, err := s.Names()
	if err != nil || names.User != want.User || !marked(number, mark) {
		s.Close()
		return nil
	}
	if names.Mount != want.Mount {
		s.dropMount()
	}
	return s
}

// marked reports whether something in the process's mount namespace was mounted
// from the source called mark.
func marked(pid int, mark string) bool {
	list, err := readMounts(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err == nil && slices.ContainsFunc(list, func(m mount) bool { return m.source == mark })
}

// Marked reports whether something in this process's mount namespace, seen or
// covered, was mounted from a source whose name begins with prefix.
func Marked(prefix string) (bool, error) {
	list, err := readMounts("/proc/self/mountinfo")
	return slices.ContainsFunc(list, func(m mount) bool { return strings.HasPrefix(m.source, prefix) }), err
}

// A mount is what a mount table says of one.
type mount struct{ source, path string }

// readMounts reads a table in the form of mountinfo (proc(5)), in which what
// covers something comes after that.
func readMounts(path string) (list []mount, err error) {
	table, err := os.ReadFile(path)
	for line := range strings.Lines(string(table)) {
		before, after, _ := strings.Cut(line, " - ")
		f, rest := strings.Fields(before), strings.Fields(after)
		if len(f) > 4 && len(rest) > 1 {
			list = append(list, mount{rest[1], f[4]})
		}
	}
	return list, err
}

// Within reports whether this process has CAP_SYS_ADMIN in a mount namespace in
// which what is seen at dir was mounted from a source whose name begins with
// prefix.
func Within(dir, prefix string) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, os.NewSyscallError("capget", err)
	}
	if sets[0].Effective>>unix.CAP_SYS_ADMIN&1 == 0 {
		return false, nil
	}
	list, err := readMounts("/proc/self/mountinfo")
	source := ""
	for _, m := range list {
		if m.path == dir {
			source = m.source
		}
	}
	return strings.HasPrefix(source, prefix), err
}
