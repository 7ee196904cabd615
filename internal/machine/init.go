package machine

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// TmpDir is the machine's directory for temporary files. It is the TMPDIR of
// the program that Init starts.
const TmpDir = "/run/tmp"

// Isolate makes cmd, this program with arguments that make it call Init.Run,
// process 1 of a new machine. Signals from the terminal do not reach it.
func Isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setpgid:    true,
	}
}

// Init is process 1 of a machine.
type Init struct {
	Name     string   // begins its error messages
	Lifeline *os.File // the reading end of a pipe: the machine dies when the other closes
	Resolv   string   // the text of the machine's resolv.conf
}

// Run makes the machine ready, starts this program with argv, the environment env
// and the default signals, and returns its exit status. The kernel kills what is left when the caller
// then ends. The program finds the descriptors files from 0 on, and no other.
func (i Init) Run(argv, env []string, files []uintptr) (code int) {
	CloseOnExec()
	defaultSignals()
	go i.dieWithCaller()
	if err := prepare(i.Resolv); err != nil {
		return i.fail(err)
	}
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   append(env, "TMPDIR="+TmpDir),
		Files: files,
	})
	if err != nil {
		return i.fail(fmt.Errorf("start the program: %w", err))
	}
	for _, fd := range files[min(3, len(files)):] { // so that its readers see an end
		unix.Close(int(fd))
	}
	return i.reap(pid)
}

// defaultSignals lets the programs on the machine begin with SIGINT and SIGHUP as
// they are by default. What a shell without job control puts into the background
// is born with SIGINT ignored, what nohup starts with SIGHUP; children inherit
// that, and sh refuses to trap a signal that it was born to ignore. A signal that
// this process catches is none that they inherit as ignored.
func defaultSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGHUP)
}

func (i Init) fail(err error) (code int) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", i.Name, err)
	return 1
}

func (i Init) dieWithCaller() {
	io.Copy(io.Discard, i.Lifeline)
	os.Exit(1)
}

// reap waits for every child, as process 1 must, until pid has ended. It returns
// pid's exit status.
func (i Init) reap(pid int) int {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR) || err == nil && got != pid:
			continue
		case err != nil:
			return i.fail(fmt.Errorf("wait: %w", err))
		case status.Signaled():
			i.fail(fmt.Errorf("killed by signal: %v", status.Signal()))
			return 128 + int(status.Signal())
		}
		return status.ExitStatus()
	}
}

// CloseOnExec keeps what this process inherited from being inherited further,
// whoever opened it.
func CloseOnExec() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) != nil { // Linux before 5.11
		for fd := 3; fd < 256; fd++ {
			unix.CloseOnExec(fd)
		}
	}
}
