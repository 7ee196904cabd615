package main

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/jail"
)

// needRights is the first thing that commands ask which change jails. Root has
// what it takes. Anybody else has it in a world (jail.World): if this process is
// not in one, it starts itself there again and does what that one does to its end. The error
// is then the exit status of that one.
func (p *program) needRights() error {
	if os.Geteuid() == 0 {
		return nil
	}
	inside, err := jail.InWorld()
	if err != nil {
		return err
	}
	if !inside {
		return p.runInWorld()
	}
	// Programs in jails run as the same user, and must not get at what is done
	// with more rights than theirs.
	if err := jail.HideMemory(); err != nil {
		return err
	}
	p.world, err = jail.JoinWorld()
	return err
}

// leaveWorld ends what needRights began in a world.
func (p *program) leaveWorld() {
	if p.world == nil {
		return
	}
	if err := p.world.Leave(); err != nil {
		p.warn("%v", err)
	}
}

// runInWorld runs this command in the user's world.
func (p *program) runInWorld() error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, worldSignals...)
	w, err := jail.OpenWorld()
	if err != nil {
		return err
	}
	status, err := p.startInWorld(w, signals)
	if err := errors.Join(err, w.Leave()); err != nil {
		return err
	}
	if status.Signaled() {
		endBy(status.Signal())
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(status.ExitStatus())
}

func (p *program) startInWorld(w *jail.World, signals chan os.Signal) (status unix.WaitStatus, err error) {
	pid, err := w.Start(append([]string{os.Args[0]}, p.args...), os.Environ())
	if err != nil {
		return status, err
	}
	ended := make(chan struct{})
	go passSignals(signals, func(s os.Signal) { unix.Kill(pid, s.(syscall.Signal)) }, ended)
	defer close(ended)
	return await(pid)
}

// worldSignals are handed on to the process in the world: those that somebody
// may send to this one.
var worldSignals = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT,
}

// await waits for the end of a child. While the child is stopped this process is,
// so that a shell sees it.
func await(pid int) (status unix.WaitStatus, err error) {
	for {
		_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return status, os.NewSyscallError("wait4", err)
		case status.Stopped():
			unix.Kill(unix.Getpid(), unix.SIGSTOP)
			unix.Kill(pid, unix.SIGCONT)
		default:
			return status, nil
		}
	}
}

// endBy ends this process as the signal ends one, without a second dump of
// memory. It returns if that signal ends nothing.
func endBy(s syscall.Signal) {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	signal.Reset(s)
	unix.Kill(unix.Getpid(), s)
}

// worldCommand is the process that makes a world.
func (p *program) worldCommand() *cobra.Command {
	return &cobra.Command{
		Use: jail.WorldCommand + " DIR MARK", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return jail.BuildWorld(args[0], args[1], p.log(p.err, slog.LevelWarn))
		},
	}
}
