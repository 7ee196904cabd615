package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

// checkRootless looks whether the calling user, or whoever has called sudo, can
// make jails without root.
func (p *program) checkRootless(cmd *cobra.Command, name string, asJSON bool) error {
	if name != "" {
		return hint.Wrap(misused("check --rootless looks at the machine, not at jail %s", name), "leave the name out")
	}
	for _, other := range []string{"egress", "timeout"} {
		if cmd.Flags().Changed(other) {
			return misused("--rootless and --%s exclude each other", other)
		}
	}
	if os.Geteuid() == 0 {
		return p.checkInvoker(asJSON)
	}
	r, err := jail.CheckRootless()
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(p.out, r); err != nil {
			return err
		}
	} else {
		counts := p.printProbes("jails without root, made by "+r.User, r.Probes, nil)
		fmt.Fprintln(p.out, summary("wgjail works without root here", counts))
	}
	if !r.OK {
		return exitStatus(exitFailed)
	}
	return nil
}

// checkInvoker has the user behind root look.
func (p *program) checkInvoker(asJSON bool) error {
	args := []string{"check", "--rootless"}
	if asJSON {
		args = append(args, "--json")
	}
	cmd, err := jail.AsInvoker(args...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.err
	return statusOf(cmd.Run())
}

// trialCommand is the program that check --rootless starts in a user namespace.
func (p *program) trialCommand() *cobra.Command {
	return &cobra.Command{
		Use: jail.TrialCommand, Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return jail.Trial(p.out) },
	}
}
