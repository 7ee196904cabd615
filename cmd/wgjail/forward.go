package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/jail"
)

const forwardLong = `Open ports of this host into a jail, until Ctrl-C. SPEC is as docker's:

  8080                   port 8080 here is port 8080 in the jail
  80:8080                port 80 here is port 8080 in the jail
  127.0.0.1:8080         only for programs on this host; an IPv6 address goes in [ ]
  8000-8010:9000-9010    a range
  53:53/udp              UDP; without it, TCP

Clients out of the local network are served, others are refused: see --allow.
With --reverse one port of the jail leads to the host instead.

In the jail a service is looked for at 127.0.0.1, at ::1 and at the jail's own
addresses. It sees the client with an address of the jail, never as local: see
--source and --proxy-protocol.`

func (p *program) forwardCommand() *cobra.Command {
	var f forwardFlags
	cmd := &cobra.Command{
		Use:               "forward [--jail NAME] SPEC…",
		Short:             "open ports into a jail",
		Long:              forwardLong,
		ValidArgsFunction: f.completeForwards,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && (!f.stop || f.reverse) {
				return usageHint(cmd, misused("which port?"))
			}
			return p.forward(args, &f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (p *program) forward(args []string, f *forwardFlags) error {
	opts, err := f.options(args)
	if err != nil {
		return err
	}
	return p.settle(f, serving{
		into:  &opts.Into,
		stop:  func() error { return p.stopForwards(opts.Into, opts.Specs) },
		start: func() error { return p.startForwards(opts.Into, args, f) },
		serve: func() error { return p.serveForwards(opts, f) },
	})
}

// A serving is what a command does that serves clients.
type serving struct {
	into  *jail.Place
	stop  func() error // with --stop
	start func() error // with --detach
	serve func() error // else
}

// settle finds out where the service is to be and does what the user has asked
// for. What the user wrote has been read.
func (p *program) settle(f *forwardFlags, s serving) (err error) {
	if err := p.needRights(); err != nil {
		return err
	}
	if *s.into, err = f.place(); err != nil {
		return err
	}
	switch {
	case f.stop:
		return s.stop()
	case f.detach:
		return s.start()
	}
	return s.serve()
}

func (p *program) stopForwards(place jail.Place, specs []jail.ForwardSpec) error {
	stopped, err := jail.StopForwards(context.Background(), place, specs)
	return p.sayStopped(stopped, err, fmt.Sprintf("nothing is forwarded into %s", place))
}

// sayStopped says what has been stopped, or that there was nothing to stop.
func (p *program) sayStopped(stopped []string, err error, nothing string) error {
	for _, id := range stopped {
		fmt.Fprintf(p.out, "stopped %s\n", id)
	}
	if err == nil && len(stopped) == 0 {
		fmt.Fprintln(p.out, nothing)
	}
	return err
}

// startForwards starts a background process for specs and returns when its
// ports are open.
func (p *program) startForwards(place jail.Place, specs []string, f *forwardFlags) error {
	if err := p.startServing(place, append(f.args(place), specs...)); err != nil {
		return err
	}
	p.sayForwards(place, specs, f)
	return nil
}

// startServing starts wgjail with args in the background and returns when it
// serves.
func (p *program) startServing(place jail.Place, args []string) error {
	if err := jail.OnHost(); err != nil {
		return err
	}
	log, err := jail.ForwardLog(place)
	if err != nil {
		return err
	}
	if log != nil {
		defer log.Close()
	}
	b, err := jail.StartBackground(append(p.logArgs(), args...), nil, log)
	if err != nil {
		return err
	}
	return b.Commit()
}

// serveForwards is a forward process.
func (p *program) serveForwards(opts jail.ForwardOptions, f *forwardFlags) error {
	opts.Log = p.forwardLog(f)
	return p.serveUntilSignal(f, "forward", func(ctx context.Context) (*jail.Forwarder, error) {
		if err := serveMetrics(ctx, f.metrics, func() (observed, error) { return observeForwards(opts.Into) }); err != nil {
			return nil, err
		}
		return jail.OpenForward(ctx, opts)
	}, func() { p.sayForwards(opts.Into, specTexts(opts.Specs), f) })
}

// forwardLog returns the logger of a process that serves clients.
func (p *program) forwardLog(f *forwardFlags) *slog.Logger {
	if f.background {
		return p.log(p.err, slog.LevelInfo)
	}
	return p.log(p.err, slog.LevelWarn)
}

// serveUntilSignal is the life of a process that serves clients, of the command
// called name. The first signal ends the service, the second one its
// connections. say tells the user, if there is one, that it is ready.
func (p *program) serveUntilSignal(f *forwardFlags, name string, open func(context.Context) (*jail.Forwarder, error), say func()) error {
	if f.background {
		signal.Ignore(syscall.SIGHUP)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	fw, err := open(ctx)
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
			say()
			p.tellManager(daemon.SdNotifyReady)
		} else if !jail.ReportReady(nil) {
			fw.Abort()
			stop()
		}
	})
	if errors.Is(err, jail.ErrStopped) {
		fmt.Fprintf(p.out, "stopped by wgjail %s --stop\n", name)
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
	if f.reverse {
		to := "the host"
		if f.to != "" {
			to = f.to
		}
		for _, s := range specs {
			fmt.Fprintf(p.out, "forwarding %s out of %s, to %s\n", s, place, to)
		}
		return
	}
	who := "the local networks"
	if len(f.allow) > 0 {
		who = strings.Join(f.allow, ", ")
	}
	for _, s := range specs {
		fmt.Fprintf(p.out, "forwarding %s into %s, for %s\n", s, place, who)
	}
	if f.mode == string(jail.ModeVeth) {
		p.warnOfLoopback(place, specs)
	}
}

// warnOfLoopback says at once which services veth mode does not reach.
func (p *program) warnOfLoopback(place jail.Place, specs []string) {
	parsed, err := parseSpecs(specs)
	warning := ""
	if err == nil {
		warning, err = jail.LoopbackOnly(place, parsed)
	}
	if err != nil {
		warning = err.Error()
	}
	if warning != "" {
		p.warn("%s", warning)
	}
}

var errNoCommand = errors.New("no command given")
