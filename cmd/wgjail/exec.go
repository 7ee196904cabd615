package main

import (
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

// execFlags are the options of exec that run has too.
type execFlags struct {
	user     string
	isolate  bool
	keepCaps bool
}

func (f *execFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.user, "user", "", "run it as `USER[:GROUP]` (default: who called sudo or doas, else root)")
	fs.BoolVar(&f.isolate, "isolate", false, "also hide the session bus, container engines, X11, Wayland and terminal multiplexers")
	fs.BoolVar(&f.keepCaps, "keep-caps", false, "keep root's capabilities; the program can then undo the jail")
}

// args returns the options as arguments for another process.
func (f *execFlags) args() []string {
	var args []string
	if f.user != "" {
		args = append(args, "--user", f.user)
	}
	if f.isolate {
		args = append(args, "--isolate")
	}
	if f.keepCaps {
		args = append(args, "--keep-caps")
	}
	return args
}

func (p *program) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [NAME] -- COMMAND…",
		Short: "run a command in a jail",
		Long: `Run a command in a jail, in place of wgjail: its arguments, working directory,
environment, terminal, signals and exit status are its own. It runs as the user
who called sudo, without capabilities, and asks only the jail's name servers.`,
		ValidArgsFunction: p.completeBeforeCommand(completeJails(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, command, err := splitDash(cmd, args, 1)
			if err != nil {
				return err
			}
			name := ""
			if len(before) == 1 {
				name = before[0]
			}
			if err := checkJail(name); err != nil {
				return err
			}
			if err := p.needRights(); err != nil {
				return err
			}
			if name, err = oneJail(name); err != nil {
				return err
			}
			return p.exec(name, command, &f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// splitDash parts the arguments at the first "--". At most most of them may be
// before it, and a command must follow.
func splitDash(cmd *cobra.Command, args []string, most int) (before, command []string, err error) {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		return nil, nil, hint.Wrap(misused("%v", errNoCommand), "put it after --, as in: %s vpn -- curl https://example.com", cmd.CommandPath())
	}
	before, command = args[:dash], args[dash:]
	if len(command) == 0 {
		return nil, nil, usageHint(cmd, misused("%v after --", errNoCommand))
	}
	if len(before) > most {
		return nil, nil, usageHint(cmd, misused("too many arguments before --: %q", before))
	}
	return before, command, nil
}

// exec replaces wgjail with the command. It returns only if that cannot be.
func (p *program) exec(name string, command []string, f *execFlags) error {
	ns, err := jail.Open(name)
	if err != nil {
		return err
	}
	return jail.Exec(jail.ExecOptions{
		Namespace: ns, Name: name, Argv: command,
		User: f.user, Isolate: f.isolate, KeepCaps: f.keepCaps, Log: p.log(p.err, slog.LevelWarn),
	})
}
