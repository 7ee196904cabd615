package load

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// A conn is a connection of a client, or one UDP flow.
type conn struct {
	fd      int
	open    bool
	waiting bool  // for an answer, since
	since   int64 // as run.now says
	have    int   // bytes of the answer
	buf     [256]byte
}

// expect adds the bytes that have just been read to the answer, and says whether
// it is complete.
func (c *conn) expect(n int) (bool, error) {
	c.have += n
	if c.have < len(response) {
		return false, nil
	}
	if !bytes.Equal(c.buf[:c.have], response) {
		return false, fmt.Errorf("a wrong answer: %.60q", c.buf[:c.have])
	}
	c.have = 0
	return true, nil
}

// adopt makes a connected socket the worker's connection i.
func (w *worker) adopt(i, fd int, events uint32) error {
	c := &w.conns[i]
	c.fd, c.open, c.have = fd, true, 0
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return w.watch(i, events)
}

// watch has events of connection i reported with its position as their data.
func (w *worker) watch(i int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(i)}
	return unix.EpollCtl(w.poll.fd, unix.EPOLL_CTL_ADD, w.conns[i].fd, &ev)
}

func (w *worker) drop(i int) {
	w.conns[i].open = false
	rawClose(w.conns[i].fd)
}

// record notes that what began at since has ended well.
func (w *worker) record(since int64) {
	w.ops.Add(1)
	if w.phase.Load() == measuring {
		took := w.now() - since
		w.latency.RecordValue(min(max(took, 1), longest.Nanoseconds()))
	}
}
