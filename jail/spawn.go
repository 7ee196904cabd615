package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
)

// Descriptors that a background process of wgjail is born with.
const (
	readyFD = 3 // it says here, once, whether it is ready, and closes it
	heldFD  = 4 // the file whose lock says that it lives; present if it has one
)

// A Background is a process of wgjail that goes on when its maker ends.
type Background struct {
	cmd    *exec.Cmd
	commit io.WriteCloser
}

// A report is what a background process says on readyFD.
type report struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// StartBackground starts wgjail with args in a session of its own and waits
// until it is ready, or returns the error that it reports. Output goes to log,
// or nowhere if that is nil. held, if not nil, is a locked file that the
// process keeps. The process ends by itself unless Commit is called.
func StartBackground(args []string, held, log *os.File) (*Background, error) {
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := Self(args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = fileOrNil(log), fileOrNil(log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{readyChild}
	if held != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, held)
	}
	commit, err := cmd.StdinPipe()
	if err != nil {
		readyChild.Close()
		return nil, err
	}
	err = cmd.Start()
	readyChild.Close()
	if err != nil {
		return nil, fmt.Errorf("start wgjail %s in the background: %w", args[0], err)
	}
	b := &Background{cmd, commit}
	if err := readReady(ready, args[0]); err != nil {
		b.Abandon()
		return nil, err
	}
	return b, nil
}

// fileOrNil keeps a nil *os.File from becoming a non-nil io.Writer.
func fileOrNil(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}

// Self returns a command that runs this program again, under the same name.
func Self(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"wgjail"}, args...)}
}

// readReady waits until a background process says that it is ready, or returns
// the error that it reports.
func readReady(ready io.Reader, what string) error {
	var r report
	err := json.NewDecoder(ready).Decode(&r)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("wgjail %s ended before it was ready", what)
	}
	if err != nil {
		return fmt.Errorf("wait for wgjail %s: %w", what, err)
	}
	if r.Error != "" {
		err := errors.New(r.Error)
		if r.Hint != "" {
			err = hint.Wrap(err, "%s", r.Hint)
		}
		return err
	}
	return nil
}

// Pid returns the process's ID.
func (b *Background) Pid() int { return b.cmd.Process.Pid }

// Commit lets the process go on by itself.
func (b *Background) Commit() error {
	_, err := b.commit.Write([]byte{'\n'})
	return errors.Join(err, b.commit.Close())
}

// Abandon ends a process that was not committed, and waits for its end.
func (b *Background) Abandon() {
	b.commit.Close()
	b.cmd.Process.Signal(syscall.SIGTERM)
	b.cmd.Wait()
}

// Wait waits until the process has ended and returns how.
func (b *Background) Wait() error { return b.cmd.Wait() }

// Signal sends the process a signal.
func (b *Background) Signal(s os.Signal) error { return b.cmd.Process.Signal(s) }

// ReportReady tells the maker of this background process that it is ready, or
// why it will not be, and then waits for Commit. It returns false if there was
// an error or the maker is gone: the process should undo what it did and end.
func ReportReady(err error) bool {
	ready := os.NewFile(readyFD, "ready")
	r := report{}
	if err != nil {
		r = report{err.Error(), hint.Of(err)}
	}
	werr := json.NewEncoder(ready).Encode(r)
	ready.Close()
	if err != nil || werr != nil {
		return false
	}
	n, _ := os.Stdin.Read(make([]byte, 1))
	return n == 1
}
