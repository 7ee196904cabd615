package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// New stands for a namespace that Start makes.
const New = -1

// Options say what Start starts, and where.
type Options struct {
	// User is a descriptor of the user namespace, or New: one in which the
	// caller's user and group have their own numbers, and nobody else has any.
	// The calling user must have made it.
	User int
	// Mount is a descriptor of the mount namespace, or New: a copy of the
	// caller's, in which the caller's mounts and their ends arrive and from which none
	// leave.
	Mount int

	Argv  []string // of this program
	Env   []string
	Files []int // its descriptors 0, 1, …; nil: those that are inherited

	// Death is the signal that it gets when the calling thread ends; 0 is none.
	Death unix.Signal
	// Session gives it a session of its own.
	Session bool
}

// A StartError says which step of Start has failed.
type StartError struct {
	Step Step
	Err  unix.Errno
}

func (e *StartError) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Err) }
func (e *StartError) Unwrap() error { return e.Err }

// Start starts this program once more, in the namespaces that o names, with all
// capabilities over them, which the program's children have as well. Its working
// directory is the caller's, by its path if it has one there. It returns the
// process's number; the caller must wait for it. The error is a *StartError if
// the kernel refuses.
func Start(o Options) (pid int, err error) {
	c, err := prepare(o)
	if err != nil {
		return 0, err
	}
	defer c.close()
	report, reportChild, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	// The number must not be one of those that Files become.
	high, err := unix.FcntlInt(reportChild.Fd(), unix.F_DUPFD_CLOEXEC, lowest)
	reportChild.Close()
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	c.report = uintptr(high)
	pid, err = c.start()
	unix.Close(high)
	if err != nil {
		return 0, err
	}
	if err := readReport(report); err != nil {
		Reap(pid)
		return 0, err
	}
	return pid, nil
}

// start forks. No signal is served meanwhile: the child has no runtime that could.
func (c *child) start() (int, error) {
	runtime.LockOSThread() // the mask is the thread's
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock() // no descriptor is open that is not yet close-on-exec
	defer syscall.ForkLock.Unlock()
	c.parent = uintptr(unix.Getpid())
	all := ^uint64(0)
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&c.mask)), sigsetSize, 0, 0); e != 0 {
		return 0, os.NewSyscallError("rt_sigprocmask", e)
	}
	pid, e := c.fork()
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, sigsetSize, 0, 0)
	runtime.KeepAlive(c)
	if e != 0 {
		return 0, os.NewSyscallError("clone", e)
	}
	return int(pid), nil
}

// readReport returns what kept the child from becoming the program. It is at its
// end when it has become it.
func readReport(r io.Reader) error {
	var text [2]uint32
	_, err := io.ReadFull(r, unsafe.Slice((*byte)(unsafe.Pointer(&text)), unsafe.Sizeof(text)))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return &StartError{Step(text[0]), unix.Errno(text[1])}
}

// Reap waits for the end of a process that Start has started.
func Reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
