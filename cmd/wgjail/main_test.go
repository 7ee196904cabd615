package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
)

// actVariable makes the test binary be wgjail itself, as does the name wgjail.
// The processes that wgjail starts inherit it.
const actVariable = "WGJAIL_TEST_ACT"

// killVariable makes wgjail kill itself, as if by kill -9, when its nth step
// begins: "N", or "N COMMAND" for that command only.
const killVariable = "WGJAIL_TEST_KILL"

// faultVariable makes wgjail ask the test before each system call that changes
// something: see fault.Install.
const faultVariable = "WGJAIL_TEST_FAULT"

// refuseVariable names what the kernel refuses wgjail: see refusals.
const refuseVariable = "WGJAIL_TEST_REFUSE"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "probe" {
		os.Exit(probe(os.Args[1:]))
	}
	if filepath.Base(os.Args[0]) == "wgjail" || os.Getenv(actVariable) != "" {
		os.Setenv(actVariable, "1") // for itself under the name of /proc/self/exe
		if what := os.Getenv(refuseVariable); what != "" {
			os.Unsetenv(refuseVariable) // children inherit the filter
			if err := fault.Refuse(refusals[what]...); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(99)
			}
		}
		if os.Getenv(faultVariable) != "" {
			os.Unsetenv(faultVariable) // children inherit the filter
			if err := fault.Install(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(99)
			}
		}
		p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, started: time.Now(), wrapLog: killAtStep()}
		os.Exit(p.run(os.Args[1:]))
	}
	world.Main(m)
}

// killAtStep counts the steps that are logged, by whichever logger.
func killAtStep() func(slog.Handler) slog.Handler {
	n, command, _ := strings.Cut(os.Getenv(killVariable), " ")
	left, err := strconv.Atoi(n)
	if err != nil || command != "" && (len(os.Args) < 2 || os.Args[1] != command) {
		return nil
	}
	return func(h slog.Handler) slog.Handler { return &stepCounter{Handler: h, left: &left} }
}

type stepCounter struct {
	slog.Handler
	left *int
}

func (c *stepCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c *stepCounter) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "step" {
		if *c.left--; *c.left <= 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	if !c.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return c.Handler.Handle(ctx, r)
}
