package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/jail"
)

func (p *program) checkCommand() *cobra.Command {
	var asJSON, rootless bool
	var opts jail.CheckOptions
	cmd := &cobra.Command{
		Use:   "check [NAME]",
		Short: "prove that nothing leaks from a jail",
		Long: `Look at a jail from the host, and with the eyes of the programs inside: is each
part as up made it, does every way out lead into the tunnel, who is asked for
names, what could a program do to leave? It sends a few packets through the
tunnel, and changes nothing. Exit status 1 means that a probe has failed.

With --rootless, look instead whether this user can make jails without root on
this machine, and say exactly what is missing and how to get it.`,
		ValidArgsFunction: completeJails(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				if err := oneArg("")(cmd, args); err != nil {
					return err
				}
				name = args[0]
			}
			if rootless {
				return p.checkRootless(cmd, name, asJSON)
			}
			if err := checkJail(name); err != nil {
				return err
			}
			if opts.Patience <= 0 {
				return misused("--timeout %v: it must be more than nothing", opts.Patience)
			}
			if err := p.needRights(); err != nil {
				return err
			}
			name, err := oneJail(name)
			if err != nil {
				return err
			}
			return p.check(name, opts, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "look whether this user can make jails without root, instead of at a jail")
	cmd.Flags().StringVar(&opts.Egress, "egress", "", "fetch this `URL`, of a page that says whom it sees, from inside and from the host, and compare")
	cmd.Flags().DurationVar(&opts.Patience, "timeout", 5*time.Second, "how long to wait for answers out of the tunnel")
	return cmd
}

func (p *program) check(name string, opts jail.CheckOptions, asJSON bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := jail.Check(ctx, name, opts)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(p.out, r)
	} else {
		counts := p.printProbes("jail "+r.Name, r.Probes, r.Warnings)
		fmt.Fprintln(p.out, summary("nothing leaks", counts))
	}
	if err == nil && !r.OK {
		err = exitStatus(exitFailed)
	}
	return err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// resultColours are those of terminals: green, red and grey (ECMA-48).
var resultColours = map[jail.Result]string{jail.Passed: "32", jail.Failed: "1;31", jail.NotApplicable: "90"}

// printProbes prints a table under a title, and returns how many ended how.
func (p *program) printProbes(title string, probes []jail.Finding, warnings []string) map[jail.Result]int {
	counts := map[jail.Result]int{}
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, f := range probes {
		counts[f.Result]++
		fmt.Fprintf(t, "  %s\t%s\t%s\n", f.Result, f.Probe, f.Why)
		if f.Do != "" {
			fmt.Fprintf(t, "  \t\tto do: %s\n", f.Do)
		}
	}
	t.Flush()
	text := table.String()
	if p.colours() {
		text = colourResults(text)
	}
	fmt.Fprintf(p.out, "%s\n%s", title, text)
	for _, warning := range warnings {
		fmt.Fprintf(p.out, "  warning: %s\n", warning)
	}
	return counts
}

// summary says in one line what the table says; good is what it means that
// nothing has failed.
func summary(good string, counts map[jail.Result]int) string {
	rest := ""
	if n := counts[jail.NotApplicable]; n > 0 {
		rest = fmt.Sprintf("; %d not applicable", n)
	}
	if counts[jail.Failed] == 0 {
		return fmt.Sprintf("%s: all %d probes passed%s", good, counts[jail.Passed], rest)
	}
	return fmt.Sprintf("%d of %d probes failed%s", counts[jail.Failed], counts[jail.Failed]+counts[jail.Passed], rest)
}

// colourResults colours the results at the beginning of lines.
func colourResults(table string) string {
	var b strings.Builder
	for line := range strings.Lines(table) {
		for result, colour := range resultColours {
			if rest, ok := strings.CutPrefix(line, "  "+string(result)+" "); ok {
				line = fmt.Sprintf("  \x1b[%sm%s\x1b[0m %s", colour, result, rest)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// insideCommand is the program that check starts in the jail.
func (p *program) insideCommand() *cobra.Command {
	return &cobra.Command{
		Use: jail.InsideCommand, Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return jail.Inside(p.in, p.out) },
	}
}
