package fault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A notice is struct seccomp_notif, an answer struct seccomp_notif_resp.
type notice struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id           uint64
	value        int64
	errno, flags int32
}

// A Fault is something that happens at the Nth of the calls, counted from 1: it
// fails, or the process that makes it is killed before.
type Fault struct {
	N     int
	Kill  bool
	Later bool // calls count from Begin on

	mu     sync.Mutex
	calls  []string // all that were made
	over   bool     // nothing happens any more
	killed []unix.PollFd
}

// Watch lets the fault happen to process pid, which has called Install or is about
// to, and to what it starts. They are answered until none of them is left.
func (f *Fault) Watch(pid int) error {
	listener, err := fetchListener(pid)
	if err == nil {
		go f.serve(listener)
	}
	return err
}

// Begin lets calls count.
func (f *Fault) Begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Later = false
}

// Stop lets nothing more happen: what goes on by itself would meet the fault at
// any time. When it returns, whoever was killed is dead.
func (f *Fault) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for _, p := range f.killed { // a pidfd is readable once the process has ended
		for {
			if _, err := unix.Poll([]unix.PollFd{p}, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		unix.Close(int(p.Fd))
	}
	f.killed = nil
}

// String says what became of the fault so far: "nothing" if there were fewer calls.
func (f *Fault) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.N < 1 || f.N > len(f.calls) {
		return "nothing"
	}
	how := "fails"
	if f.Kill {
		how = "kills"
	}
	return fmt.Sprintf("call %d: %s %s", f.N, f.calls[f.N-1], how)
}

// fetchListener takes a copy of the listener of a process as soon as it has one.
func fetchListener(pid int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pidfd)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, path := range files {
			if to, _ := os.Readlink(path); to == "anon_inode:seccomp notify" {
				fd, _ := strconv.Atoi(filepath.Base(path))
				return unix.PidfdGetfd(pidfd, fd, 0)
			}
		}
	}
	return 0, errors.New("the process has no seccomp listener")
}

// serve answers until nobody is watched any more.
func (f *Fault) serve(listener int) {
	defer unix.Close(listener)
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			if ready[0].Revents != 0 {
				return
			}
			continue
		}
		var n notice
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // whoever asked is gone
		}
		a := f.judge(&n)
		if a == nil {
			continue
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(a)))
	}
}

// judge decides what becomes of a system call; nil leaves it waiting.
func (f *Fault) judge(n *notice) *answer {
	goOn := &answer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	what, counts := describe(n)
	if !counts {
		return goOn
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.Later {
		return goOn
	}
	f.calls = append(f.calls, what)
	if len(f.calls) != f.N {
		return goOn
	}
	if f.Kill {
		pid := threadGroup(n.pid)
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			f.killed = append(f.killed, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		unix.Kill(pid, unix.SIGKILL)
		return nil // told to go on, it would still make the call
	}
	return &answer{id: n.id, errno: -int32(watchedCalls[uintptr(n.number)].errno)}
}

// describe names a call and who makes it, and reports whether it is one that
// counts: not what the runtime of Go does for itself.
func describe(n *notice) (what string, counts bool) {
	call := watchedCalls[uintptr(n.number)]
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.pid))
	args := append(strings.Split(string(command), "\x00"), "")
	on := ""
	switch {
	case call.path >= 0:
		on = textAt(n.pid, n.args[call.path])
	case n.number == unix.SYS_WRITE || n.number == unix.SYS_FTRUNCATE:
		on, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, n.args[0]))
		if !strings.HasPrefix(on, "/") || strings.HasPrefix(on, "/dev/") {
			return "", false
		}
	case n.number == unix.SYS_IOCTL:
		on = fmt.Sprintf("%#x", n.args[1])
	}
	return fmt.Sprintf("%s: %s(%s)", args[1], call.name, on), true
}

// textAt reads a text of another process.
func textAt(pid uint32, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return "?"
	}
	defer f.Close()
	var buf [256]byte
	n, _ := f.ReadAt(buf[:], int64(at))
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}

// threadGroup returns the process that a thread belongs to.
func threadGroup(tid uint32) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := strings.Cut(string(text), "Tgid:")
	var pid int
	fmt.Sscan(rest, &pid)
	return pid
}
