package userns

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Step is something that the child does before it becomes the program.
type Step uint32

// The steps, in order.
const (
	StepMakeUser Step = iota
	StepMap
	StepEnterUser
	StepMakeMount
	StepEnterMount
	StepDir
	StepCapabilities
	StepDeath
	StepFiles
	StepProgram
)

func (s Step) String() string {
	return [...]string{
		"make a user namespace", "map the user", "enter the user namespace", "make a mount namespace", "enter the mount namespace",
		"take the working directory along", "take the capabilities along", "end with the parent", "hand the files on", "start wgjail again",
	}[s]
}

// fork returns in the caller alone. The child must not run code of the runtime:
// it has none of the threads that this needs. Hence no split stacks, no
// allocation, and raw system calls only, as in syscall.forkAndExecInChild.
//
//go:noinline
//go:norace
//go:nosplit
func (c *child) fork() (pid uintptr, err syscall.Errno) {
	// The flags come first on all processors but s390x.
	pid, _, err = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if err != 0 || pid != 0 {
		return pid, err
	}
	step, err := c.become()
	c.text[0], c.text[1] = uint32(step), uint32(err)
	syscall.RawSyscall(unix.SYS_WRITE, c.report, uintptr(unsafe.Pointer(&c.text)), unsafe.Sizeof(c.text))
	for {
		syscall.RawSyscall(unix.SYS_EXIT, 253, 0, 0)
	}
}

// become returns only if it fails.
//
//go:norace
//go:nosplit
func (c *child) become() (Step, syscall.Errno) {
	if step, e := c.enterUser(); e != 0 {
		return step, e
	}
	if step, e := c.enterMount(); e != 0 {
		return step, e
	}
	if e := c.raise(); e != 0 {
		return StepCapabilities, e
	}
	if c.session {
		syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0) // a child is no leader, so it succeeds
	}
	if c.death != 0 { // after the capabilities: more of them undo it
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, c.death, 0, 0, 0, 0); e != 0 {
			return StepDeath, e
		}
		if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != c.parent {
			return StepDeath, unix.ESRCH
		}
	}
	for i := uintptr(0); i < c.nfiles && i < uintptr(len(c.files)); i++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, c.files[i], i, 0); e != 0 {
			return StepFiles, e
		}
	}
	c.forgetHandlers()
	_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, c.program, c.argv, c.envv)
	return StepProgram, e
}

//go:norace
//go:nosplit
func (c *child) enterUser() (Step, syscall.Errno) {
	if c.user != none {
		_, _, e := syscall.RawSyscall(unix.SYS_SETNS, c.user, unix.CLONE_NEWUSER, 0)
		return StepEnterUser, e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0); e != 0 {
		return StepMakeUser, e
	}
	for i := range c.maps {
		m := &c.maps[i]
		fd, _, e := syscall.RawSyscall6(unix.SYS_OPENAT, atCwd, m.path, unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
		if e != 0 {
			return StepMap, e
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, fd, m.text, m.size); e != 0 {
			return StepMap, e
		}
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	return 0, 0
}

// atCwd is AT_FDCWD, which is negative.
const atCwd = ^uintptr(-unix.AT_FDCWD - 1)

//go:norace
//go:nosplit
func (c *child) enterMount() (Step, syscall.Errno) {
	if c.mount == none { // it is entered where the caller is
		_, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0)
		return StepMakeMount, e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, c.mount, unix.CLONE_NEWNS, 0); e != 0 {
		return StepEnterMount, e
	}
	if c.dir != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, c.dir, 0, 0); e == 0 {
			return 0, 0
		}
	}
	_, _, e := syscall.RawSyscall(unix.SYS_FCHDIR, c.cwd, 0, 0)
	return StepDir, e
}

// raise lets the program, whose user is not root, keep the capabilities.
//
//go:norace
//go:nosplit
func (c *child) raise() syscall.Errno {
	header, sets := uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.sets))
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPGET, header, sets, 0); e != 0 {
		return e
	}
	c.sets[0].Inheritable, c.sets[1].Inheritable = c.sets[0].Permitted, c.sets[1].Permitted
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, header, sets, 0); e != 0 {
		return e
	}
	for n := uintptr(0); n < 64; n++ {
		if c.sets[n/32&1].Permitted>>(n&31)&1 == 0 {
			continue
		}
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0, 0); e != 0 {
			return e
		}
	}
	return 0
}

// forgetHandlers serves signals by default, those that are ignored excepted, and
// lets them come.
//
//go:norace
//go:nosplit
func (c *child) forgetHandlers() {
	const ignored = 1 // SIG_IGN
	for n := uintptr(1); n <= 64; n++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&c.was)), sigsetSize, 0, 0)
		if c.was[0] != ignored {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&c.usual)), 0, sigsetSize, 0, 0)
		}
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, sigsetSize, 0, 0)
}
