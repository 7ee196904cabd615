package jail

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// ExecOptions says what Exec runs, and where.
type ExecOptions struct {
	Namespace *netnsx.Namespace // the jail's
	Name      string            // the jail's name; its files are in /etc/netns/NAME
	Argv      []string          // the program, looked for in PATH, and its arguments
	Env       []string          // nil: the process's own

	// User is NAME, UID, NAME:GROUP or UID:GID; with a group, there are no
	// supplementary ones. "": the user who called sudo(8), doas(1) or
	// pkexec(1); without one, whoever the process runs as.
	User string

	// KeepCaps leaves the process's capabilities to the program, also if the
	// user changes, and lets set-user-ID programs work. It is for programs
	// that are trusted like root: CAP_SYS_ADMIN alone is enough to leave.
	KeepCaps bool

	// Isolate also hides what programs of the user's session are reached
	// through: /tmp is private and empty but for the working directory, /run
	// holds next to nothing, the variables that lead there are unset, and,
	// where the kernel has Landlock, processes outside cannot be traced,
	// looked into or signalled.
	Isolate bool

	Log *slog.Logger // for warnings; nil: silent
}

// Exec replaces the process with a program in the jail. It returns only if
// that fails; the error is a *ProgramError if everything but the program was
// in order, and ExitStatus gives the exit status for it.
//
// Process, parent, terminal, standard files, working directory, umask, nice
// value and limits stay those of the caller. Other open files are closed: a
// socket made outside would still be outside. The program has no capability
// and cannot get one, but for KeepCaps; root is still the owner of root's
// files.
//
// The program gets a mount namespace of its own, where
//
//   - /etc has the jail's resolv.conf and nsswitch.conf, as they are now, and
//     the other files of /etc/netns/NAME. Whatever is done to the host's
//     files, the program goes on seeing these. The directory cannot be
//     written; those in it can.
//   - /run is without the sockets of name services and without the system
//     bus, also if they appear later. What is written directly in it is
//     private and vanishes with the program.
//   - /sys shows the jail's network devices; or none, where the kernel refuses
//     that to users.
//
// Nothing is changed outside, whether Exec fails or not. Programs of the same
// user outside can still be reached over Unix sockets in that user's own
// directories (see Isolate), and a program without Isolate may debug them.
func Exec(opts ExecOptions) error {
	if len(opts.Argv) == 0 {
		return errors.New("no program to run")
	}
	if err := CheckName(opts.Name); err != nil {
		return err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Env == nil {
		opts.Env = os.Environ()
	}
	e, err := prepareExec(opts)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	// A goroutine of its own: its thread dies with it if it does not become
	// the program.
	go func() { failed <- e.run() }()
	return <-failed
}

// An execution is all that Exec finds out before it changes anything.
type execution struct {
	ExecOptions
	account account
	mirrors []mirror
	cwd     string // "": has no path
	mortal  bool   // this process, which stands for the one that was called, ends with that
}

func prepareExec(opts ExecOptions) (*execution, error) {
	e := &execution{ExecOptions: opts}
	if err := e.mayEnter(); err != nil {
		return nil, err
	}
	accounts, err := hostAccounts()
	if err != nil {
		return nil, err
	}
	if e.account, err = accounts.find(opts.User, os.Geteuid(), os.Getenv); err != nil {
		return nil, err
	}
	if rootless() {
		if e.account, err = e.account.forWorld(opts.User); err != nil {
			return nil, err
		}
	}
	userChanges := e.account.change && int(e.account.uid) != os.Geteuid()
	e.Env = portVariables(environment(opts.Env, e.account, userChanges, opts.Isolate), opts.Name)
	e.cwd, e.mortal = workingDirectory(), mortal()
	if e.mirrors, err = masks(opts.Name, e.cwd, opts.Isolate); err != nil {
		return nil, err
	}
	return e, nil
}

// workingDirectory returns the kernel's name of it: $PWD may be another one.
func workingDirectory() string {
	var buf [unix.PathMax]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil || n < 2 || buf[0] != '/' { // "(unreachable)…": see getcwd(3)
		return ""
	}
	return string(buf[:n-1])
}

// run moves the calling goroutine's thread into the jail and makes it the
// program. It returns only errors, and the goroutine must then end.
func (e *execution) run() error {
	for _, s := range e.steps() {
		if err := s.do(); err != nil {
			return e.explain(err)
		}
	}
	return execProgram(e.Argv, e.Env)
}

// An execStep changes the calling thread. A test leaves out each of them, alone.
type execStep struct {
	name string
	do   func() error
}

// steps are what makes an insider of the calling thread, in order. The second
// one locks it.
func (e *execution) steps() []execStep {
	list := []execStep{
		{"close files", func() error { return closeOnExec(3) }},
		{"enter the jail", e.Namespace.Enter},
		{"make a mount namespace", unshareMounts},
		{"keep mounts in it", keepMounts},
	}
	if e.mortal {
		list = append(list, execStep{"end with the parent", dieWithParent})
	}
	if !e.KeepCaps {
		list = append(list, execStep{"ignore file capabilities", func() error { ignoreFileCaps(e.Log); return nil }})
	}
	for _, m := range e.mirrors {
		list = append(list, execStep{"mirror " + m.dir, func() error { return m.mount(e.Log) }})
	}
	list = append(list, execStep{"mount /sys", func() error { return mountSys(e.Log) }}, execStep{"change the directory", e.chdir})
	list = append(list, becomeUser(e.account, e.KeepCaps)...)
	if e.Isolate {
		list = append(list, execStep{"shut it in", e.shutIn})
	}
	return list
}

// mortal reports whether the main thread, on which Exec is called, gets a signal
// when its parent ends.
func mortal() bool {
	var signal int32
	err := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0)
	return err == nil && signal != 0
}

// dieWithParent has the program killed with the process that was called in its
// place: who kills that one means the program. What the main thread has been
// told does not hold for this one.
func dieWithParent() error {
	parent := unix.Getppid()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("end with the parent: %w", os.NewSyscallError("prctl", err))
	}
	if unix.Getppid() != parent {
		return errors.New("the process that was called has ended")
	}
	return nil
}

func (e *execution) shutIn() error {
	err := shutIn()
	if errors.Is(err, errNoLandlock) {
		e.Log.Debug("processes outside can be traced and signalled", "reason", err)
		return nil
	}
	return err
}

// mayEnter reports whether the process has the rights that it takes.
func (e *execution) mayEnter() error {
	inside, err := InWorld()
	if err != nil || inside || !rootless() {
		return err
	}
	return hint.Wrap(fmt.Errorf("enter the jail: %w", os.ErrPermission), "run wgjail as root: sudo wgjail exec %s -- …", e.Name)
}

func (e *execution) explain(err error) error {
	if errors.Is(err, os.ErrNotExist) && missing("/proc/thread-self") {
		return hint.Wrap(err, "there is no /proc here: mount -t proc proc /proc")
	}
	return err
}

// chdir leaves the working directory alone unless it is covered: then it is
// looked up again in what covers it, as the way up from the old one leads to
// all that is hidden.
func (e *execution) chdir() error {
	covered := e.cwd == "" || isBelow(e.cwd, "/sys")
	for _, m := range e.mirrors {
		covered = covered || isBelow(e.cwd, m.dir)
	}
	if !covered {
		return nil
	}
	dir, err := e.cwd, error(nil)
	if dir == "" {
		err = os.ErrNotExist
	} else {
		err = unix.Chdir(dir)
	}
	if err == nil {
		return nil
	}
	e.Log.Warn("the working directory is not in the jail: the program starts in /", "path", dir, "error", err)
	if err := unix.Chdir("/"); err != nil {
		return &os.PathError{Op: "chdir", Path: "/", Err: err}
	}
	return nil
}

func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// closeOnExec marks every descriptor from first on, so that execve(2) closes
// it. After an error the process can go on with its files.
func closeOnExec(first int) error {
	err := unix.CloseRange(uint(first), ^uint(0)>>1&0x7fffffff, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) { // Linux before 5.9, 5.11
		return fmt.Errorf("mark open files: %w", os.NewSyscallError("close_range", err))
	}
	return closeOnExecEach(first)
}

func closeOnExecEach(first int) error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		if err != nil || fd < first {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("mark open file %d: %w", fd, os.NewSyscallError("fcntl", err))
		}
	}
	return nil
}
