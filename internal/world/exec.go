package world

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Run runs a command in the node and returns its standard output and error. It
// fails the test if the command does.
func (n *Node) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Try(t, name, args...)
	if err != nil {
		t.Fatalf("%s: %s: %v", n.Name, strings.Join(append([]string{name}, args...), " "), err)
	}
	return out
}

// Try runs a command in the node and returns its standard output and error, and
// the error of exec.Cmd.
func (n *Node) Try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = patience // for those who keep its output open
	err := n.startCmd(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	t.Logf("%s$ %s\n%s%s", n.Name, strings.Join(cmd.Args, " "), &out, errorLine(err))
	return out.String(), err
}

func errorLine(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("(%v)", err)
}

// startCmd starts cmd on a thread in the node: the child stays there.
func (n *Node) startCmd(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// A Process is a command that runs in a node, in the background.
type Process struct {
	Pid  int
	cmd  *exec.Cmd
	log  *logged
	done chan struct{} // closed when it has ended and err is set
	err  error
}

// Start starts cmd in the node. What it prints goes to the test's log and, where
// cmd.Stdout and cmd.Stderr are nil, to Output. When the test ends, it and its
// process group are killed and waited for.
func (n *Node) Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, log: &logged{t: t, prefix: n.Name + "| "}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.log
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	cmd.WaitDelay = patience // for those who keep its output open
	t.Logf("%s$ %s &", n.Name, strings.Join(cmd.Args, " "))
	if err := n.startCmd(cmd); err != nil {
		t.Fatalf("%s: start %s: %v", n.Name, cmd.Path, err)
	}
	p.Pid = cmd.Process.Pid
	go p.wait()
	t.Cleanup(func() {
		unix.Kill(-p.Pid, unix.SIGKILL)
		p.Wait()
		p.log.detach()
	})
	return p
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// Wait waits until the process has ended and returns the error of exec.Cmd.Wait.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process alone. It is not an error if the process
// has ended.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %d: %v", p.Pid, err)
	}
}

// Output returns what the process has printed so far.
func (p *Process) Output() string {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.log.all.String()
}

// WaitOutput waits until the process has printed text. It fails the test if the
// process ends without, or does not within half a minute.
func (p *Process) WaitOutput(t testing.TB, text string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(p.Output(), text) {
		select {
		case <-p.done:
			if !strings.Contains(p.Output(), text) {
				t.Fatalf("%s ended (%v) and did not print %q", p.cmd.Path, p.err, text)
			}
			return
		case <-time.After(pollStep):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not print %q", p.cmd.Path, text)
		}
	}
}

// logged keeps what is written to it, and logs it line by line.
type logged struct {
	prefix string
	mu     sync.Mutex
	t      testing.TB // nil: the test has ended
	all    bytes.Buffer
	line   []byte // not yet ended
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(p)
	l.line = append(l.line, p...)
	for {
		line, rest, ok := bytes.Cut(l.line, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.line = rest
		l.print(line)
	}
}

func (l *logged) print(line []byte) {
	if l.t != nil {
		fmt.Fprintf(l.t.Output(), "%s%s\n", l.prefix, line)
	}
}

// detach logs what is left. Nothing is logged afterwards: the test has ended.
func (l *logged) detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.print(l.line)
	}
	l.t = nil
}
