package load

import (
	"errors"
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
