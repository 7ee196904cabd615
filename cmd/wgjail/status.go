package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
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
			if err := p.needRights(); err != nil {
				if len(args) == 0 && !asJSON && !watch {
					p.pointToRoot(err)
				}
				return err
			}
			if watch {
				return p.watchStatus(args, asJSON)
			}
			return p.showStatus(p.out, args, asJSON, view{colours: p.colours()})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "show it anew every second, with rates, until Ctrl-C")
	return cmd
}

// pointToRoot tells a user who has been shown that there is no jail that root may
// have some: where root's jails are kept there is something, and it cannot be read.
func (p *program) pointToRoot(shown error) {
	own, err := jail.ListOutside()
	if !errors.Is(shown, exitStatus(exitDone)) || err != nil || len(own) > 0 {
		return
	}
	if _, err := jail.List(); errors.Is(err, os.ErrPermission) {
		fmt.Fprintln(p.err, "wgjail: hint: these are your own; root's jails are shown by: sudo wgjail status")
	}
}

// watchStatus shows the status every second. On a terminal each page takes the
// place of the one before, without flicker: nothing is cleared before it is
// written over (ECMA-48).
func (p *program) watchStatus(args []string, asJSON bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	screen := isTerminal(p.out) && !asJSON
	if screen {
		fmt.Fprint(p.out, "\x1b[H\x1b[2J")
	}
	v := view{colours: p.colours(), rates: &rates{}}
	for {
		var page strings.Builder
		if err := p.showStatus(&page, args, asJSON, v); err != nil {
			return err
		}
		text := page.String()
		switch {
		case screen:
			text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
		case !asJSON:
			text += "\n"
		}
		fmt.Fprint(p.out, text)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// showStatus shows the jail that is named, or all, and then forwards that lead
// elsewhere too.
func (p *program) showStatus(w io.Writer, names []string, asJSON bool, v view) error {
	list, err := readStatus(names)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	var elsewhere []jail.ForwardStatus
	if len(names) == 0 {
		if elsewhere, err = jail.ForwardsElsewhere(); err != nil {
			return err
		}
	}
	v.print(w, list, elsewhere)
	return nil
}

// readStatus returns the status of the jails that are named, or of all.
func readStatus(names []string) ([]*jail.Status, error) {
	all := len(names) == 0
	if all {
		var err error
		if names, err = jail.List(); err != nil {
			return nil, err
		}
	}
	list := []*jail.Status{}
	for _, name := range names {
		s, err := jail.ReadStatus(name)
		if all && errors.Is(err, jail.ErrNotUp) {
			continue // it has just been removed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}
