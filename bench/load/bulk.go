package load

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Download reads from the server's source on streams connections.
func Download(ctx context.Context, t Target, streams int, w Window) (Result, error) {
	r := newRun(t, streams)
	open := func(w *worker) error { return w.openStreams(w.Source, unix.EPOLLIN) }
	result, err := r.do(ctx, w, open, (*worker).readStreams, nil)
	if err == nil && result.Bytes == 0 {
		err = result.none("byte arrived", t.Source)
	}
	return result, err
}

// Upload writes to the server's sink on streams connections. What the server has
// read counts.
func Upload(ctx context.Context, t Target, s *Server, streams int, w Window) (Result, error) {
	r := newRun(t, streams)
	open := func(w *worker) error { return w.openStreams(w.Sink, unix.EPOLLOUT) }
	result, err := r.do(ctx, w, open, (*worker).writeStreams, func(c *counts) { c.bytes = s.Received() })
	if err == nil && result.Bytes == 0 {
		err = result.none("byte arrived", t.Sink)
	}
	return result, err
}

func (w *worker) openStreams(to netip.AddrPort, events uint32) error {
	w.bulk = make([]byte, bulkBuffer)
	for i := range w.conns {
		fd, err := dial(unix.SOCK_STREAM, to)
		if err != nil {
			return err
		}
		if err := w.adopt(i, fd, events); err != nil {
			return err
		}
		// It is for the source: the sink takes it for the first of many.
		if _, errno := rawWrite(fd, request); errno != 0 {
			return fmt.Errorf("begin at %v: %w", to, errno)
		}
	}
	return nil
}

func (w *worker) readStreams() error {
	events, err := w.poll.wait()
	if err != nil {
		return err
	}
	for k := range events {
		fd := w.conns[events[k].Fd].fd
		for range turns {
			n, errno := rawRead(fd, w.bulk)
			if again(errno) {
				break
			}
			if errno != 0 || n == 0 {
				return errClosed
			}
			w.bytes.Add(uint64(n))
			if n < len(w.bulk) {
				break
			}
		}
	}
	return nil
}

func (w *worker) writeStreams() error {
	events, err := w.poll.wait()
	if err != nil {
		return err
	}
	for k := range events {
		fd := w.conns[events[k].Fd].fd
		for range turns {
			n, errno := rawWrite(fd, w.bulk)
			if again(errno) || errno == 0 && n < len(w.bulk) {
				break
			}
			if errno != 0 {
				return errClosed
			}
		}
	}
	return nil
}
