package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wgjail/wgjail/jail"
)

// upFlags are what up and run have in common.
type upFlags struct {
	backend    string
	allowHooks bool
	strict     bool
	metrics    string
	publish    []string
	port       string // --provider-port
	onPort     string
	forward    forwardFlags
}

func (f *upFlags) register(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "forward this `SPEC` with it ([ADDR:]PORT[-PORT][:TARGET[-TARGET]][/tcp|/udp]); may be repeated")
	fs.StringVar(&f.backend, "backend", string(jail.Auto), "WireGuard to use: auto, kernel or userspace")
	fs.BoolVar(&f.allowHooks, "allow-hooks", false, "run the PreUp, PostUp, PreDown and PostDown commands, inside the jail")
	fs.BoolVar(&f.strict, "strict", false, "refuse a configuration file that others can read")
	fs.StringVar(&f.metrics, "metrics", "", metricsUsage)
	f.registerPort(fs)
	f.forward.registerAccess(fs)
}

// check reads what the user wrote, before anything is done.
func (f *upFlags) check() error {
	if _, err := jail.ParseBackend(f.backend); err != nil {
		return misuse{err}
	}
	if err := checkMetrics(f.metrics); err != nil {
		return err
	}
	if _, err := f.portRequest(); err != nil {
		return err
	}
	_, err := f.forward.options(f.publish)
	return err
}

func (p *program) upCommand() *cobra.Command {
	var f upFlags
	var foreground bool
	cmd := &cobra.Command{
		Use:   "up CONF|NAME",
		Short: "make a jail",
		Long: `Make a jail from a WireGuard configuration file, as a VPN provider hands it
out. NAME stands for /etc/wireguard/NAME.conf; for users who are not root, first
for ~/.config/wireguard/NAME.conf. The file's name without .conf becomes the name
of the jail, of its network namespace and of its interface.`,
		Args: oneArg("which configuration file?"), ValidArgsFunction: completeConfigs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if err := p.needRights(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return p.up(ctx, args[0], &f, foreground)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay until the jail ends; end it on SIGTERM and Ctrl-C")
	return cmd
}

func (p *program) up(ctx context.Context, conf string, f *upFlags, foreground bool) error {
	cfg, opts, err := p.openConfig(conf, f)
	if err != nil {
		return err
	}
	make := p.makeJail
	if foreground {
		make = p.makeJailPatiently
	}
	j, err := make(ctx, cfg, opts)
	ours := err == nil && len(j.Repaired) == 0
	if errors.Is(err, jail.ErrUp) {
		fmt.Fprintln(p.out, err)
		err = nil
	}
	if err != nil {
		return err
	}
	p.sayPort(ctx, j.Name, f)
	if len(f.publish) > 0 {
		err := p.startForwards(jail.Place{Jail: j.Name}, f.publish, &f.forward)
		if err != nil && ours { // else programs may be in it
			err = errors.Join(err, p.takeDown(j.Name, false))
		}
		if err != nil {
			return err
		}
	}
	if foreground {
		return p.stay(ctx, j, cfg, opts)
	}
	return nil
}

// openConfig reads what conf and the options say of a jail, and warns.
func (p *program) openConfig(conf string, f *upFlags) (*jail.Config, jail.UpOptions, error) {
	backend, err := jail.ParseBackend(f.backend)
	if err != nil {
		return nil, jail.UpOptions{}, misuse{err}
	}
	if err := jail.HideMemory(); err != nil {
		return nil, jail.UpOptions{}, err
	}
	cfg, err := jail.OpenConfig(conf, f.strict)
	if err != nil {
		return nil, jail.UpOptions{}, err
	}
	if f.allowHooks {
		cfg.DropHookWarnings()
	}
	for _, w := range cfg.Warnings {
		p.warn("%s", w)
	}
	port, err := f.portRequest()
	if err != nil {
		return nil, jail.UpOptions{}, err
	}
	return cfg, jail.UpOptions{
		Backend: backend, Port: port, AllowHooks: f.allowHooks, Started: p.started, Log: p.log(p.err, slog.LevelWarn),
		KeeperArgs: append(p.logArgs(), f.keeperArgs()...),
		Waiting:    func(host string) { fmt.Fprintf(p.err, "wgjail: looking up endpoint %s …\n", host) },
	}, nil
}

// makeJail makes or repairs the jail that cfg describes and says so. The error
// is jail.ErrUp if it is up; the jail that is returned has its name then.
func (p *program) makeJail(ctx context.Context, cfg *jail.Config, opts jail.UpOptions) (*jail.Jail, error) {
	j, err := jail.Up(ctx, cfg, opts)
	if errors.Is(err, jail.ErrUp) {
		return &jail.Jail{Name: cfg.Name}, err
	}
	if err != nil {
		return nil, err
	}
	p.sayJail(j)
	return j, nil
}

func (p *program) sayJail(j *jail.Jail) {
	if len(j.Repaired) > 0 {
		fmt.Fprintf(p.out, "jail %s was up and has been repaired: %s\n", j.Name, strings.Join(j.Repaired, "; "))
	} else {
		fmt.Fprintf(p.out, "jail %s is up (%s WireGuard, MTU %d)\n", j.Name, j.Backend, j.MTU)
	}
}

// hasteVariable makes keepers wait so many times less than usual, for tests.
const hasteVariable = "WGJAIL_TEST_HASTE"

// keeperArgs are the options of up that are the keeper's.
func (f *upFlags) keeperArgs() []string {
	if f.metrics == "" {
		return nil
	}
	return []string{"--metrics", f.metrics}
}

func (p *program) keeperCommand() *cobra.Command {
	var metrics string
	cmd := &cobra.Command{
		Use: jail.KeeperCommand + " NAME", Hidden: true, Args: oneArg("which jail?"),
		RunE: func(_ *cobra.Command, args []string) error {
			signal.Ignore(syscall.SIGHUP)
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			err := serveMetrics(ctx, metrics, func() (observed, error) { return observeJail(args[0]) })
			if err != nil {
				jail.ReportReady(err)
				return err
			}
			haste, _ := strconv.Atoi(os.Getenv(hasteVariable)) // none is as usual
			return jail.RunKeeper(ctx, args[0], p.log(os.Stderr, slog.LevelInfo), haste)
		},
	}
	cmd.Flags().StringVar(&metrics, "metrics", "", metricsUsage)
	return cmd
}
