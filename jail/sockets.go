package jail

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// A socketMaker makes sockets in a namespace. It has entered by the time that it
// is made, so that it goes on when the process has no right to enter any more.
//
//	any goroutine ── family, kind ──► a thread in the jail: socket(2)
//	              ◄── descriptor ───
type socketMaker struct {
	requests chan socketRequest
	closing  sync.Once
	closed   chan struct{}
}

type socketRequest struct {
	family, kind, protocol int
	made                   chan<- socketMade
}

type socketMade struct {
	fd  int
	err error
}

func newSocketMaker(ns *netnsx.Namespace) (*socketMaker, error) {
	m := &socketMaker{requests: make(chan socketRequest), closed: make(chan struct{})}
	entered := make(chan error)
	go func() {
		err := ns.Enter()
		entered <- err
		if err == nil {
			m.work()
		}
	}()
	if err := <-entered; err != nil {
		return nil, err
	}
	return m, nil
}

// work is done by a thread that is in the namespace for good.
func (m *socketMaker) work() {
	for {
		select {
		case r := <-m.requests:
			fd, err := unix.Socket(r.family, r.kind, r.protocol)
			r.made <- socketMade{fd, os.NewSyscallError("socket", err)}
		case <-m.closed:
			return
		}
	}
}

// socket is socket(2) in the namespace.
func (m *socketMaker) socket(family, kind, protocol int) (fd int, err error) {
	made := make(chan socketMade, 1)
	select {
	case m.requests <- socketRequest{family, kind, protocol, made}:
		r := <-made
		return r.fd, r.err
	case <-m.closed:
		return -1, net.ErrClosed
	}
}

// close ends the thread.
func (m *socketMaker) close() { m.closing.Do(func() { close(m.closed) }) }
