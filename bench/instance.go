package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/bench/load"
)

// An instance is a candidate that runs.
type instance struct {
	from   string // the node where the client is
	target load.Target
	server *load.Server  // at the other end
	took   time.Duration // from its start to the first byte
	procs  []*process
	keeper int // a process that somebody else has started, and ends; 0: none
	undo   func() error
}

// group is the process group of its processes; 0: it has none.
func (i *instance) group() int {
	if len(i.procs) == 0 {
		return i.keeper
	}
	return i.procs[0].cmd.Process.Pid
}

// A process is a part of an instance.
type process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error
}

// run starts cmd in a node, as one of the instance's processes.
func (i *instance) run(l *lab, node string, cmd *exec.Cmd) error {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: i.group()}
	cmd.WaitDelay = time.Second // for those who keep its output open
	if err := l.nodes[node].Do(cmd.Start); err != nil {
		return err
	}
	i.procs = append(i.procs, p)
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return nil
}

// startPatience is how long a candidate may take until the first byte, or to end.
const startPatience = 10 * time.Second

// ready waits until a request is answered, or it is clear that none will be.
func (i *instance) ready(ctx context.Context) error {
	for end := time.Now().Add(startPatience); ; {
		err := load.FirstByte(i.target)
		if err == nil {
			return nil
		}
		for _, p := range i.procs {
			select {
			case <-p.done:
				return errors.New(reason(p.out.String(), fmt.Errorf("it ended (%v)", p.err)))
			default:
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("no answer for %v: %w", startPatience, err)
		}
		time.Sleep(time.Millisecond) // there is no event to wait on: it may be rules that come to be
	}
}

// An instance is at rest when it has used no processor time for restFor. That is
// waited for, for restPatience at most.
const restFor, restPatience = 50 * time.Millisecond, 2 * time.Second

// rest waits until the instance has done what it does at its start besides
// answering, such as opening its other ports or looking at its rules once more: a
// measurement would be charged for it otherwise.
func (i *instance) rest(ctx context.Context) {
	if i.group() == 0 {
		return
	}
	began := time.Now()
	used, since := groupCost(i.group()), began
	for ctx.Err() == nil && time.Since(since) < restFor && time.Since(began) < restPatience {
		time.Sleep(restFor / 10)
		if now := groupCost(i.group()); now.exact != used.exact {
			used, since = now, time.Now()
		}
	}
}

// stop ends it and waits until nothing of it is left.
func (i *instance) stop() error {
	var errs []error
	if group := i.group(); len(i.procs) > 0 {
		unix.Kill(-group, unix.SIGTERM)
		for _, p := range i.procs {
			select {
			case <-p.done:
			case <-time.After(startPatience):
				errs = append(errs, fmt.Errorf("%s did not end when asked to", p.cmd.Args[0]))
			}
		}
		unix.Kill(-group, unix.SIGKILL) // what it has left behind
		for _, p := range i.procs {
			<-p.done
		}
	}
	if i.undo != nil {
		errs = append(errs, i.undo())
	}
	return errors.Join(errs...)
}

// An output keeps the beginning of what is written to it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() < 4<<10 {
		o.text.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
