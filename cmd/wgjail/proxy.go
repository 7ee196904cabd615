package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/jail"
)

// proxyFlags are the options of proxies. Many are those of forwards.
type proxyFlags struct {
	forwardFlags
	socks5, http []string
	users        string
}

const proxyLong = `Serve a SOCKS5 or HTTP proxy on this host, until Ctrl-C: what a browser or any
other program connects to through it, it reaches as if it were in the jail, by
way of the tunnel. Names are looked up by the jail's name servers.

ADDR is [ADDR:]PORT, and only programs on this host can connect unless it says
otherwise: 192.168.1.2:1080, or *:1080 for all addresses. Then --allow has a say,
as with wgjail forward, and --users asks for a password. Without an ADDR there is
a SOCKS5 proxy at port 1080.

A proxy is for programs that use it. What they do past it does not go through
the tunnel: to hold a program, run it in the jail.`

const proxyExample = `  wgjail proxy
  wgjail proxy -d --socks5 1080 --http 8118
  curl --proxy socks5h://localhost:1080 https://example.com`

// defaultSOCKS5 is the port that IANA has for SOCKS.
const defaultSOCKS5 = "1080"

func (p *program) proxyCommand() *cobra.Command {
	var f proxyFlags
	cmd := &cobra.Command{
		Use:     "proxy [--jail NAME] [--socks5 ADDR] [--http ADDR]",
		Short:   "let programs of this host use a jail's tunnel",
		Long:    proxyLong,
		Example: proxyExample,
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return p.proxy(&f) },
	}
	fs := cmd.Flags()
	f.registerService(fs, "the proxies at these ADDRs")
	fs.StringSliceVar(&f.socks5, "socks5", nil, "serve SOCKS5 at `ADDR`")
	fs.StringSliceVar(&f.http, "http", nil, "serve HTTP, and CONNECT for the rest, at `ADDR`")
	fs.StringVar(&f.users, "users", "", "ask for a name and password: one of the lines NAME:PASSWORD in `FILE`")
	f.registerClients(fs)
	timeout := fs.Lookup("dial-timeout")
	timeout.Usage, timeout.DefValue = "how long a target may take, its name included", "20s"
	f.limits.DialTimeout = 20 * time.Second
	return cmd
}

func (p *program) proxy(f *proxyFlags) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	return p.settle(&f.forwardFlags, serving{
		into:  &opts.Into,
		stop:  func() error { return p.stopProxies(opts) },
		start: func() error { return p.startProxies(opts, f) },
		serve: func() error { return p.serveProxies(opts, f) },
	})
}

// serveProxies is a proxy process.
func (p *program) serveProxies(opts jail.ProxyOptions, f *proxyFlags) error {
	opts.Log = p.forwardLog(&f.forwardFlags)
	return p.serveUntilSignal(&f.forwardFlags, "proxy", func(ctx context.Context) (*jail.Forwarder, error) {
		return jail.OpenProxy(ctx, opts)
	}, func() { p.sayProxies(opts, f) })
}

// options reads what the user wrote. It looks at nothing but that.
func (f *proxyFlags) options() (opts jail.ProxyOptions, err error) {
	if err := f.clients(&opts.ForwardOptions); err != nil {
		return opts, err
	}
	if len(f.socks5)+len(f.http) == 0 && !f.stop {
		f.socks5 = []string{defaultSOCKS5}
	}
	if opts.Ports, err = f.ports(); err != nil {
		return opts, misuse{err}
	}
	if f.users != "" {
		opts.Users, err = filepath.Abs(f.users)
	}
	return opts, err
}

func (f *proxyFlags) ports() (all []jail.ProxySpec, err error) {
	for _, text := range f.socks5 {
		s, err := jail.ParseProxy(jail.SOCKS5, text)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	for _, text := range f.http {
		s, err := jail.ParseProxy(jail.HTTP, text)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (p *program) stopProxies(opts jail.ProxyOptions) error {
	stopped, err := jail.StopProxies(context.Background(), opts.Into.Jail, opts.Ports)
	return p.sayStopped(stopped, err, fmt.Sprintf("%s has no proxy", opts.Into))
}

// startProxies starts a background process and returns when its ports are open.
func (p *program) startProxies(opts jail.ProxyOptions, f *proxyFlags) error {
	args := f.serviceArgs("proxy", opts.Into)
	for _, s := range opts.Ports {
		args = append(args, fmt.Sprintf("--%s", s.Protocol), s.String())
	}
	if opts.Users != "" {
		args = append(args, "--users", opts.Users)
	}
	if err := p.startServing(opts.Into, args); err != nil {
		return err
	}
	p.sayProxies(opts, f)
	return nil
}

func (p *program) sayProxies(opts jail.ProxyOptions, f *proxyFlags) {
	names := map[string]string{string(jail.SOCKS5): "SOCKS5", string(jail.HTTP): "HTTP"}
	for _, s := range opts.Ports {
		who := "this host"
		if !s.Local() {
			who = "the local networks"
		}
		if len(f.allow) > 0 {
			who = strings.Join(f.allow, ", ")
		}
		fmt.Fprintf(p.out, "%s proxy at %s into %s, for %s\n", names[string(s.Protocol)], s, opts.Into, who)
	}
}
