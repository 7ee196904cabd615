package load

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// A role is what a descriptor of a server is for.
type role uint8

const (
	unused role = iota
	httpListener
	sourceListener
	sinkListener
	httpConn
	quietSource // has not been asked yet
	sinkConn
	sourceConn
)

// A serverConn is one descriptor.
type serverConn struct {
	role role
	have int       // bytes of a request
	buf  [512]byte // which must fit in here
}

type serverWorker struct {
	*Server
	poll  *poll
	conns []serverConn // by descriptor
	bulk  []byte
}

func newServerWorker(s *Server) (*serverWorker, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("getrlimit: %w", err)
	}
	w := &serverWorker{Server: s, poll: p, conns: make([]serverConn, min(limit.Cur, 1<<16)), bulk: make([]byte, bulkBuffer)}
	for fd, is := range s.listeners.tcp {
		w.conns[fd].role = is
		if err := p.add(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *serverWorker) run() {
	defer w.closeAll()
	for !w.stop.Load() {
		events, err := w.poll.wait()
		if err != nil {
			return
		}
		for i := range events {
			w.handle(int(events[i].Fd))
		}
	}
}

func (w *serverWorker) closeAll() {
	for fd := range w.conns {
		if w.conns[fd].role >= httpConn {
			w.close(fd)
		}
	}
	w.poll.close()
}

func (w *serverWorker) handle(fd int) {
	switch c := &w.conns[fd]; c.role {
	case httpListener, sourceListener, sinkListener:
		w.accept(fd, c.role+(httpConn-httpListener))
	case httpConn:
		w.answer(fd, c)
	case quietSource:
		w.beginToSend(fd)
	case sourceConn:
		w.send(fd)
	case sinkConn:
		w.receive(fd)
	}
}

// accept takes what waits, up to some: a worker must not take all.
func (w *serverWorker) accept(listener int, is role) {
	for range 16 {
		fd, errno := rawAccept(listener)
		if errno != 0 {
			return
		}
		if fd >= len(w.conns) {
			rawClose(fd)
			return
		}
		w.open.Add(1)
		c := &w.conns[fd]
		c.role, c.have = is, 0
		if is == httpConn {
			noDelay(fd)
		}
		if w.poll.add(fd, unix.EPOLLIN) != nil {
			w.close(fd)
		}
	}
}

func (w *serverWorker) close(fd int) {
	w.conns[fd].role = unused
	w.open.Add(-1)
	rawClose(fd)
}

var (
	endOfRequest = []byte("\r\n\r\n")
	closeHeader  = []byte("Connection: close")
)

// answer reads once and answers each request that is complete.
func (w *serverWorker) answer(fd int, c *serverConn) {
	n, errno := rawRead(fd, c.buf[c.have:])
	if again(errno) {
		return
	}
	if errno != 0 || n == 0 {
		w.close(fd)
		return
	}
	c.have += n
	rest := c.buf[:c.have]
	for {
		end := bytes.Index(rest, endOfRequest)
		if end < 0 {
			break
		}
		last := bytes.Contains(rest[:end], closeHeader)
		if _, errno := rawWrite(fd, response); errno != 0 || last {
			w.close(fd)
			return
		}
		rest = rest[end+len(endOfRequest):]
	}
	c.have = copy(c.buf[:], rest)
	if c.have == len(c.buf) { // no request is that long
		w.close(fd)
	}
}

// turns is how often a bulk connection is served before the others.
const turns = 4

// beginToSend takes the client's word and from then on waits for room, not for
// more of them.
func (w *serverWorker) beginToSend(fd int) {
	n, errno := rawRead(fd, w.conns[fd].buf[:])
	if again(errno) {
		return
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}
	if errno != 0 || n == 0 || unix.EpollCtl(w.poll.fd, unix.EPOLL_CTL_MOD, fd, &ev) != nil {
		w.close(fd)
		return
	}
	w.conns[fd].role = sourceConn
}

func (w *serverWorker) send(fd int) {
	for range turns {
		n, errno := rawWrite(fd, w.bulk)
		if again(errno) || errno == 0 && n < len(w.bulk) {
			return
		}
		if errno != 0 {
			w.close(fd)
			return
		}
	}
}

func (w *serverWorker) receive(fd int) {
	for range turns {
		n, errno := rawRead(fd, w.bulk)
		if again(errno) {
			return
		}
		if errno != 0 || n == 0 {
			w.close(fd)
			return
		}
		w.received.Add(uint64(n))
		if n < len(w.bulk) {
			return
		}
	}
}
