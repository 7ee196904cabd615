package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
)

// AsInvoker returns a command that runs this program as the user who has become
// root with sudo, doas or the like, as after a login of that user.
func AsInvoker(args ...string) (*exec.Cmd, error) {
	accounts, err := hostAccounts()
	if err != nil {
		return nil, err
	}
	a, ok, err := accounts.invoker(os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("find the invoking user: %w", err)
	}
	if !ok || a.uid == 0 {
		return nil, hint.Wrap(errors.New("root needs none of what makes wgjail run without root"),
			"call it as the user who is to run wgjail, or as that user through sudo")
	}
	cmd := Self(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "SUDO_") || strings.HasPrefix(v, "DOAS_") || strings.HasPrefix(v, "PKEXEC_") || strings.HasPrefix(v, "XDG_RUNTIME_DIR=")
	})
	cmd.Env = append(cmd.Env, "HOME="+a.home, "USER="+a.name, "LOGNAME="+a.name, fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", a.uid))
	return cmd, nil
}
