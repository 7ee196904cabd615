package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

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
	source      string
	proxy       string
	to          string
	allow       []string
	detach      bool
	background  bool
	stop        bool
	reverse     bool
	limits      relay.Limits
	metrics     string
}

func (f *forwardFlags) register(fs *pflag.FlagSet) {
	f.registerService(fs, "the forwards of these SPECs")
	fs.StringVar(&f.netns, "netns", "", "forward into this network namespace instead of a jail: `NAME|PATH`")
	fs.StringVar(&f.to, "to", "", "`ADDRESS` of the service inside (default: the jail's loopback, then its addresses)")
	fs.BoolVar(&f.reverse, "reverse", false, "the other way round: listen in the jail, on its loopback unless SPEC has an ADDR, and connect to the host, to its loopback or --to")
	fs.StringVar(&f.metrics, "metrics", "", metricsUsage)
	f.registerAccess(fs)
}

// registerService registers the options of a command that serves clients until
// it is stopped; these are what --stop ends.
func (f *forwardFlags) registerService(fs *pflag.FlagSet, these string) {
	fs.StringVar(&f.jail, "jail", "", "the jail's `NAME`; not needed if there is one jail or WGJAIL_JAIL is set")
	fs.BoolVarP(&f.detach, "detach", "d", false, "go on in the background once the ports are open")
	fs.BoolVar(&f.stop, "stop", false, "end "+these+", or all of them")
	fs.BoolVar(&f.background, "background", false, "")
	fs.MarkHidden("background")
}

func (f *forwardFlags) registerAccess(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "mode", "relay", "how: relay, or veth, which lets the kernel redirect packets (needs iptables)")
	fs.StringVar(&f.source, "source", "", "whose address services inside see: jail or client (TCP; default: jail, with --mode veth client)")
	fs.StringVar(&f.proxy, "proxy-protocol", "", "tell services about their clients in this `VERSION` of the PROXY protocol: v1 or v2 (TCP)")
	f.registerClients(fs)
}

// registerClients registers what proxies have too.
func (f *forwardFlags) registerClients(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.allow, "allow", nil, "serve clients out of these `CIDR`s only, or any (default: the local networks)")
	fs.IntVar(&f.limits.MaxConns, "max-conns", 0, "most connections at a time (0: no limit)")
	fs.IntVar(&f.limits.MaxConnsPerClient, "max-conns-per-client", 0, "most connections at a time from one address (0: no limit)")
	fs.DurationVar(&f.limits.DialTimeout, "dial-timeout", 5*time.Second, "how long to wait for each address of the service")
	fs.DurationVar(&f.limits.IdleTimeout, "idle-timeout", 0, "end connections without traffic after this time (0: never)")
	fs.DurationVar(&f.limits.DrainTimeout, "drain-timeout", 10*time.Second, "how long connections may go on after the end of the forward")
}

// args returns the arguments that start the same forward in another process.
func (f *forwardFlags) args(place jail.Place) []string {
	args := append(f.serviceArgs("forward", place), "--mode", f.mode)
	if f.to != "" {
		args = append(args, "--to", f.to)
	}
	if f.reverse {
		args = append(args, "--reverse")
	}
	if f.source != "" {
		args = append(args, "--source", f.source)
	}
	if f.metrics != "" {
		args = append(args, "--metrics", f.metrics)
	}
	if f.proxy != "" {
		args = append(args, "--proxy-protocol", f.proxy)
	}
	return append(args, "--")
}

// serviceArgs begin with command, and are those of registerService and
// registerClients that another process needs.
func (f *forwardFlags) serviceArgs(command string, place jail.Place) []string {
	args := []string{command, "--background", "--max-conns", fmt.Sprint(f.limits.MaxConns), "--max-conns-per-client", fmt.Sprint(f.limits.MaxConnsPerClient),
		"--dial-timeout", f.limits.DialTimeout.String(), "--idle-timeout", f.limits.IdleTimeout.String(),
		"--drain-timeout", f.limits.DrainTimeout.String()}
	if len(f.allow) > 0 {
		args = append(args, "--allow", strings.Join(f.allow, ","))
	}
	if place.Jail == "" {
		return append(args, "--netns", place.Path)
	}
	return append(args, "--jail", place.Jail)
}

// options reads what the user wrote. It looks at nothing but that.
func (f *forwardFlags) options(args []string) (opts jail.ForwardOptions, err error) {
	switch opts.Mode = jail.Mode(f.mode); opts.Mode {
	case jail.ModeRelay, jail.ModeVeth:
	default:
		return opts, hint.Wrap(misused("unknown mode %q", f.mode), "the mode is relay or veth")
	}
	if f.to != "" {
		if opts.To, err = netip.ParseAddr(f.to); err != nil {
			return opts, hint.Wrap(misused("--to %s: not an IP address", f.to), "names are not resolved inside a jail")
		}
	}
	if f.jail != "" && f.netns != "" {
		return opts, misused("--jail and --netns exclude each other")
	}
	if err := checkMetrics(f.metrics); err != nil {
		return opts, err
	}
	if err := f.clients(&opts); err != nil {
		return opts, err
	}
	if opts.Source, opts.Proxy, err = f.identity(); err != nil {
		return opts, err
	}
	if opts.Specs, err = parseSpecs(args); err != nil {
		return opts, err
	}
	for i := range opts.Specs {
		opts.Specs[i].Reverse = f.reverse
	}
	if f.stop {
		return opts, nil
	}
	if err := opts.Check(); err != nil {
		return opts, misuse{err}
	}
	return opts, nil
}

// identity reads what services learn about their clients.
func (f *forwardFlags) identity() (source jail.Source, proxy relay.ProxyProtocol, err error) {
	switch source = jail.Source(f.source); source {
	case "", jail.SourceJail, jail.SourceClient:
	default:
		return "", 0, hint.Wrap(misused("unknown source %q", f.source), "the source is jail or client")
	}
	versions := map[string]relay.ProxyProtocol{"": 0, "v1": relay.ProxyV1, "v2": relay.ProxyV2}
	proxy, known := versions[f.proxy]
	if !known {
		return "", 0, hint.Wrap(misused("unknown version %q of the PROXY protocol", f.proxy), "the versions are v1 and v2")
	}
	return source, proxy, nil
}

// clients reads what proxies have too.
func (f *forwardFlags) clients(opts *jail.ForwardOptions) error {
	for _, a := range f.allow {
		if a == "any" {
			opts.Anyone = true
			continue
		}
		prefix, err := parsePrefix(a)
		if err != nil {
			return hint.Wrap(misused("--allow %s: not a network", a), "write networks as 192.168.1.0/24, or any")
		}
		opts.Allow = append(opts.Allow, prefix)
	}
	if err := checkJail(f.jail); err != nil {
		return err
	}
	if err := f.checkLimits(); err != nil {
		return err
	}
	opts.Limits = f.limits
	if opts.Limits.DrainTimeout == 0 {
		opts.Limits.DrainTimeout = -1 // here 0 means none; in relay it is the default
	}
	return nil
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
