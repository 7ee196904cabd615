package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

// A misuse is an error in the way wgjail was called.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func misused(format string, args ...any) error { return misuse{fmt.Errorf(format, args...)} }

// An exitStatus is the status of a program that wgjail has run. It is not an
// error of wgjail, so nothing is printed.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report prints err, with the way out of it, and returns the exit status.
func (p *program) report(err error) int {
	if err == nil {
		return exitDone
	}
	if status := exitStatus(0); errors.As(err, &status) {
		return int(status)
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(p.err, "wgjail: error: %s\n", line)
	}
	way := hint.Of(err)
	if way == "" && errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		way = "try again with sudo"
	}
	if way != "" {
		fmt.Fprintf(p.err, "wgjail: hint: %s\n", way)
	}
	if wrong := (misuse{}); errors.As(err, &wrong) {
		return exitMisuse
	}
	if program := (*jail.ProgramError)(nil); errors.As(err, &program) {
		return jail.ExitStatus(err)
	}
	return exitFailed
}

// warn prints something that the user should know although all went well.
func (p *program) warn(format string, args ...any) {
	fmt.Fprintf(p.err, "wgjail: warning: %s\n", fmt.Sprintf(format, args...))
}

// needRoot is the first thing that commands ask which change the system beyond
// jails.
func needRoot(cmd *cobra.Command) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return hint.Wrap(fmt.Errorf("%s needs root", cmd.CommandPath()), "try again with sudo")
}

// notSetID refuses to lend rights: a jail runs what it is told to, as whoever it
// is told to, so whoever may call it with root's rights has them all.
func notSetID() error {
	if os.Getuid() == os.Geteuid() && os.Getgid() == os.Getegid() {
		return nil
	}
	return hint.Wrap(errors.New("wgjail does not run with a set-user-ID or set-group-ID bit"),
		"take it away with chmod u-s,g-s, and use sudo or doas")
}

// noArgs checks the arguments of a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageHint(cmd, misused("unexpected argument %q", args[0]))
	}
	return nil
}

// oneArg checks the arguments of a command that takes one; missing asks for it.
func oneArg(missing string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usageHint(cmd, misused("%s", missing))
		case 1:
			return nil
		}
		return usageHint(cmd, misused("unexpected argument %q", args[1]))
	}
}

func usageHint(cmd *cobra.Command, err error) error {
	return hint.Wrap(err, "see: %s --help", cmd.CommandPath())
}

// checkJail reports whether a jail can be called name. None is none to check.
func checkJail(name string) error {
	if name == "" {
		return nil
	}
	if err := jail.CheckName(name); err != nil {
		return misuse{err}
	}
	return nil
}

// oneJail returns the name that was given, or that of $WGJAIL_JAIL, or that of
// the only jail there is.
func oneJail(name string) (string, error) {
	if name == "" {
		name = os.Getenv("WGJAIL_JAIL")
	}
	if name != "" {
		return name, checkJail(name)
	}
	names, err := jail.List()
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0:
		return "", hint.Wrap(errors.New("there is no jail"), "make one with: wgjail up vpn.conf")
	case 1:
		return names[0], nil
	}
	return "", hint.Wrap(misused("there are %d jails (%s): which one?", len(names), strings.Join(names, ", ")),
		"name it, or set WGJAIL_JAIL")
}
