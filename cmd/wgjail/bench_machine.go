package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/bench"
	"github.com/wgjail/wgjail/bench/report"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/machine"
)

// What is measured runs in a machine of its own:
//
//	wgjail bench ── bench-init (process 1 there) ── bench-lab
//	      │  lifeline: the machine dies when it closes   ▲ │
//	      ├─ standard input: bench-lab ends with it ─────┘ │
//	      └─◄── events: how far it is, and the report ─────┘
const (
	benchInitCommand = "bench-init"
	benchLabCommand  = "bench-lab"

	lifelineFd  = 3 // of bench-init
	eventsFd    = 4 // of bench-init
	labEventsFd = 3 // the same, of bench-lab
)

// A benchEvent is a message from bench-lab, with one of its fields.
type benchEvent struct {
	Progress *bench.Progress `json:",omitempty"`
	Report   *report.Report  `json:",omitempty"`
	Error    string          `json:",omitempty"`
	Hint     string          `json:",omitempty"`
}

// measure runs the benchmark in a machine of its own. When ctx is done, it ends
// with what there is.
func (p *program) measure(ctx context.Context, cfg bench.Config) (*report.Report, error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", benchInitCommand, string(text))
	cmd.Args[0] = "wgjail"
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	machine.Isolate(cmd)
	lifeline, keepAlive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer keepAlive.Close()
	defer lifeline.Close()
	events, eventsChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer events.Close()
	cmd.ExtraFiles = []*os.File{lifeline, eventsChild} // lifelineFd, eventsFd
	goOn, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	err = cmd.Start()
	eventsChild.Close()
	if err != nil {
		return nil, fmt.Errorf("make a machine for the benchmark: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { goOn.Close() })
	defer stop()
	r, err := p.followBench(events)
	keepAlive.Close() // nothing of it is needed any more
	cmd.Wait()
	if err != nil && said.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return r, err
}

// followBench shows the progress, and returns the report.
func (p *program) followBench(events io.Reader) (*report.Report, error) {
	bar := newBar(p.err)
	defer bar.clear()
	for d := json.NewDecoder(events); ; {
		var e benchEvent
		switch err := d.Decode(&e); {
		case err != nil:
			return nil, errors.New("the benchmark ended without a result")
		case e.Error != "" && e.Hint != "":
			return nil, hint.Wrap(errors.New(e.Error), "%s", e.Hint)
		case e.Error != "":
			return nil, errors.New(e.Error)
		case e.Report != nil:
			return e.Report, nil
		case e.Progress != nil:
			bar.show(*e.Progress)
		}
	}
}

// benchInitCommand is process 1 of the machine.
func (p *program) benchInitCommand() *cobra.Command {
	return &cobra.Command{
		Use: benchInitCommand + " CONFIG", Hidden: true, Args: oneArg("what is to be measured?"),
		RunE: func(_ *cobra.Command, args []string) error {
			init := machine.Init{Name: "the benchmark's machine", Lifeline: os.NewFile(lifelineFd, "lifeline")}
			argv := []string{"wgjail", benchLabCommand, args[0]}
			return exitStatus(init.Run(argv, os.Environ(), []uintptr{0, 1, 2, eventsFd}))
		},
	}
}

// benchLabCommand measures.
func (p *program) benchLabCommand() *cobra.Command {
	return &cobra.Command{
		Use: benchLabCommand + " CONFIG", Hidden: true, Args: oneArg("what is to be measured?"),
		RunE: func(_ *cobra.Command, args []string) error {
			machine.CloseOnExec()
			var cfg bench.Config
			if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
				return misuse{err}
			}
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			go func() {
				io.Copy(io.Discard, p.in)
				stop()
			}()
			events := json.NewEncoder(os.NewFile(labEventsFd, "events"))
			r, err := bench.Run(ctx, cfg, func(at bench.Progress) { events.Encode(benchEvent{Progress: &at}) })
			if err != nil {
				return events.Encode(benchEvent{Error: err.Error(), Hint: hint.Of(err)})
			}
			return events.Encode(benchEvent{Report: r})
		},
	}
}
