package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/bench"
	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/hint"
)

const benchLong = `Measure what a forward costs on this machine: the relay and veth against each
other, against no forwarder at all, and against the other forwarders that are
installed. It needs nothing: it makes a lab of namespaces, in mount, process and
network namespaces of its own, and its own load. It touches no interface, rule
or file of this host. Ctrl-C ends it and prints what there is until then.

Every round puts each workload through each mode in turn, so that what else the
machine does falls on all of them. Tables show the median of the rounds, the
least and the greatest, and the ratio to the relay, measured side by side, with
its 95 %% interval (bootstrap).

Modes: %s.

Workloads: %s.
Those that begin with wrk and iperf3 check the load generator against these
programs; they are done only when they are named.

With --compare the exit status is 1 if a figure of wgjail's is worse than in the
older run beyond noise: by more than 5 %%, with certainty, and by itself as well
as against native, which moves with the machine.`

// benchFlags are the options of wgjail bench.
type benchFlags struct {
	cfg                          bench.Config
	asJSON                       bool
	csvFile, htmlFile, compareTo string
}

func (p *program) benchCommand() *cobra.Command {
	var f benchFlags
	modes, workloads := bench.Names()
	cmd := &cobra.Command{
		Use: "bench", Short: "compare the modes, and the peers that are installed", Args: noArgs,
		Long: fmt.Sprintf(benchLong, wrapped(modes), wrapped(workloads)),
		Example: `  wgjail bench
  wgjail bench --modes relay,veth --workloads requests-64,download
  wgjail bench --json >before.json
  wgjail bench --compare before.json --html report.html`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.cfg.Check(); hint.Of(err) != "" {
				return misuse{err}
			} else if err != nil {
				return usageHint(cmd, misuse{err})
			}
			if err := needRoot(cmd); err != nil {
				return err
			}
			return p.bench(&f)
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&f.cfg.Modes, "modes", nil, "measure only these `MODES`, with commas between them, and generator, by which figures are marked")
	fs.StringSliceVar(&f.cfg.Workloads, "workloads", nil, "do only these `WORKLOADS`, with commas between them")
	fs.DurationVar(&f.cfg.Duration, "duration", 200*time.Millisecond, "how `LONG` each measurement takes")
	fs.IntVar(&f.cfg.Rounds, "rounds", 5, "how `OFTEN` each is made")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON, with each value")
	fs.StringVar(&f.csvFile, "csv", "", "also write each value to `FILE`, as CSV; - is standard output, instead of tables")
	fs.StringVar(&f.htmlFile, "html", "", "also write a page with charts to `FILE`")
	fs.StringVar(&f.compareTo, "compare", "", "say what has moved since `FILE`, which --json wrote; exit status 1 if for the worse")
	cmd.RegisterFlagCompletionFunc("modes", listOf(modes))
	cmd.RegisterFlagCompletionFunc("workloads", listOf(workloads))
	for _, name := range []string{"csv", "html", "compare"} {
		cmd.RegisterFlagCompletionFunc(name, completeFile)
	}
	return cmd
}

// listOf offers words for a list with commas: those that are not in it yet.
func listOf(words []string) completer {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		at := strings.LastIndex(word, ",") + 1
		have := strings.Split(word[:at], ",")
		var offers []string
		for _, w := range words {
			if !slices.Contains(have, w) {
				offers = append(offers, word[:at]+w)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// completeFile leaves it to the shell.
func completeFile(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// wrapped lists names in lines that fit a terminal.
func wrapped(names []string) string {
	var b strings.Builder
	width := 12
	for i, n := range names {
		if i > 0 {
			b.WriteString(",")
			if width+len(n)+2 > 78 {
				b.WriteString("\n")
				width = 0
			} else {
				b.WriteString(" ")
			}
		}
		b.WriteString(n)
		width += len(n) + 2
	}
	return b.String()
}

// bench runs the benchmark and shows what it has found.
func (p *program) bench(f *benchFlags) error {
	before, err := readReport(f.compareTo)
	if err != nil {
		return err
	}
	outputs, err := f.open(p.out)
	if err != nil {
		return err
	}
	f.cfg.Version, f.cfg.Command = version(), "wgjail "+strings.Join(p.args, " ")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	r, err := p.measure(ctx, f.cfg)
	if err != nil {
		return errors.Join(err, outputs.discard())
	}
	if err := outputs.write(r); err != nil {
		return err
	}
	if r.Interrupted {
		return errors.New("interrupted: these are the figures until then")
	}
	if before == nil {
		return nil
	}
	return p.compare(r, before, f)
}

// readReport reads what --compare names; nil: nothing is to be compared.
func readReport(path string) (*report.Report, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := report.Read(file)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", path, err), "write one with: wgjail bench --json >%s", path)
	}
	return r, nil
}

// compare says what has moved. Where standard output is for programs, that goes
// to standard error.
func (p *program) compare(now, before *report.Report, f *benchFlags) error {
	c, err := report.Compare(now, before, bench.Ours(), bench.Anchor)
	if err != nil {
		return fmt.Errorf("compare with %s: %w", f.compareTo, err)
	}
	to := p.out
	if f.asJSON || f.csvFile == "-" {
		to = p.err
	}
	if err := c.Text(to); err != nil {
		return err
	}
	if c.Regressed() {
		return exitStatus(exitFailed)
	}
	return nil
}
