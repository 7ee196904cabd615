package fault

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watchedCalls are those system calls, and an error that each may have without
// anybody's fault. Reading is not among them.
var watchedCalls = map[uintptr]struct {
	name  string
	errno unix.Errno
	path  int // the argument that is a path, -1 for none
}{
	unix.SYS_OPENAT:     {"openat", unix.EMFILE, 1}, // for writing
	unix.SYS_MKDIRAT:    {"mkdirat", unix.ENOSPC, 1},
	unix.SYS_UNLINKAT:   {"unlinkat", unix.EBUSY, 1},
	unix.SYS_RENAMEAT:   {"renameat", unix.ENOSPC, 1},
	unix.SYS_RENAMEAT2:  {"renameat2", unix.ENOSPC, 1},
	unix.SYS_FCHMOD:     {"fchmod", unix.EIO, -1},
	unix.SYS_FCHMODAT:   {"fchmodat", unix.EIO, 1},
	unix.SYS_FTRUNCATE:  {"ftruncate", unix.ENOSPC, -1},
	unix.SYS_WRITE:      {"write", unix.ENOSPC, -1}, // to files
	unix.SYS_FLOCK:      {"flock", unix.ENOLCK, -1},
	unix.SYS_MOUNT:      {"mount", unix.ENOMEM, 1},
	unix.SYS_UMOUNT2:    {"umount2", unix.EBUSY, 0},
	unix.SYS_UNSHARE:    {"unshare", unix.ENOSPC, -1},
	unix.SYS_SETNS:      {"setns", unix.ENOMEM, -1},
	unix.SYS_IOCTL:      {"ioctl", unix.EBUSY, -1},
	unix.SYS_SOCKET:     {"socket", unix.EMFILE, -1},
	unix.SYS_BIND:       {"bind", unix.ENOMEM, -1},
	unix.SYS_SENDTO:     {"sendto", unix.ENOBUFS, -1},
	unix.SYS_SENDMSG:    {"sendmsg", unix.ENOBUFS, -1},
	unix.SYS_CLONE:      {"clone", unix.EAGAIN, -1}, // of processes
	unix.SYS_EXECVE:     {"execve", unix.ENOMEM, 0},
	unix.SYS_PIPE2:      {"pipe2", unix.EMFILE, -1},
	unix.SYS_SETSOCKOPT: {"setsockopt", unix.ENOMEM, -1},
}

// Install makes this process, and all that it will start, ask before each of the
// calls. The listener stays open, for Watch to fetch.
func Install() error {
	allow, ask := stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW), stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_USER_NOTIF)
	program := []unix.SockFilter{load(number)}
	for call := range watchedCalls {
		switch call {
		case unix.SYS_OPENAT: // flags
			program = append(program, unless(unix.BPF_JEQ, uint32(call), 4), load(argument(2)),
				unless(unix.BPF_JSET, unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT, 1), ask, allow)
		case unix.SYS_CLONE:
			program = append(program, unless(unix.BPF_JEQ, uint32(call), 4), load(argument(0)),
				unless(unix.BPF_JSET, unix.CLONE_THREAD, 1), allow, ask)
		default:
			program = append(program, unless(unix.BPF_JEQ, uint32(call), 1), ask)
		}
	}
	program = append(program, allow)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// number is the offset of the call's number in struct seccomp_data.
const number = 0

// argument is the offset of the lower half of the nth argument, from 0.
func argument(n int) uint32 { return uint32(16 + 8*n) }

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func load(at uint32) unix.SockFilter { return stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, at) }

// unless jumps over what follows it if the test fails.
func unless(test uint16, k uint32, over uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jf: over}
}
