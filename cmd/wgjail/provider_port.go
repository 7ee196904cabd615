package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

// portPatience is how long up and run wait for the provider's port.
const portPatience = 10 * time.Second

func (f *upFlags) registerPort(fs *pflag.FlagSet) {
	fs.StringVar(&f.port, "provider-port", "", "have the provider lead a port to the jail: `natpmp[=GATEWAY]` or pcp[=GATEWAY] (default gateway: the name server)")
	fs.StringVar(&f.onPort, "on-port", "", "run this shell `COMMAND` in the jail whenever the provider's port is new: it is $WGJAIL_PORT")
}

// portRequest is what the options say of a provider port; nil is nothing.
func (f *upFlags) portRequest() (*jail.PortRequest, error) {
	if f.port == "" {
		if f.onPort != "" {
			return nil, hint.Wrap(misused("--on-port without a provider port"), "ask for one with --provider-port natpmp")
		}
		return nil, nil
	}
	r, err := jail.ParsePortRequest(f.port)
	if err != nil {
		return nil, misuse{err}
	}
	r.OnPort = f.onPort
	return r, nil
}

// sayPort waits for the provider's port, if it was asked for, and says it. That
// there is none yet is no failure: the jail is up, and the provider is asked on.
func (p *program) sayPort(ctx context.Context, name string, f *upFlags) {
	if f.port == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	switch port := jail.WaitProviderPort(ctx, name); {
	case port == nil:
		p.warn("the provider has given no port yet; it is asked again: see wgjail status %s", name)
	case port.Port == 0:
		p.warn("the provider gives no port: %s; it is asked again: see wgjail status %s", port.Error, name)
	default:
		fmt.Fprintln(p.out, portText(port))
	}
}

func portText(port *jail.ProviderPort) string {
	text := fmt.Sprintf("provider port %d, TCP and UDP", port.Port)
	if port.LocalPort != port.Port {
		text += fmt.Sprintf(", leads to port %d in the jail", port.LocalPort)
	}
	return text
}

func printPort(w io.Writer, p *jail.ProviderPort) {
	text := "none"
	if p.Port != 0 {
		text = strings.TrimPrefix(portText(p), "provider port ")
	}
	if p.Error != "" {
		text += ": " + p.Error
	}
	fmt.Fprintf(w, "  provider port\t%s (%s, %s)\n", text, p.Protocol, p.Gateway)
}
