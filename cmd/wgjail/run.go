package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/jail"
)

func (p *program) runCommand() *cobra.Command {
	var up upFlags
	var ex execFlags
	cmd := &cobra.Command{
		Use:   "run CONF|NAME [-p SPEC]… -- COMMAND…",
		Short: "make a jail, run a command in it, remove the jail",
		Long: `Make a jail, open ports into it, run a command in it, and remove everything when
the command ends. A jail that is up already is used and stays up. The exit
status is the command's, or 128+N if signal N ended it.`,
		ValidArgsFunction: p.completeBeforeCommand(completeConfigs),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, command, err := splitDash(cmd, args, 1)
			if err != nil {
				return err
			}
			if len(before) == 0 {
				return usageHint(cmd, misused("which configuration file?"))
			}
			if err := up.check(); err != nil {
				return err
			}
			if err := p.needRights(); err != nil {
				return err
			}
			return p.runIn(before[0], command, &up, &ex)
		},
	}
	up.register(cmd.Flags())
	ex.register(cmd.Flags())
	return cmd
}

func (p *program) runIn(conf string, command []string, up *upFlags, ex *execFlags) error {
	stdout := p.out
	p.out = p.err // standard output is the command's
	// From here on signals end what runs, not wgjail, which has to clear up.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	cfg, opts, err := p.openConfig(conf, up)
	if err != nil {
		return err
	}
	var j *jail.Jail
	untilSignal(signals, func(ctx context.Context) { j, err = p.makeJail(ctx, cfg, opts) })
	ours := err == nil && len(j.Repaired) == 0
	switch {
	case errors.Is(err, jail.ErrUp):
		fmt.Fprintf(p.err, "wgjail: %v: it is used, and stays up\n", err)
	case err != nil:
		return orSignal(signals, err)
	}
	err = p.runUp(j.Name, command, stdout, up, ex, signals)
	if !ours {
		return err
	}
	if down := p.takeDown(j.Name, true); down != nil {
		return errors.Join(down, err)
	}
	return err
}

// untilSignal calls do with a context that ends with the first signal, which
// stays in signals.
func untilSignal(signals chan os.Signal, do func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case s := <-signals:
			signals <- s
			cancel()
		case <-done:
		}
	}()
	defer func() {
		close(done)
		<-watched
		cancel()
	}()
	do(ctx)
}

// orSignal prefers the status of an interruption to err.
func orSignal(signals <-chan os.Signal, err error) error {
	select {
	case s := <-signals:
		return exitStatus(128 + int(s.(syscall.Signal)))
	default:
		return err
	}
}

// runUp opens the ports, runs the command and closes the ports again.
func (p *program) runUp(name string, command []string, stdout io.Writer, up *upFlags, ex *execFlags, signals chan os.Signal) error {
	place := jail.Place{Jail: name}
	untilSignal(signals, func(ctx context.Context) { p.sayPort(ctx, name, up) })
	if len(up.publish) > 0 {
		if err := p.startForwards(place, up.publish, &up.forward); err != nil {
			return err
		}
		defer func() {
			specs, _ := parseSpecs(up.publish)
			jail.StopForwards(context.Background(), place, specs)
		}()
	}
	if err := orSignal(signals, nil); err != nil { // there is nothing yet to hand it to
		return err
	}
	args := append(append([]string{"exec"}, ex.args()...), name, "--")
	cmd := jail.Self(append(args, command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, stdout, p.err
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go passSignals(signals, func(s os.Signal) { cmd.Process.Signal(s) }, ended)
	err := cmd.Wait()
	close(ended)
	return statusOf(err)
}

// passSignals hands signals on to a child until it has ended. What a terminal
// sends to its foreground group the child has got already.
func passSignals(signals <-chan os.Signal, send func(os.Signal), ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			if slices.Contains(keyboardSignals, s) && inForeground() {
				continue
			}
			send(s)
		}
	}
}

// keyboardSignals are what terminals send: for keys, and for a new size.
var keyboardSignals = []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGWINCH}

// inForeground reports whether this process is in its terminal's foreground
// group, so that the terminal has signalled the command as well.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// statusOf is the exit status of a command as shells give it.
func statusOf(err error) error {
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		return err
	}
	status := exit.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(status.ExitStatus())
}
