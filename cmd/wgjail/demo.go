package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/jail"
)

const demoLong = `Show the whole thing without a VPN account, a kernel module or a firewall rule: a
local provider with a WireGuard server, a jail whose tunnel ends there, a small
web page in the jail, and a forward to it. What is claimed is measured: the page
is fetched through the forward, it fetches something from the provider's side
itself, and every packet on this host is looked at meanwhile.`

func (p *program) demoCommand() *cobra.Command {
	var once bool
	var port uint16
	cmd := &cobra.Command{
		Use: "demo", Short: "show it all, without a VPN account", Long: demoLong, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			d := &demo{program: p, ctx: ctx, port: port}
			err := d.run(once)
			return errors.Join(err, d.clean())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "prove it, clean up and end; exit status 1 if anything was not as promised")
	cmd.Flags().Uint16Var(&port, "port", 0, "`PORT` of this host for the page (default: 8080, or a free one)")
	return cmd
}

// A demo is one run of wgjail demo. clean undoes whatever run has got to.
type demo struct {
	*program
	ctx     context.Context
	port    uint16
	undo    []func() error
	name    string
	inside  *netnsx.Namespace // the provider's side of the tunnel
	server  *provider.Provider
	witness *witness
}

// demoPage is where the page listens in the jail.
var demoPage = netip.MustParseAddrPort("127.0.0.1:8080")

func (d *demo) run(once bool) error {
	for _, step := range []func() error{d.choose, d.startProvider, d.watch, d.makeJail, d.startPage, d.openPort, d.prove} {
		if err := d.ctx.Err(); err != nil {
			return errors.New("demo interrupted")
		}
		if err := step(); err != nil {
			return err
		}
	}
	if once {
		return nil
	}
	fmt.Fprintf(d.out, "\nopen %s\n", strings.Join(d.urls(), " or "))
	fmt.Fprintf(d.out, "look around in another terminal: wgjail status; wgjail exec %s -- ip address\n", d.name)
	fmt.Fprintln(d.out, "Ctrl-C ends it and removes everything")
	<-d.ctx.Done()
	fmt.Fprintln(d.out)
	return nil
}

func (d *demo) later(f func() error) { d.undo = append(d.undo, f) }

// clean undoes the steps, the last one first, and goes on past errors.
func (d *demo) clean() error {
	var errs []error
	for len(d.undo) > 0 {
		last := len(d.undo) - 1
		errs = append(errs, d.undo[last]())
		d.undo = d.undo[:last]
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "everything is removed")
	return nil
}

// choose finds a name and a port that nobody uses.
func (d *demo) choose() error {
	names, err := jail.List()
	if err != nil {
		return err
	}
	d.name = "demo"
	for i := 2; strings.Contains(" "+strings.Join(names, " ")+" ", " "+d.name+" "); i++ {
		d.name = fmt.Sprintf("demo%d", i)
	}
	if d.port != 0 {
		return nil
	}
	for _, port := range []string{":8080", ":0"} {
		l, err := net.Listen("tcp", port)
		if err != nil {
			continue
		}
		d.port = netip.MustParseAddrPort(l.Addr().String()).Port()
		return l.Close()
	}
	return errors.New("no free port")
}

func (d *demo) startProvider() error {
	var err error
	if d.inside, err = netnsx.New(); err != nil {
		return err
	}
	d.later(d.inside.Close)
	d.server, err = provider.New(provider.Config{
		Inside: d.inside, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), Record: true,
	})
	if err != nil {
		return fmt.Errorf("start the provider: %w", err)
	}
	d.later(d.server.Close)
	fmt.Fprintf(d.out, "provider  a WireGuard server of its own, at %s\n", d.server.Endpoint())
	return nil
}

func (d *demo) watch() error {
	var err error
	if d.witness, err = newWitness(d.server.Endpoint()); err != nil {
		return hint.Wrap(fmt.Errorf("watch the host's packets: %w", err), "the demo needs packet sockets (CAP_NET_RAW)")
	}
	d.later(d.witness.close)
	return nil
}

func (d *demo) makeJail() error {
	client, err := d.server.AddClient()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "wgjail-demo-")
	if err != nil {
		return err
	}
	d.later(func() error { return os.RemoveAll(dir) })
	conf := filepath.Join(dir, d.name+".conf")
	if err := os.WriteFile(conf, []byte(client.Config()), 0o600); err != nil {
		return err
	}
	cfg, err := jail.OpenConfig(conf, true)
	if err != nil {
		return err
	}
	j, err := jail.Up(d.ctx, cfg, jail.UpOptions{Log: d.log(d.err, slog.LevelWarn)})
	if err != nil {
		return err
	}
	d.later(func() error {
		_, err := jail.Down(context.Background(), d.name, jail.DownOptions{Kill: true})
		return err
	})
	fmt.Fprintf(d.out, "jail      %s is up (%s WireGuard, MTU %d); the file was the provider's, unchanged\n", d.name, j.Backend, j.MTU)
	return nil
}

// startPage runs the page's program in the jail, as any other program is.
func (d *demo) startPage() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	page := exec.Command("/proc/self/exe", "exec", d.name, "--", self, "demo-page")
	page.Args[0] = "wgjail"
	page.Stdout, page.Stderr = in, d.err
	page.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo; the page ends with the jail
	err = page.Start()
	in.Close()
	if err != nil {
		return err
	}
	d.later(func() error { page.Process.Kill(); page.Wait(); return nil })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return errors.New("the page in the jail did not start")
	}
	fmt.Fprintf(d.out, "page      a web server in the jail, on %s: not reachable from here\n", demoPage)
	return nil
}

func (d *demo) openPort() error {
	spec := fmt.Sprintf("%d:%d", d.port, demoPage.Port())
	f := &forwardFlags{mode: "relay"}
	f.limits.DrainTimeout = time.Second
	place := jail.Place{Jail: d.name}
	b, err := jail.StartBackground(append(f.args(place), spec), nil, nil)
	if err != nil {
		return err
	}
	if err := b.Commit(); err != nil { // it ends with the jail
		return err
	}
	fmt.Fprintf(d.out, "forward   wgjail forward %s\n", spec)
	return nil
}

// prove measures what the demo claims, and prints it.
func (d *demo) prove() error {
	fmt.Fprintln(d.out)
	canary := rand.Text()
	url := fmt.Sprintf("http://127.0.0.1:%d/fetch?canary=%s", d.port, canary)
	got, err := fetch(d.ctx, url)
	if err != nil {
		return fmt.Errorf("fetch the page through the forward: %w", err)
	}
	d.proved("the page was fetched through port %d of this host", d.port)
	inner := strings.TrimSpace(got)
	if a, err := netip.ParseAddr(inner); err != nil || !a.IsPrivate() {
		return fmt.Errorf("the provider saw the page's program as %q, which is no address of the tunnel", inner)
	}
	d.proved("the page's program asked a server on the internet side, which saw it as %s", inner)
	if n := len(d.server.Find([]byte(canary))); n == 0 {
		return errors.New("its request was not seen inside the tunnel")
	}
	d.proved("its request came out of the tunnel at the provider")
	seen, err := d.witness.account(canary)
	if err != nil {
		return err
	}
	if seen.encrypted == 0 {
		return errors.New("no WireGuard packet was seen on this host, so the watch proves nothing")
	}
	if len(seen.leaks) > 0 {
		return fmt.Errorf("its request was seen outside the tunnel: %s", strings.Join(seen.leaks, "; "))
	}
	d.proved("of %d packets on this host's interfaces, %d were WireGuard's and none showed the request", seen.frames, seen.encrypted)
	return nil
}

func (d *demo) proved(format string, args ...any) {
	fmt.Fprintf(d.out, "proven    %s\n", fmt.Sprintf(format, args...))
}

func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	// The answer of the forward, not of a proxy in the environment.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// urls are where the page can be opened: on this host and from its LAN.
func (d *demo) urls() []string {
	list := []string{fmt.Sprintf("http://127.0.0.1:%d/", d.port)}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsPrivate() {
			list = append(list, fmt.Sprintf("http://%s:%d/", p.Addr(), d.port))
		}
	}
	return list
}
