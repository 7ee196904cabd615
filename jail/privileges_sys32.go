//go:build 386 || arm

package jail

import "golang.org/x/sys/unix"

// Without the suffix these calls take 16-bit numbers there.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetresuid = unix.SYS_SETRESUID32
)
