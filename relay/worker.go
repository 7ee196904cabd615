package relay

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A worker is one event loop: a goroutine that has entered the place where
// targets are dialled and that owns every connection it accepted. Nothing in it
// is shared, apart from the inbox.
type worker struct {
	relay    *Relay
	epoll    int32
	entered  chan error    // one value: whether Enter worked
	ended    chan struct{} // closed when the loop is over
	quit     bool          // end now
	draining bool          // end with the last connection

	inbox struct {
		sync.Mutex
		wake  int32 // eventfd
		calls []func(*worker)
		over  bool
	}

	ports   []*port             // by index; nil where one was detached
	adopted map[*Listener]*port // those without a socket, of Adopters
	pause   pause               // of accepting, when descriptors are short
	conns   conns
	buf     []byte // what recv reads into and send writes from, for all connections
	pool    pool
	pace    pace
	bulk    bool    // something was spliced in this turn
	again   []token // connections whose turn ended before their bytes did
	timers  timers
	udp     udpLoop

	events  []unix.EpollEvent
	client  unix.RawSockaddrInet6 // of the connection being accepted
	tcpInfo unix.TCPInfo          // of the connection being swept
	clock   time.Duration         // now, or zero when nobody has asked in this turn
	dirty   []*port               // ports with counts to flush
	waiter  waiter
}

const (
	// bufSize is what one recv may return. Bigger messages are rare, and a
	// stream that fills it again and again is spliced instead.
	bufSize = 64 << 10
	// eventBatch is how many events one turn of the loop handles at most.
	eventBatch = 256
)

func newWorker(r *Relay) (*worker, error) {
	w := &worker{
		relay:   r,
		entered: make(chan error, 1),
		ended:   make(chan struct{}),
		buf:     make([]byte, bufSize),
		events:  make([]unix.EpollEvent, eventBatch),
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w.epoll, w.inbox.wake = int32(ep), int32(wake)
	w.register(w.inbox.wake, unix.EPOLLIN, token{kind: kindWake})
	w.waiter.init(r)
	w.udp.init(w)
	return w, nil
}

// run is the worker's goroutine.
func (w *worker) run() {
	defer close(w.ended)
	defer w.close()
	var err error
	if w.relay.Enter != nil {
		err = w.relay.Enter()
	}
	w.entered <- err
	if err != nil {
		return
	}
	for !w.quit && !(w.draining && w.conns.open == 0) {
		n := w.wait()
		for i := range w.events[:n] {
			w.handle(&w.events[i])
		}
		w.takeTurns()
		w.expire()
		w.flushCounts()
	}
}

// wait blocks until something happens or the next timer is due.
func (w *worker) wait() int {
	ms := -1
	if len(w.again) > 0 {
		ms = 0
	} else if due := w.nextTimer(); due >= 0 {
		// Rounded up, so that the timer is due when it wakes.
		ms = int((max(0, due-w.time()) + time.Millisecond - 1) / time.Millisecond)
	}
	how := w.pace.manner
	if w.bulk {
		how = forBulk
	}
	n := w.waiter.wait(w.epoll, w.events, ms, how)
	w.bulk = false
	w.clock = 0
	return n
}

// time is the relay's clock, read at most once per turn. It is never zero.
func (w *worker) time() time.Duration {
	if w.clock == 0 {
		w.clock = w.relay.now() + 1
	}
	return w.clock
}

// A token is what epoll hands back with an event: who it is for. The generation
// tells an event for a connection that ended in the same batch from one for its
// successor, so that descriptors can be closed at once.
type token struct {
	slot       uint32 // of the connection or flow; or the port's index
	side       uint8  // which end of the connection
	kind       uint8
	generation uint32
}

const (
	kindConn uint8 = iota
	kindPort
	kindWake
	kindFlow
)

const (
	generationBits = 28
	generationMask = 1<<generationBits - 1
)

func (w *worker) register(fd int32, events uint32, t token) syscall.Errno {
	return w.epollCtl(unix.EPOLL_CTL_ADD, fd, events, t)
}

func (w *worker) epollCtl(op int, fd int32, events uint32, t token) syscall.Errno {
	ev := unix.EpollEvent{
		Events: events,
		Fd:     int32(t.slot<<1 | uint32(t.side)),
		Pad:    int32(uint32(t.kind)<<generationBits | t.generation&generationMask),
	}
	return sysEpollCtl(w.epoll, op, fd, &ev)
}

func (w *worker) handle(ev *unix.EpollEvent) {
	slot, side := uint32(ev.Fd)>>1, uint8(ev.Fd&1)
	gen := uint32(ev.Pad) & generationMask
	switch uint8(uint32(ev.Pad) >> generationBits) {
	case kindConn:
		if c := w.conns.get(slot); c.generation&generationMask == gen && c.phase != phaseFree {
			w.connEvent(c, side, ev.Events)
		}
	case kindPort:
		if p := w.ports[slot]; p != nil {
			p.event(w)
		}
	case kindFlow:
		w.udp.event(slot, gen, ev.Events)
	case kindWake:
		w.runInbox()
	}
}

// post has the worker call fn. It reports false if the worker has ended.
func (w *worker) post(fn func(*worker)) bool {
	w.inbox.Lock()
	defer w.inbox.Unlock()
	if w.inbox.over {
		return false
	}
	w.inbox.calls = append(w.inbox.calls, fn)
	unix.Write(int(w.inbox.wake), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return true
}

func (w *worker) runInbox() {
	w.inbox.Lock()
	var b [8]byte
	unix.Read(int(w.inbox.wake), b[:])
	calls := w.inbox.calls
	w.inbox.calls = nil
	w.inbox.Unlock()
	for _, fn := range calls {
		fn(w)
	}
}

// close resets what is left and gives everything back.
func (w *worker) close() {
	for c := range w.conns.all() {
		w.reset(c)
	}
	w.udp.close()
	w.flushCounts()
	w.pool.close()
	w.inbox.Lock()
	w.inbox.over = true
	w.inbox.Unlock()
	w.runInbox() // nobody may wait in vain for what was posted
	sysClose(w.epoll)
	sysClose(w.inbox.wake)
}
