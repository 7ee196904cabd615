package relay_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/relay"
)

// The last bytes and the end that is known by then cost one packet, not two.
func TestEndInOnePacket(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	r := &relay.Relay{Workers: 1}
	f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
	serve(t, r)
	c, s := dial(t, f.Addr()), accept(t, l)
	before := packets(t, c)
	release := r.Hold()
	s.Write([]byte("answer"))
	s.Close()
	release()
	if got := expectEOF(t, c); string(got) != "answer" {
		t.Errorf("got %q", got)
	}
	if n := packets(t, c) - before; n != 1 {
		t.Errorf("the answer and its end came in %d packets", n)
	}
}

// packets returns how many c has got, empty acknowledgements included.
func packets(t *testing.T, c *net.TCPConn) (n uint32) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Segs_in
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
