package load

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var lastRequest = []byte("GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")

// Connections makes a connection for each request, atOnce of them at a time. The
// server closes it after its answer. An op is complete, and its latency over,
// when the client has seen that.
func Connections(ctx context.Context, t Target, atOnce int, w Window) (Result, error) {
	r := newRun(t, atOnce)
	result, err := r.do(ctx, w, (*worker).connectAll, (*worker).oneRequestEach, nil)
	if err == nil && result.Ops == 0 {
		err = result.none("connection was answered", t.HTTP)
	}
	return result, err
}

func (w *worker) connectAll() error {
	w.http = sockaddr(w.HTTP)
	for i := range w.conns {
		if err := w.connect(i); err != nil {
			return err
		}
	}
	return nil
}

// connect begins to connect. What has happened is reported once: that it can be
// written to, then that there is something to read.
func (w *worker) connect(i int) error {
	c := &w.conns[i]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	noDelay(fd)
	c.fd, c.open, c.have, c.waiting, c.since = fd, true, 0, false, w.now()
	if err := unix.Connect(fd, w.http); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("connect to %v: %w", w.HTTP, err)
	}
	return w.watch(i, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET)
}

func (w *worker) oneRequestEach() error {
	events, err := w.poll.wait()
	if err != nil {
		return err
	}
	for k := range events {
		if err := w.advance(int(events[k].Fd), events[k].Events); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return w.replaceLate()
	}
	return nil
}

// advance does what connection i is ready for.
func (w *worker) advance(i int, ready uint32) error {
	c := &w.conns[i]
	if !c.waiting {
		if n, errno := rawWrite(c.fd, lastRequest); errno == unix.EAGAIN {
			return nil // not connected yet
		} else if errno != 0 || n != len(lastRequest) {
			return w.again(i, false)
		}
		c.waiting = true
	}
	if ready&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) == 0 {
		return nil
	}
	for {
		n, errno := rawRead(c.fd, c.buf[c.have:])
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno == unix.EINTR:
			continue
		case n > 0 && errno == 0:
			c.have += n
			continue
		}
		return w.again(i, errno == syscall.Errno(0) && string(c.buf[:c.have]) == string(response))
	}
}

// again replaces connection i.
func (w *worker) again(i int, well bool) error {
	if well {
		w.record(w.conns[i].since)
	} else {
		w.failed.Add(1)
	}
	w.drop(i)
	return w.connect(i)
}

// replaceLate gives up connections that nothing comes of.
func (w *worker) replaceLate() error {
	for i := range w.conns {
		if c := &w.conns[i]; w.now()-c.since > patience.Nanoseconds() {
			if err := w.again(i, false); err != nil {
				return err
			}
		}
	}
	return nil
}
