package load

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var request = []byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")

// Requests sends requests on conns kept connections, the next one on each when
// the answer to the last has come.
func Requests(ctx context.Context, t Target, conns int, w Window) (Result, error) {
	r := newRun(t, conns)
	result, err := r.do(ctx, w, (*worker).keepConnections, (*worker).exchange, nil)
	if err == nil && result.Ops == 0 {
		err = result.none("request was answered", t.HTTP)
	}
	return result, err
}

// keepConnections connects and begins. It waits until as many answers have come as
// there are connections: most of what stands between takes time for a new one.
func (w *worker) keepConnections() error {
	for i := range w.conns {
		fd, err := dial(unix.SOCK_STREAM, w.HTTP)
		if err != nil {
			return err
		}
		if err := w.adopt(i, fd, unix.EPOLLIN); err != nil {
			return err
		}
		if err := w.ask(i); err != nil {
			return err
		}
	}
	for began := w.now(); w.ops.Load() < uint64(len(w.conns)); {
		if w.now()-began > patience.Nanoseconds() {
			return fmt.Errorf("%d of %d connections to %v had an answer in %v", w.ops.Load(), len(w.conns), w.HTTP, patience)
		}
		if err := w.exchange(); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) ask(i int) error {
	c := &w.conns[i]
	c.since, c.waiting = w.now(), true
	if n, errno := rawWrite(c.fd, request); errno != 0 || n != len(request) {
		return fmt.Errorf("send a request to %v: %w", w.HTTP, errno)
	}
	return nil
}

// exchange takes the answers that have come, and asks again.
func (w *worker) exchange() error {
	events, err := w.poll.wait()
	if err != nil {
		return err
	}
	for k := range events {
		if err := w.answered(int(events[k].Fd)); err != nil {
			return err
		}
	}
	return nil
}

var errClosed = errors.New("the connection was closed while it was in use")

func (w *worker) answered(i int) error {
	c := &w.conns[i]
	n, errno := rawRead(c.fd, c.buf[c.have:])
	switch {
	case again(errno):
		return nil
	case errno != 0:
		return fmt.Errorf("read an answer from %v: %w", w.HTTP, errno)
	case n == 0:
		return errClosed
	}
	done, err := c.expect(n)
	if err != nil || !done {
		return err
	}
	w.record(c.since)
	return w.ask(i)
}
