package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/jail"
)

func (p *program) downCommand() *cobra.Command {
	var all, kill bool
	cmd := &cobra.Command{
		Use:   "down NAME… | --all",
		Short: "remove a jail and everything made for it",
		Long: `Remove a jail: its forwards, tunnel, rules, files and name. It works whatever is
left of the jail, and as often as you like. Programs inside go on without any
network, unless --kill ends them.`,
		ValidArgsFunction: completeJails(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) != all {
				return usageHint(cmd, misused("name the jails to remove, or give --all"))
			}
			for _, name := range args {
				if err := jail.CheckName(name); err != nil {
					return misuse{err}
				}
			}
			if err := p.needRights(); err != nil {
				return err
			}
			return p.down(args, kill)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every jail")
	cmd.Flags().BoolVar(&kill, "kill", false, "end the programs inside as well")
	return cmd
}

// down removes the jails called names, or all if there are no names.
func (p *program) down(names []string, kill bool) error {
	if len(names) == 0 {
		var err error
		if names, err = jail.List(); err != nil {
			return err
		}
		if len(names) == 0 {
			fmt.Fprintln(p.out, "there is no jail")
		}
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, p.takeDown(name, kill))
	}
	return errors.Join(errs...)
}

// takeDown removes one jail and says what it found. It is not to be stopped
// halfway by an impatient Ctrl-C.
func (p *program) takeDown(name string, kill bool) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	report, err := jail.Down(context.Background(), name, jail.DownOptions{Kill: kill, Log: p.log(p.err, slog.LevelWarn)})
	if report != nil {
		for _, inside := range report.Inside {
			p.warn("still running in jail %s, without any network: %d %s", name, inside.PID, inside.Command)
		}
		if len(report.Inside) > 0 {
			p.warn("end them with kill; next time: wgjail down --kill %s", name)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("jail %s: %w", name, err)
	case report.Existed:
		fmt.Fprintf(p.out, "jail %s is down\n", name)
	default:
		fmt.Fprintf(p.out, "jail %s is not up: nothing to do\n", name)
	}
	return nil
}
