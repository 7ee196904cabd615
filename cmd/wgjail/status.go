package main

import (
	"context"
	"encoding/json"
	"errors"
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

func (p *program) statusCommand() *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:               "status [NAME]",
		Short:             "show jails, their tunnels and forwards",
		ValidArgsFunction: completeJails(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if err := oneArg("")(cmd, args); err != nil {
					return err
				}
				if err := jail.CheckName(args[0]); err != nil {
					return misuse{err}
				}
			}
			if err := needRoot(cmd); err != nil {
				return err
			}
			if watch {
				return p.watchStatus(args, asJSON)
			}
			return p.printStatus(p.out, args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "print it again every second, until Ctrl-C")
	return cmd
}

func (p *program) watchStatus(args []string, asJSON bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for {
		var page strings.Builder
		if err := p.printStatus(&page, args, asJSON); err != nil {
			return err
		}
		if !asJSON {
			fmt.Fprint(p.out, "\x1b[H\x1b[2J") // the top of an empty screen
		}
		fmt.Fprint(p.out, page.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (p *program) printStatus(w io.Writer, names []string, asJSON bool) error {
	one := len(names) > 0
	if !one {
		var err error
		if names, err = jail.List(); err != nil {
			return err
		}
	}
	list := []*jail.Status{}
	for _, name := range names {
		s, err := jail.ReadStatus(name)
		if !one && errors.Is(err, jail.ErrNotUp) {
			continue // it has just been removed
		}
		if err != nil {
			return err
		}
		list = append(list, s)
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(w, "there is no jail")
	}
	for i, s := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		printJail(w, s)
	}
	if one {
		return nil
	}
	return printElsewhere(w)
}

// printElsewhere prints the forwards into namespaces that are not jails.
func printElsewhere(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	list, err := jail.ForwardsElsewhere()
	for i, f := range list {
		if i == 0 || f.Netns != list[i-1].Netns {
			fmt.Fprintf(t, "\nnamespace %s\n", f.Netns)
		}
		printForward(t, &f)
	}
	return err
}

func printJail(w io.Writer, s *jail.Status) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "jail %s\t%s\n", s.Name, s.State)
	for _, m := range s.Missing {
		fmt.Fprintf(t, "  missing\t%s\n", m)
	}
	fmt.Fprintf(t, "  tunnel\t%s WireGuard, MTU %d\n", s.Backend, s.MTU)
	fmt.Fprintf(t, "  addresses\t%s\n", join(s.Addresses))
	fmt.Fprintf(t, "  name servers\t%s\n", join(s.DNS))
	for _, peer := range s.Peers {
		fmt.Fprintf(t, "  peer\t%s at %s\n", peer.PublicKey, orNone(peer.Endpoint))
		fmt.Fprintf(t, "  \thandshake %s, %s received, %s sent\n", ago(peer.LatestHandshake), size(peer.RxBytes), size(peer.TxBytes))
	}
	for _, r := range s.Repairs {
		fmt.Fprintf(t, "  keeper\t%s: %s\n", ago(&r.At), r.What)
	}
	for _, f := range s.Forwards {
		printForward(t, &f)
	}
	for _, proc := range s.Processes {
		fmt.Fprintf(t, "  program\t%d %s\n", proc.PID, proc.Command)
	}
}

func printForward(w io.Writer, f *jail.ForwardStatus) {
	if f.Mode == jail.ProxyMode {
		fmt.Fprintf(w, "  proxy\t%s at %s, %d open of %d, %d refused, %s in, %s out\n",
			f.Proto, f.Listen, f.Active, f.Total, f.Refused, size(int64(f.BytesIn)), size(int64(f.BytesOut)))
		return
	}
	packets := ""
	if f.PacketsIn+f.PacketsOut > 0 {
		packets = fmt.Sprintf(" (%d and %d packets by rules)", f.PacketsIn, f.PacketsOut)
	}
	what := "forward"
	if f.Reverse {
		what = "reverse"
	}
	fmt.Fprintf(w, "  %s\t%s/%s to %s (%s), %d open of %d, %d refused, %s in, %s out%s\n",
		what, f.Listen, f.Proto, f.Target, how(f), f.Active, f.Total, f.Refused, size(int64(f.BytesIn)), size(int64(f.BytesOut)), packets)
	if f.Warning != "" {
		fmt.Fprintf(w, "  \t%s\n", f.Warning)
	}
}

// how names the mode of a forward, and what it tells services of their clients
// beyond the mode's default.
func how(f *jail.ForwardStatus) string {
	text := string(f.Mode)
	if f.Mode == jail.ModeRelay && f.Source == jail.SourceClient {
		text += ", source client"
	}
	if f.Proxy != "" {
		text += ", PROXY " + f.Proxy
	}
	return text
}

func join[T fmt.Stringer](list []T) string {
	var texts []string
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return orNone(strings.Join(texts, ", "))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func ago(t *time.Time) string {
	if t == nil {
		return "none yet"
	}
	return time.Since(*t).Round(time.Second).String() + " ago"
}

// size prints a number of bytes with a binary prefix.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for ; v >= 1024 && unit < 4; unit++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[unit])
}
