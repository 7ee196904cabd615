package jail

import (
	"errors"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
)

// A ProgramError means that the jail was ready for the program, but the
// program could not be started.
type ProgramError struct {
	Name string // as given
	Err  error
}

func (e *ProgramError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *ProgramError) Unwrap() error { return e.Err }

// ExitStatus returns the exit status for an error of Exec, as shells choose
// it: 127 for a program that is not there, 126 for one that cannot be
// executed, and 1 for everything else.
func ExitStatus(err error) int {
	var p *ProgramError
	switch {
	case !errors.As(err, &p):
		return 1
	case errors.Is(err, os.ErrNotExist), errors.Is(err, osexec.ErrNotFound):
		return 127
	}
	return 126
}

// execProgram replaces the process with the program argv[0], which it looks
// for as execvp(3) does, with the calling thread's view of files and its
// rights. It returns only a *ProgramError.
func execProgram(argv, env []string) error {
	name := argv[0]
	var denied error
	for _, path := range programPaths(name, env) {
		err := replaceProcess(path, argv, env)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		case errors.Is(err, os.ErrPermission): // the next one may be allowed
			if _, statErr := os.Stat(path); statErr == nil || strings.Contains(name, "/") { // else the folder is closed
				denied = err
			}
		default:
			return &ProgramError{name, err}
		}
	}
	switch {
	case denied != nil:
		return &ProgramError{name, denied}
	case strings.Contains(name, "/"):
		return &ProgramError{name, os.ErrNotExist}
	}
	return &ProgramError{name, hint.Wrap(osexec.ErrNotFound,
		"give its path if it is not in a directory of PATH, which sudo may have changed")}
}

// programPaths returns the paths at which the program may be.
func programPaths(name string, env []string) []string {
	if name == "" {
		return nil
	}
	if strings.Contains(name, "/") {
		return []string{name}
	}
	dirs := getVariable(env, "PATH")
	if dirs == "" {
		dirs = "/bin:/usr/bin" // as execvp(3)
	}
	var paths []string
	for _, dir := range strings.Split(dirs, ":") {
		if dir == "" {
			dir = "."
		}
		paths = append(paths, dir+"/"+name)
	}
	return paths
}

// replaceProcess is execve(2), with errors that say more than its own.
func replaceProcess(path string, argv, env []string) error {
	err := syscall.Exec(path, argv, env)
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && statErr == nil: // it must not pass for a program that is not there
		return hint.Wrap(errors.New("its interpreter is not there"),
			"the first line of %s names it if that is a script; else it is the dynamic linker", path)
	case errors.Is(err, syscall.ENOEXEC):
		return hint.Wrap(err, "if it is a script without a #! line, run it with: sh %s", path)
	case errors.Is(err, os.ErrPermission) && statErr == nil && info.IsDir():
		return syscall.EISDIR
	}
	return err
}
