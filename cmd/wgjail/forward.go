package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
	"github.com/wgjail/wgjail/relay"
)

// forwardFlags are the options of forwards. up and run have those that say
// who may connect.
type forwardFlags struct {
	jail, netns string
	mode        string
	to          string
	allow       []string
	detach      bool
	background  bool
	stop        bool
	limits      relay.Limits
}

const forwardLong = `Open ports of this host into a jail, until Ctrl-C. SPEC is as docker's:

  8080                   port 8080 here is port 8080 in the jail
  80:8080                port 80 here is port 8080 in the jail
  127.0.0.1:8080         only for programs on this host; an IPv6 address goes in [ ]
  8000-8010:9000-9010    a range
  53:53/udp              UDP; without it, TCP

Clients out of the local network are served, others are refused: see --allow.
In the jail a service is looked for at 127.0.0.1, at ::1 and at the jail's own
addresses. It sees the client with an address of the jail, never as local.`

func (p *program) forwardCommand() *cobra.Command {
	var f forwardFlags
	cmd := &cobra.Command{
		Use:   "forward [--jail NAME] SPEC…",
		Short: "open ports into a jail",
		Long:  forwardLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !f.stop {
				return usageHint(cmd, misused("which port?"))
			}
			return p.forward(cmd, args, &f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (f *forwardFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.jail, "jail", "", "the jail's `NAME`; not needed if there is one jail or WGJAIL_JAIL is set")
	fs.StringVar(&f.netns, "netns", "", "forward into this network namespace instead of a jail: `NAME|PATH`")
	fs.StringVar(&f.to, "to", "", "`ADDRESS` of the service inside (default: the jail's loopback, then its addresses)")
	fs.BoolVarP(&f.detach, "detach", "d", false, "go on in the background once the ports are open")
	fs.BoolVar(&f.stop, "stop", false, "end the forwards of these SPECs, or all of them")
	fs.BoolVar(&f.background, "background", false, "")
	fs.MarkHidden("background")
	f.registerAccess(fs)
}

func (f *forwardFlags) registerAccess(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "mode", "relay", "how: relay")
	fs.StringSliceVar(&f.allow, "allow", nil, "serve clients out of these `CIDR`s only, or any (default: the local networks)")
	fs.IntVar(&f.limits.MaxConns, "max-conns", 0, "most connections at a time (0: no limit)")
	fs.IntVar(&f.limits.MaxConnsPerClient, "max-conns-per-client", 0, "most connections at a time from one address (0: no limit)")
	fs.DurationVar(&f.limits.DialTimeout, "dial-timeout", 5*time.Second, "how long to wait for each address of the service")
	fs.DurationVar(&f.limits.IdleTimeout, "idle-timeout", 0, "end connections without traffic after this time (0: never)")
	fs.DurationVar(&f.limits.DrainTimeout, "drain-timeout", 10*time.Second, "how long connections may go on after the end of the forward")
}

// args returns the arguments that start the same forward in another process.
func (f *forwardFlags) args(place jail.Place) []string {
	args := []string{"forward", "--background", "--mode", f.mode,
		"--max-conns", fmt.Sprint(f.limits.MaxConns), "--max-conns-per-client", fmt.Sprint(f.limits.MaxConnsPerClient),
		"--dial-timeout", f.limits.DialTimeout.String(), "--idle-timeout", f.limits.IdleTimeout.String(),
		"--drain-timeout", f.limits.DrainTimeout.String()}
	if place.Jail != "" {
		args = append(args, "--jail", place.Jail)
	} else {
		args = append(args, "--netns", place.Path)
	}
	if f.to != "" {
		args = append(args, "--to", f.to)
	}
	if len(f.allow) > 0 {
		args = append(args, "--allow", strings.Join(f.allow, ","))
	}
	return append(args, "--")
}

func (p *program) forward(cmd *cobra.Command, args []string, f *forwardFlags) error {
	opts, err := f.options(args)
	if err != nil {
		return err
	}
	if err := needRoot(cmd); err != nil {
		return err
	}
	if opts.Into, err = f.place(); err != nil {
		return err
	}
	switch {
	case f.stop:
		return p.stopForwards(opts.Into, opts.Specs)
	case f.detach:
		return p.startForwards(opts.Into, args, f)
	}
	return p.serveForwards(opts, f)
}

// options reads what the user wrote. It looks at nothing but that.
func (f *forwardFlags) options(args []string) (opts jail.ForwardOptions, err error) {
	if f.mode != "relay" {
		return opts, hint.Wrap(misused("unknown mode %q", f.mode), "the mode is relay")
	}
	if f.to != "" {
		if opts.To, err = netip.ParseAddr(f.to); err != nil {
			return opts, hint.Wrap(misused("--to %s: not an IP address", f.to), "names are not resolved inside a jail")
		}
	}
	for _, a := range f.allow {
		if a == "any" {
			opts.Anyone = true
			continue
		}
		prefix, err := parsePrefix(a)
		if err != nil {
			return opts, hint.Wrap(misused("--allow %s: not a network", a), "write networks as 192.168.1.0/24, or any")
		}
		opts.Allow = append(opts.Allow, prefix)
	}
	if f.jail != "" && f.netns != "" {
		return opts, misused("--jail and --netns exclude each other")
	}
	if err := checkJail(f.jail); err != nil {
		return opts, err
	}
	if err := f.checkLimits(); err != nil {
		return opts, err
	}
	opts.Limits = f.limits
	if opts.Limits.DrainTimeout == 0 {
		opts.Limits.DrainTimeout = -1 // here 0 means none; in relay it is the default
	}
	opts.Specs, err = parseSpecs(args)
	return opts, err
}

// checkLimits refuses what is below zero: in relay it means something else.
func (f *forwardFlags) checkLimits() error {
	l := f.limits
	for name, below := range map[string]bool{
		"max-conns": l.MaxConns < 0, "max-conns-per-client": l.MaxConnsPerClient < 0,
		"dial-timeout": l.DialTimeout < 0, "idle-timeout": l.IdleTimeout < 0, "drain-timeout": l.DrainTimeout < 0,
	} {
		if below {
			return misused("--%s must not be below zero", name)
		}
	}
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix.Masked(), err
}

func parseSpecs(args []string) ([]jail.ForwardSpec, error) {
	var specs []jail.ForwardSpec
	for _, a := range args {
		s, err := jail.ParseForward(a)
		if err != nil {
			return nil, misuse{err}
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// place is where the forward leads.
func (f *forwardFlags) place() (jail.Place, error) {
	if f.netns == "" {
		name, err := oneJail(f.jail)
		return jail.Place{Jail: name}, err
	}
	return jail.PlaceOf(f.netns)
}

func (p *program) stopForwards(place jail.Place, specs []jail.ForwardSpec) error {
	stopped, err := jail.StopForwards(context.Background(), place, specs)
	for _, id := range stopped {
		fmt.Fprintf(p.out, "stopped %s\n", id)
	}
	if err == nil && len(stopped) == 0 {
		fmt.Fprintf(p.out, "nothing is forwarded into %s\n", place)
	}
	return err
}

// startForwards starts a background process for specs and returns when its
// ports are open.
func (p *program) startForwards(place jail.Place, specs []string, f *forwardFlags) error {
	log, err := jail.ForwardLog(place)
	if err != nil {
		return err
	}
	if log != nil {
		defer log.Close()
	}
	b, err := jail.StartBackground(append(f.args(place), specs...), nil, log)
	if err != nil {
		return err
	}
	if err := b.Commit(); err != nil {
		return err
	}
	p.sayForwards(place, specs, f)
	return nil
}

// serveForwards is a forward process. The first signal ends the forward, the
// second one its connections.
func (p *program) serveForwards(opts jail.ForwardOptions, f *forwardFlags) error {
	least, to := slog.LevelWarn, p.err
	if f.background {
		signal.Ignore(syscall.SIGHUP)
		least = slog.LevelInfo
	}
	opts.Log = p.log(to, least)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	fw, err := jail.OpenForward(ctx, opts)
	if err != nil {
		if f.background {
			jail.ReportReady(err)
		}
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		if n := fw.Active(); n > 0 && f.limits.DrainTimeout > 0 && !f.background {
			fmt.Fprintf(p.err, "wgjail: waiting up to %s for %s to end; again ends now\n", f.limits.DrainTimeout, count(n, "connection"))
		}
		stop()
		<-signals
		fw.Abort()
	}()
	err = fw.Serve(ctx, func() {
		if !f.background {
			p.sayForwards(opts.Into, specTexts(opts.Specs), f)
		} else if !jail.ReportReady(nil) {
			fw.Abort()
			stop()
		}
	})
	if errors.Is(err, jail.ErrStopped) {
		fmt.Fprintln(p.out, "stopped by wgjail forward --stop")
		return nil
	}
	return err
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func specTexts(specs []jail.ForwardSpec) []string {
	var texts []string
	for _, s := range specs {
		texts = append(texts, s.String())
	}
	return texts
}

func (p *program) sayForwards(place jail.Place, specs []string, f *forwardFlags) {
	who := "the local networks"
	if len(f.allow) > 0 {
		who = strings.Join(f.allow, ", ")
	}
	for _, s := range specs {
		fmt.Fprintf(p.out, "forwarding %s into %s, for %s\n", s, place, who)
	}
}

var errNoCommand = errors.New("no command given")
