package jail

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A pidfd stands for one process, not for whatever has its number later
// (pidfd_open(2)).
type pidfd int

func openPidfd(pid int) (pidfd, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	return pidfd(fd), err
}

func (f pidfd) signal(s unix.Signal) error { return unix.PidfdSendSignal(int(f), s, nil, 0) }

func (f pidfd) close() { unix.Close(int(f)) }

// alive reports whether the process has not ended.
func (f pidfd) alive() bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(f), Events: unix.POLLIN}}, 0)
	return n == 0
}

// wait waits until the process has ended or ctx is done, which closes a pipe.
func (f pidfd) wait(ctx context.Context) error {
	done, cancel, err := os.Pipe()
	if err != nil {
		return err
	}
	defer done.Close()
	stop := context.AfterFunc(ctx, func() { cancel.Close() })
	defer func() {
		if stop() {
			cancel.Close()
		}
	}()
	for ctx.Err() == nil {
		p := []unix.PollFd{{Fd: int32(f), Events: unix.POLLIN}, {Fd: int32(done.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if p[0].Revents != 0 {
			return nil
		}
	}
	return ctx.Err()
}

// stopHolder ends the process that holds the lock on the file at path and has
// written its number there. It sends SIGTERM as often as there are patiences,
// each time waiting that long, and then kills. A holder that has not written
// its number yet is about to notice that its maker is gone, and is waited for.
func stopHolder(ctx context.Context, path string, patience ...time.Duration) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		wait, signal := time.Second, unix.SIGKILL
		if len(patience) > 0 {
			wait, signal = patience[0], unix.SIGTERM
			patience = patience[1:]
		}
		if pid := holderPid(f); pid > 0 {
			if free(f) {
				return nil
			}
			unix.Kill(pid, signal)
			unix.Kill(pid, unix.SIGCONT) // a stopped process is not left to be
		}
		short, cancel := context.WithTimeout(ctx, wait)
		err := waitFree(short, f)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// wake lets the process that holds the file go on, if it is stopped.
func wake(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if pid := holderPid(f); pid > 0 && !free(f) {
		unix.Kill(pid, unix.SIGCONT)
	}
}

// holderPid returns the process number in the first line of the file, or 0. A
// number that kill(2) would take for another one is none.
func holderPid(f *os.File) int {
	line := make([]byte, 16)
	n, _ := f.ReadAt(line, 0)
	first, _, whole := strings.Cut(string(line[:n]), "\n")
	pid, err := strconv.ParseInt(first, 10, 32)
	if err != nil || !whole || pid <= 1 {
		return 0
	}
	return int(pid)
}
