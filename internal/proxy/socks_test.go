package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/dialx"
)

// connectTo is the request to connect to a port of x.test.
func connectTo(t testing.TB, port string) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return "\x05\x01\x00\x03\x06x.test" + string(binary.BigEndian.AppendUint16(nil, uint16(n)))
}

// The dialogue of RFC 1928 and RFC 1929, byte for byte. Some clients send all of
// it at once, and their first bytes to the target as well.
func TestSOCKSDialogue(t *testing.T) {
	port := target(t, func(c *net.TCPConn) { io.Copy(c, c) })
	closed := listen(t, "127.0.0.1:0")
	closed.Close()
	_, refusedPort, _ := net.SplitHostPort(closed.Addr().String())
	users := func(s *Server) { s.Users = Users{"ann": "pass"} }
	const login, wrong = "\x01\x03ann\x04pass", "\x01\x03ann\x04past"
	for name, tt := range map[string]struct {
		change func(*Server)
		sent   string
		want   string // with PORT and ADDR for what cannot be known
	}{
		"connect":          {nil, "\x05\x01\x00" + connectTo(t, port) + "hello", "\x05\x00\x05\x00\x00\x01ADDRhello"},
		"many methods":     {nil, "\x05\x03\x02\x01\x00" + connectTo(t, port) + "x", "\x05\x00\x05\x00\x00\x01ADDRx"},
		"password":         {users, "\x05\x02\x00\x02" + login + connectTo(t, port) + "x", "\x05\x02\x01\x00\x05\x00\x00\x01ADDRx"},
		"wrong password":   {users, "\x05\x01\x02" + wrong + connectTo(t, port), "\x05\x02\x01\x01"},
		"no password":      {users, "\x05\x01\x00" + connectTo(t, port), "\x05\xff"},
		"password unasked": {nil, "\x05\x01\x02" + login, "\x05\xff"},
		"no method":        {nil, "\x05\x00", "\x05\xff"},
		"refused":          {nil, "\x05\x01\x00" + connectTo(t, refusedPort), "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"},
		"no such name":     {nil, "\x05\x01\x00\x05\x01\x00\x03\x06y.test\x00\x50", "\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"},
		"bind":             {nil, "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		"address type":     {nil, "\x05\x01\x00\x05\x01\x00\x05\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		"SOCKS4":           {nil, "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", ""},
		"HTTP":             {nil, "GET / HTTP/1.1\r\n\r\n", ""},
		"too short":        {nil, "\x05\x01\x00\x05\x01\x00\x03\x06x.te", "\x05\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, SOCKS5, tt.change)
			c := dial(t, addr)
			io.WriteString(c, tt.sent)
			c.CloseWrite()
			b, _ := io.ReadAll(c)
			got := string(b)
			if before, after, ok := strings.Cut(tt.want, "ADDR"); ok && len(got) > len(before)+6 {
				if bound := got[len(before) : len(before)+4]; bound != "\x7f\x00\x00\x01" {
					t.Errorf("bound to %q", bound)
				}
				tt.want, got = before+after, got[:len(before)]+got[len(before)+6:]
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A client that says nothing, or too slowly, or goes away is none of the
// others' business; the end of the server is not held up by it.
func TestSOCKSIdleClients(t *testing.T) {
	port := target(t, func(c *net.TCPConn) { io.Copy(c, c) })
	_, addr := serve(t, SOCKS5, nil)
	for _, text := range []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03\x06x.te"} {
		io.WriteString(dial(t, addr), text) // open until the test ends
		gone := dial(t, addr)
		io.WriteString(gone, text)
		gone.SetLinger(0)
		gone.Close()
	}
	if got := say(t, addr, "\x05\x01\x00"+connectTo(t, port)+"hello"); !strings.HasSuffix(got, "hello") {
		t.Errorf("got %q", got)
	}
}

// Of several addresses the first one that accepts is taken, soon, whatever the
// others do; the families take turns.
func TestRace(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	good := netip.MustParseAddr("127.0.0.1")
	refuses := netip.MustParseAddr("127.0.0.2")
	// A listener whose queue is full: connections to it hang.
	full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	if err := errors.Join(unix.Bind(full, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 3}, Port: int(port)}), unix.Listen(full, 0)); err != nil {
		t.Fatal(err)
	}
	dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), port).String())
	hangs := netip.MustParseAddr("127.0.0.3")
	x := &session{Server: &Server{Dialer: &dialx.Dialer{Socket: unix.Socket, Source: []netip.Addr{good}}}}
	for _, tt := range []struct {
		addrs []netip.Addr
		want  failure
		ok    bool
	}{
		{[]netip.Addr{good}, 0, true},
		{[]netip.Addr{refuses, good}, 0, true},
		{[]netip.Addr{hangs, good}, 0, true},
		{[]netip.Addr{hangs, hangs, refuses, good, hangs}, 0, true},
		{[]netip.Addr{netip.IPv6Loopback(), good}, 0, true}, // no Source of its family
		{[]netip.Addr{refuses}, refused, false},
		{[]netip.Addr{refuses, refuses}, refused, false},
		{[]netip.Addr{netip.IPv6Loopback()}, noHost, false},
		{nil, noHost, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := x.race(ctx, tt.addrs, port)
		cancel()
		if (err == nil) != tt.ok || err != nil && reason(err) != tt.want {
			t.Errorf("%v: error %v, which is %d; want success %v or %d", tt.addrs, err, reason(err), tt.ok, tt.want)
		}
		if c != nil {
			if to := c.RemoteAddr().(*net.TCPAddr).AddrPort(); to.Addr() != good {
				t.Errorf("%v: connected to %v", tt.addrs, to)
			}
			c.Close()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := x.race(ctx, []netip.Addr{hangs}, port); reason(err) != timeout {
		t.Errorf("without an answer: %v", err)
	}
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if got := alternate([]netip.Addr{six, six, six, four, four}); !slices.Equal(got, []netip.Addr{six, four, six, four, six}) {
		t.Errorf("the order is %v", got)
	}
}

// Datagrams go to where their headers say, and answers come back with a header
// that says from where. Others are lost and counted.
func TestAssociate(t *testing.T) {
	echo, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			echo.WriteTo(buf[:n], from)
		}
	}()
	echoAt := echo.LocalAddr().(*net.UDPAddr).AddrPort()
	s, addr := serve(t, SOCKS5, nil)
	control := dial(t, addr)
	io.WriteString(control, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	reply := make([]byte, 12)
	mustRead(t, control, reply)
	if want := "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01"; string(reply[:10]) != want {
		t.Fatalf("got %q, want %q and a port", reply, want)
	}
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), binary.BigEndian.Uint16(reply[10:])))
	c, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	port := binary.BigEndian.AppendUint16(nil, echoAt.Port())
	byName := append([]byte("\x00\x00\x00\x03\x06x.test"), port...)
	byAddr := appendAddr([]byte{0, 0, 0}, echoAt)
	large := bytes.Repeat([]byte("x"), 60<<10)
	sent := uint64(0)
	for _, header := range [][]byte{byAddr, byName} {
		for _, data := range [][]byte{[]byte("hello"), {}, large} {
			for _, bad := range [][]byte{{}, {0, 0}, {0, 0, 1, 1, 127, 0, 0, 1, 0, 7}, {0, 0, 0, 9, 1}, {0, 0, 0, 1, 0, 0, 0, 0, 0, 7}, []byte("\x00\x00\x00\x03\x06y.test\x00\x07")} {
				c.Write(bad)
			}
			stranger, err := net.DialUDP("udp4", nil, at)
			if err != nil {
				t.Fatal(err)
			}
			if sent > 0 { // the first one to send is the client
				stranger.Write(append(byAddr, "stranger"...))
			}
			stranger.Close()
			c.Write(append(header, data...))
			sent++
			got := make([]byte, 64<<10)
			n, err := c.Read(got)
			if want := append(byAddr, data...); err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("%d bytes with header %q: got %d bytes, %v", len(data), header, n, err)
			}
		}
	}
	stats := s.Adopter.Stats().Load()
	if stats.Active != 1 || stats.Total != 1 || stats.DatagramsIn != sent || stats.DatagramsOut != sent || stats.BytesIn != stats.BytesOut || stats.BytesIn != 2*(5+60<<10) {
		t.Errorf("counted %+v", stats)
	}
	if stats.Dropped < 5*sent {
		t.Errorf("%d were dropped", stats.Dropped)
	}
	control.Close()
	// The end of the connection is that of the socket.
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := c.Write(append(byAddr, "late"...)); errors.Is(err, unix.ECONNREFUSED) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the socket is still there")
		}
	}
}

func TestParseUsers(t *testing.T) {
	u, err := ParseUsers("# comment\r\na:b\r\n\nc: d:e \n")
	if err != nil || len(u) != 2 || !u.has("a", "b") || !u.has("c", " d:e ") || u.has("a", "") || u.has("x", "") || u.has("c", "d:e") {
		t.Errorf("%q, %v", u, err)
	}
	for text, want := range map[string]string{
		"":                              "no NAME:PASSWORD",
		"a:b\nsecret":                   "line 2: not NAME:PASSWORD",
		":secret":                       "line 1: not NAME:PASSWORD",
		"a:":                            "line 1: not NAME:PASSWORD",
		"a:secret\na:b":                 "line 2: the name is there twice",
		"a:" + strings.Repeat("x", 256): "line 1: a name or password of more than 255 bytes",
	} {
		if _, err := ParseUsers(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Whatever a client sends is read or refused.
func FuzzReadSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x03\x06x.test\x00\x50"))
	f.Add([]byte("\x05\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, to, err := readSOCKS(r)
		if a, parseErr := netip.ParseAddr(to.host); err == nil && parseErr == nil && b[3] != addrName {
			again := appendAddr(b[:3:3], netip.AddrPortFrom(a, to.port))
			if b[3] == addrV4 && !bytes.Equal(again, b[:len(b)-r.Len()]) {
				t.Errorf("%q is read as %v, which is %q", b, to, again)
			}
		}
	})
}
