package fault

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Refusal is a system call that fails as where a container's filter, a
// security module or the kernel's configuration forbids it.
type Refusal struct {
	Call  uintptr
	Arg   int    // the argument, from 0, that decides
	Is    uint32 // it has this value; 0 with Has 0: whatever it is
	Has   uint32 // or one of these bits
	Errno unix.Errno
}

// Refuse makes these calls fail from now on, for this process and all that it
// will start. It sets no_new_privs, without which a user may not do this.
func Refuse(refusals ...Refusal) error {
	program := []unix.SockFilter{load(number)}
	for _, r := range refusals {
		fail := stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(r.Errno))
		switch {
		case r.Is == 0 && r.Has == 0:
			program = append(program, unless(unix.BPF_JEQ, uint32(r.Call), 1), fail)
			continue
		case r.Has != 0:
			program = append(program, unless(unix.BPF_JEQ, uint32(r.Call), 4), load(argument(r.Arg)), unless(unix.BPF_JSET, r.Has, 1), fail)
		default:
			program = append(program, unless(unix.BPF_JEQ, uint32(r.Call), 4), load(argument(r.Arg)), unless(unix.BPF_JEQ, r.Is, 1), fail)
		}
		program = append(program, load(number))
	}
	program = append(program, stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
