package userns

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lowest is above the descriptors that a child's files become.
const lowest = 64

// A child is all that the forked process needs, made before it is there: it can
// neither allocate nor let its stack grow. Pointers are numbers, so that nothing
// it writes concerns the collector.
type child struct {
	user, mount   uintptr // descriptors, or none
	maps          [3]mapping
	dir           uintptr // path of the working directory; 0: it has none
	cwd           uintptr // descriptor of it
	files         [8]uintptr
	nfiles        uintptr
	session       bool
	parent        uintptr
	death         uintptr
	mask          uint64
	program       uintptr
	argv, envv    uintptr
	report        uintptr
	text          [2]uint32
	header        unix.CapUserHeader
	sets          [2]unix.CapUserData
	was, usual    sigaction
	keep          []any // what the numbers point to
	closeInTheEnd []int
}

// none is no descriptor.
const none = ^uintptr(0)

// A mapping is a file of procfs and what is written into it.
type mapping struct{ path, text, size uintptr }

// A sigaction has room for struct sigaction of rt_sigaction(2). All zero, it is
// the default action; its first word is the handler.
type sigaction [8]uintptr

const sigsetSize = 8 // bytes: 64 signals

func prepare(o Options) (*child, error) {
	c := &child{user: none, mount: none, death: uintptr(o.Death), session: o.Session}
	c.header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if o.User != New {
		c.user = uintptr(o.User)
	}
	if o.Mount != New {
		c.mount = uintptr(o.Mount)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	for i, m := range []struct{ path, text string }{
		{"/proc/self/setgroups", "deny"}, // or the group could not be mapped (user_namespaces(7))
		{"/proc/self/uid_map", fmt.Sprintf("%d %d 1\n", uid, uid)},
		{"/proc/self/gid_map", fmt.Sprintf("%d %d 1\n", gid, gid)},
	} {
		c.maps[i] = mapping{c.text0(m.path), c.text0(m.text), uintptr(len(m.text))}
	}
	if err := c.setDir(); err != nil {
		return nil, err
	}
	if err := c.setFiles(o.Files); err != nil {
		c.close()
		return nil, err
	}
	c.program = c.text0("/proc/self/exe")
	c.argv, c.envv = c.list(o.Argv), c.list(o.Env)
	return c, nil
}

// text0 returns the address of a copy of s that ends in a NUL.
func (c *child) text0(s string) uintptr {
	b := append([]byte(s), 0)
	c.keep = append(c.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// list returns the address of a list of addresses that ends in 0.
func (c *child) list(texts []string) uintptr {
	list := make([]uintptr, 0, len(texts)+1)
	for _, s := range texts {
		list = append(list, c.text0(s))
	}
	list = append(list, 0)
	c.keep = append(c.keep, list)
	return uintptr(unsafe.Pointer(&list[0]))
}

// setDir takes the working directory along: a mount namespace is entered at its
// root.
func (c *child) setDir() error {
	fd, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: ".", Err: err}
	}
	c.closeInTheEnd = append(c.closeInTheEnd, fd)
	c.cwd = uintptr(fd)
	var buf [unix.PathMax]byte
	if n, err := unix.Getcwd(buf[:]); err == nil && n > 1 && buf[0] == '/' { // "(unreachable)…": see getcwd(3)
		c.dir = c.text0(string(buf[:n-1]))
	}
	return nil
}

// setFiles has the child's files copied to numbers that none of them becomes.
func (c *child) setFiles(files []int) error {
	if len(files) > len(c.files) {
		return fmt.Errorf("%d files are too many", len(files))
	}
	c.nfiles = uintptr(len(files))
	for i, fd := range files {
		high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowest)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		c.closeInTheEnd = append(c.closeInTheEnd, high)
		c.files[i] = uintptr(high)
	}
	return nil
}

func (c *child) close() {
	for _, fd := range c.closeInTheEnd {
		unix.Close(fd)
	}
}
