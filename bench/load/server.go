package load

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The ports of a Server.
const (
	PortHTTP    = 8080 // answers requests, as an HTTP server does
	PortSource  = 8081 // sends without end once it has been sent something
	PortSink    = 8082 // reads without end
	PortUDP     = 8083 // returns each datagram to its sender
	PortUDPSink = 8084 // counts datagrams
)

// response answers every request.
var response = []byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world\n")

// bulkBuffer is how much is read or written at once, as iperf3 does.
const bulkBuffer = 128 << 10

// A Server answers the clients of this package, on all IPv4 addresses of the
// namespace it was started in.
type Server struct {
	listeners *listeners

	stop     atomic.Bool
	running  sync.WaitGroup
	open     atomic.Int64
	received atomic.Uint64 // by the sink, bytes
	counted  atomic.Uint64 // by the UDP sink, datagrams
}

// Serve starts a server whose sockets are made where enter leads.
func Serve(enter Enter) (*Server, error) {
	s := &Server{}
	listeners, err := openListeners(enter)
	if err != nil {
		return nil, err
	}
	s.listeners = listeners
	for range threads() {
		w, err := newServerWorker(s)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.running.Go(w.run)
	}
	s.running.Go(func() { s.echoDatagrams(listeners.udp) })
	s.running.Go(func() { s.countDatagrams(listeners.udpSink) })
	return s, nil
}

// Close ends the server and its connections.
func (s *Server) Close() {
	s.stop.Store(true)
	s.running.Wait()
	s.listeners.close()
}

// Open is how many TCP connections there are.
func (s *Server) Open() int { return int(s.open.Load()) }

// Received is how many bytes the sink has read.
func (s *Server) Received() uint64 { return s.received.Load() }

// Counted is how many datagrams the UDP sink has got.
func (s *Server) Counted() uint64 { return s.counted.Load() }

type listeners struct {
	tcp          map[int]role // by descriptor
	udp, udpSink int
}

// openListeners runs on a goroutine of its own, whose thread enter may take.
func openListeners(enter Enter) (*listeners, error) {
	done := make(chan error)
	l := &listeners{tcp: map[int]role{}, udp: -1, udpSink: -1}
	go func() { done <- l.open(enter) }()
	if err := <-done; err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *listeners) close() {
	for fd := range l.tcp {
		unix.Close(fd)
	}
	unix.Close(l.udp) // -1 is none
	unix.Close(l.udpSink)
}

func (l *listeners) open(enter Enter) (err error) {
	if err := enter.enter(); err != nil {
		return err
	}
	for port, is := range map[uint16]role{PortHTTP: httpListener, PortSource: sourceListener, PortSink: sinkListener} {
		fd, err := listen(unix.SOCK_STREAM, port)
		if err != nil {
			return err
		}
		l.tcp[fd] = is
	}
	if l.udp, err = listen(unix.SOCK_DGRAM, PortUDP); err != nil {
		return err
	}
	if l.udpSink, err = listen(unix.SOCK_DGRAM, PortUDPSink); err != nil {
		return err
	}
	return errors.Join(prepareUDP(l.udp), prepareUDP(l.udpSink))
}

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
