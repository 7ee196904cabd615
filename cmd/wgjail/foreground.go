package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/wgjail/wgjail/jail"
)

// tellManager tells the service manager, if there is one (sd_notify(3)).
func (p *program) tellManager(states ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(states, "\n")); err != nil {
		p.warn("tell the service manager: %v", err)
	}
}

// makeJailPatiently is makeJail, but waits until the endpoint's name can be
// looked up: at boot the network comes when it comes.
func (p *program) makeJailPatiently(ctx context.Context, cfg *jail.Config, opts jail.UpOptions) (*jail.Jail, error) {
	for wait := time.Second; ; wait = min(2*wait, 15*time.Second) {
		j, err := p.makeJail(ctx, cfg, opts)
		var unknown *net.DNSError
		if !errors.As(err, &unknown) || ctx.Err() != nil {
			return j, err
		}
		p.warn("%v; trying again in %s", err, wait)
		p.tellManager("STATUS=waiting for the address of the endpoint: " + unknown.Error())
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// stay keeps up in the foreground and the jail in order, until it is told to
// end, and then the jail ends too, or until the jail is removed.
func (p *program) stay(ctx context.Context, j *jail.Jail, cfg *jail.Config, opts jail.UpOptions) error {
	p.tellManager(daemon.SdNotifyReady, "STATUS=up")
	err := jail.Supervise(ctx, j, cfg, opts, jail.Watcher{
		Alive: func() { p.tellManager(daemon.SdNotifyWatchdog) },
		Repaired: func(j *jail.Jail) {
			p.sayJail(j)
			p.tellManager("STATUS=up; last repaired at " + time.Now().Format(time.TimeOnly))
		},
		Trouble: func(err error) {
			p.warn("%v; nothing leaves the jail; trying again", err)
			p.tellManager("STATUS=nothing leaves the jail: " + err.Error())
		},
	})
	p.tellManager(daemon.SdNotifyStopping)
	if errors.Is(err, jail.ErrNotUp) {
		fmt.Fprintf(p.out, "jail %s was removed\n", j.Name)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "jail %s: ending\n", j.Name)
	return p.takeDown(j.Name, false)
}
