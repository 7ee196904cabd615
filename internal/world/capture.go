package world

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
)

// A Frame is what crossed a link.
type Frame struct {
	Link     string // its name at that time; "" if it had gone already
	Out      bool   // sent by the node, not received
	Protocol uint16 // of Data: an Ethernet type
	Data     []byte // from the network header on
	Raw      []byte // with the link's header, if it has one
}

// Header returns what an IP packet's headers say.
func (f Frame) Header() (provider.Header, bool) { return provider.ParseHeader(f.Data) }

func (f Frame) String() string {
	direction := "in"
	if f.Out {
		direction = "out"
	}
	if h, ok := f.Header(); ok {
		return fmt.Sprintf("%s %s %v, %d bytes", f.Link, direction, h, len(f.Data))
	}
	return fmt.Sprintf("%s %s protocol %#04x, %d bytes", f.Link, direction, f.Protocol, len(f.Data))
}

// A Capture keeps the frames that cross the links of a node, those that appear
// later included.
type Capture struct {
	node   string
	file   *os.File // the packet socket
	lo     int      // index of lo, for Sync
	wanted func(link string) bool

	mu      sync.Mutex
	frames  []Frame
	markers map[string]chan struct{} // closed when the marker was seen
	dropped uint32                   // frames that the kernel had no room for
	err     error                    // why it ended
	done    chan struct{}
}

// Capture captures on the links with these names. It returns when it has begun.
func (n *Node) Capture(t testing.TB, links ...string) *Capture {
	t.Helper()
	return n.capture(t, func(link string) bool { return slices.Contains(links, link) })
}

// CaptureAll captures on all links except these. It returns when it has begun.
func (n *Node) CaptureAll(t testing.TB, except ...string) *Capture {
	t.Helper()
	return n.capture(t, func(link string) bool { return !slices.Contains(except, link) })
}

// captureBuffer is what the kernel may hold back for a capture, in bytes: much,
// because a lost frame spoils it.
const captureBuffer = 64 << 20

func (n *Node) capture(t testing.TB, wanted func(string) bool) *Capture {
	t.Helper()
	lo, err := n.Netlink.LinkByName("lo")
	if err != nil {
		t.Fatalf("capture in %s: %v", n.Name, err)
	}
	var fd int
	err = n.Do(func() (err error) {
		// Bound to all links from the start: packet(7).
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatalf("capture in %s: %v", n.Name, os.NewSyscallError("socket", err))
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
		t.Fatalf("capture in %s: %v", n.Name, err)
	}
	c := &Capture{
		node: n.Name, file: os.NewFile(uintptr(fd), "capture"), lo: lo.Attrs().Index, wanted: wanted,
		markers: map[string]chan struct{}{}, done: make(chan struct{}),
	}
	go c.read()
	t.Cleanup(func() {
		c.file.Close()
		<-c.done
	})
	return c
}

// networkOrder converts a 16-bit number between host and network byte order.
func networkOrder(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}

// read keeps frames until the socket is closed.
func (c *Capture) read() {
	defer close(c.done)
	conn, err := c.file.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	buf := make([]byte, 1<<20)
	for {
		var n int
		var from unix.Sockaddr
		var name string
		waitErr := conn.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			if sll, ok := from.(*unix.SockaddrLinklayer); ok && err == nil {
				name = linkName(int(fd), sll.Ifindex)
			}
			return !errors.Is(err, unix.EAGAIN)
		})
		if errors.Is(waitErr, os.ErrClosed) {
			return
		}
		switch {
		case errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EINTR): // a link went down; others go on
		case waitErr != nil || err != nil:
			c.fail(errors.Join(waitErr, err))
			return
		case n > len(buf):
			c.fail(fmt.Errorf("a frame of %d bytes does not fit", n))
			return
		default:
			c.add(from.(*unix.SockaddrLinklayer), name, bytes.Clone(buf[:n]))
		}
	}
}

// linkName asks in the namespace of the socket, whatever thread it runs on.
func linkName(fd, index int) string {
	ifr, err := unix.NewIfreq("?")
	if err != nil {
		return ""
	}
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr); err != nil {
		return ""
	}
	return ifr.Name()
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// add keeps a frame, or notes that a marker came by.
func (c *Capture) add(from *unix.SockaddrLinklayer, link string, raw []byte) {
	proto := networkOrder(from.Protocol)
	c.mu.Lock()
	defer c.mu.Unlock()
	if proto == markerProtocol && len(raw) >= ethernetHeader {
		text := string(raw[ethernetHeader:])
		if seen, mine := c.markers[text]; mine {
			close(seen)
			delete(c.markers, text)
		}
		return
	}
	if !c.wanted(link) {
		return
	}
	data := raw
	if from.Hatype == unix.ARPHRD_ETHER || from.Hatype == unix.ARPHRD_LOOPBACK {
		data = raw[min(ethernetHeader, len(raw)):]
	}
	c.frames = append(c.frames, Frame{Link: link, Out: from.Pkttype == unix.PACKET_OUTGOING, Protocol: proto, Data: data, Raw: raw})
}

const (
	markerProtocol = 0x88b5 // IEEE: for local experiments
	ethernetHeader = 14
)

// Sync waits until every frame that crossed a link of the node before the call
// has been kept. It does not wait for what is still on its way to the node. It
// fails the test if the capture has lost a frame: then absence means nothing.
func (c *Capture) Sync(t testing.TB) {
	t.Helper()
	if err := c.sync(); err != nil {
		t.Fatalf("capture in %s: %v", c.node, err)
	}
}

func (c *Capture) sync() error {
	seen := make(chan struct{})
	text := Canary()
	c.mu.Lock()
	c.markers[string(text)] = seen
	c.mu.Unlock()
	if err := c.mark(text); err != nil {
		return fmt.Errorf("send a marker over lo, which must be up: %w", err)
	}
	select {
	case <-seen:
	case <-c.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("it has ended: %w", errors.Join(c.err, net.ErrClosed))
	case <-time.After(patience):
		return errors.New("the marker was not seen")
	}
	return c.lost()
}

// mark sends a marker over lo: it queues behind the frames before it.
func (c *Capture) mark(text []byte) error {
	raw := make([]byte, ethernetHeader, ethernetHeader+len(text))
	binary.BigEndian.PutUint16(raw[12:], markerProtocol)
	raw = append(raw, text...)
	conn, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) {
		sendErr = unix.Sendto(int(fd), raw, 0, &unix.SockaddrLinklayer{Ifindex: c.lo})
	})
	return errors.Join(err, sendErr)
}

// lost tells whether the kernel had to drop frames.
func (c *Capture) lost() error {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var stats *unix.TpacketStats
	var getErr error
	err = conn.Control(func(fd uintptr) {
		stats, getErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(err, getErr); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped += stats.Drops // reading resets the kernel's count
	if c.dropped > 0 {
		return fmt.Errorf("%d frames were lost", c.dropped)
	}
	return nil
}
