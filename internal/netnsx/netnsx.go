package netnsx

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Namespace is an open handle on a network namespace. While it is open the
// namespace exists, whatever happens to its name. It is safe for concurrent use.
type Namespace struct {
	handle netns.NsHandle
	id     ID
}

// An ID names a network namespace uniquely on this machine for as long as it
// exists (the device and inode number of its file; see namespaces(7)).
type ID struct{ Dev, Ino uint64 }

func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

// Open opens the namespace that the file at path stands for, such as
// /run/netns/NAME or /proc/PID/ns/net. The error is os.ErrNotExist if there is
// no such file, and ErrNotNamespace if it is something else: the empty file
// that stays behind when a name has lost its mount, for example.
func Open(path string) (*Namespace, error) {
	h, err := netns.GetFromPath(path)
	if err != nil {
		return nil, &os.PathError{Op: "open namespace", Path: path, Err: err}
	}
	n, err := fromHandle(h)
	if err != nil {
		return nil, &os.PathError{Op: "open namespace", Path: path, Err: err}
	}
	return n, nil
}

// Current opens the namespace of the calling thread.
func Current() (*Namespace, error) { return Open("/proc/thread-self/ns/net") }

// ErrNotNamespace is the error for a file that is not a network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// ErrGoexit is the error for a function that ended its goroutine.
var ErrGoexit = errors.New("the function ended its goroutine")

func fromHandle(h netns.NsHandle) (*Namespace, error) {
	id, err := idOf(int(h))
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Namespace{h, id}, nil
}

// idOf checks that fd is a network namespace (ioctl_ns(2)) and returns its ID.
func idOf(fd int) (ID, error) {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if errors.Is(err, unix.ENOTTY) || err == nil && kind != unix.CLONE_NEWNET {
		return ID{}, ErrNotNamespace
	}
	if err != nil {
		return ID{}, os.NewSyscallError("ioctl", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return ID{uint64(st.Dev), st.Ino}, nil
}

// ID returns the namespace's identity.
func (n *Namespace) ID() ID { return n.id }

// Fd returns the handle's file descriptor, for netlink handles and for passing
// on. It is valid until Close.
func (n *Namespace) Fd() int { return int(n.handle) }

// Close releases the handle. Threads and sockets inside are not affected.
func (n *Namespace) Close() error { return n.handle.Close() }

// Do calls fn on a thread that is in the namespace, and returns fn's error, or
// the error that kept it from being called. The calling goroutine does not move.
// The error is ErrGoexit if fn ended its goroutine, as testing.T.FailNow does.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go n.do(fn, done)
	return <-done
}

// do runs on a goroutine of its own, so that a thread that cannot go back dies
// with it instead of serving others.
func (n *Namespace) do(fn func() error, done chan<- error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread() // nothing has moved yet
		done <- fmt.Errorf("open the current namespace: %w", err)
		return
	}
	defer home.Close()
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		done <- enterError(err)
		return
	}
	err = ErrGoexit
	defer func() { done <- err }()
	err = fn()
	if back := netns.Set(home); back == nil {
		runtime.UnlockOSThread()
	}
}

// Enter moves the calling goroutine and its thread into the namespace for good.
// The thread is locked and never unlocked, so it dies when the goroutine ends.
// After an error the goroutine must end as well.
func (n *Namespace) Enter() error {
	runtime.LockOSThread()
	if err := netns.Set(n.handle); err != nil {
		return enterError(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return fmt.Errorf("check the namespace that was entered: %w", err)
	}
	if (ID{uint64(st.Dev), st.Ino}) != n.id {
		return fmt.Errorf("entered net:[%d] instead of %v", st.Ino, n.id)
	}
	return nil
}

func enterError(err error) error {
	return fmt.Errorf("enter the network namespace: %w", os.NewSyscallError("setns", err))
}
