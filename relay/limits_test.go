package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/relay"
)

// A journal is a log that a test can look at.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) count(s string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.buf.String(), s)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// expectRefused dials and expects to be reset at once.
func expectRefused(t *testing.T, from string, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(to))
	if errors.Is(err, syscall.ECONNRESET) {
		return // before connect could return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v; want a reset", err)
	}
}

// Clients from elsewhere are reset and counted, and the log has one line for all
// of them; the target never sees them.
func TestAllow(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	var log journal
	r := &relay.Relay{Log: log.logger()}
	f, err := r.Listen(relay.Forward{
		Network: "tcp",
		Listen:  addrPort("127.0.0.1:0"),
		Targets: []netip.AddrPort{addrOf(l.Addr())},
		Allow:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.2/32")},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, r)
	for range 5 {
		expectRefused(t, "127.0.0.1", f.Addr())
	}
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}, net.TCPAddrFromAddrPort(f.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	c.CloseWrite()
	if got := expectEOF(t, c); string(got) != "hello" {
		t.Errorf("an allowed client: got %q", got)
	}
	if s := f.Stats().Load(); s.Refused != 5 || s.Total != 1 {
		t.Errorf("%d refused, %d in all; want 5 and 1", s.Refused, s.Total)
	}
	wait(t, "the log", func() bool { return log.count("client refused") > 0 })
	if n := log.count("client refused"); n != 1 {
		t.Errorf("%d lines in the log; want 1", n)
	}
}

// Beyond a limit clients are reset; a connection that ends makes room (R10).
func TestMaxConns(t *testing.T) {
	for name, limits := range map[string]relay.Limits{
		"in all":     {MaxConns: 3},
		"per client": {MaxConnsPerClient: 3},
	} {
		t.Run(name, func(t *testing.T) {
			l := listenTCP(t, "127.0.0.1:0")
			serveTCP(l, echo)
			r := &relay.Relay{Limits: limits, Workers: 2}
			f := forward(t, r, "tcp", "127.0.0.1:0", addrOf(l.Addr()))
			serve(t, r)
			var conns []*net.TCPConn
			for range 3 {
				c := dial(t, f.Addr())
				c.Write([]byte("x"))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
			}
			for range 3 {
				expectRefused(t, "127.0.0.1", f.Addr())
			}
			if name == "per client" {
				c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}, net.TCPAddrFromAddrPort(f.Addr()))
				if err != nil {
					t.Fatal(err)
				}
				c.Write([]byte("x"))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Errorf("another client: %v", err)
				}
				c.Close()
			}
			conns[1].Close()
			wait(t, "one to end", func() bool { return f.Stats().Load().Active < 3 })
			c := dial(t, f.Addr())
			c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("in the place of one that ended: %v", err)
			}
			if s := f.Stats().Load(); s.Refused != 3 {
				t.Errorf("%d refused; want 3", s.Refused)
			}
		})
	}
}

// TestMain lets the test binary be a relay of its own, with few descriptors.
func TestMain(m *testing.M) {
	if network, target, ok := strings.Cut(os.Getenv("RELAY_TEST_FEW_DESCRIPTORS"), " "); ok {
		fewDescriptors(network, addrPort(target))
		return
	}
	world.Main(m)
}

func fewDescriptors(network string, target netip.AddrPort) {
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	r := &relay.Relay{Log: slog.New(slog.NewTextHandler(os.Stdout, nil)), Workers: 2}
	l, err := r.Listen(relay.Forward{Network: network, Listen: addrPort("127.0.0.1:0"), Targets: []netip.AddrPort{target}})
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	if err := r.Serve(ctx); err != nil {
		panic(err)
	}
}

// A constrained is a relay in a process of its own, with few descriptors.
type constrained struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	addr netip.AddrPort
}

func startConstrained(t *testing.T, network string, target net.Addr) *constrained {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &constrained{cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), "RELAY_TEST_FEW_DESCRIPTORS="+network+" "+addrOf(target).String())
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	first, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c.addr = addrPort(strings.TrimSpace(first))
	return c
}

// end ends the relay. It must have said that it is out of resources, but not
// often, and not have used the CPU up meanwhile.
func (c *constrained) end(t *testing.T, said bool) {
	t.Helper()
	c.in.Close()
	log, err := io.ReadAll(c.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(string(log), "out of resources"); said && n < 1 || n > 4 {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
	if spent := c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime(); spent > patience/4 {
		t.Errorf("%v of CPU while descriptors were short", spent)
	}
}

// Out of descriptors: nobody is turned away. Who fits is served, the others are
// served when there is room, and the log says so in a line, not in a thousand
// (R11).
func TestFewDescriptors(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	serveTCP(l, echo)
	r := startConstrained(t, "tcp", l.Addr())
	const n = 200
	served := make(chan *net.TCPConn, n)
	for range n {
		c := dial(t, r.addr)
		go func() {
			c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("a client that had to wait: %v", err)
			}
			served <- c
		}()
	}
	for range n { // each that ends makes room for one more
		c := <-served
		c.Close()
	}
	r.end(t, true)
}

// Out of descriptors, flows make room for each other: everyone is answered
// (R11, R22).
func TestFewDescriptorsUDP(t *testing.T) {
	back := listenUDP(t, "127.0.0.1:0")
	echoUDP(back)
	r := startConstrained(t, "udp", back.LocalAddr())
	for range 200 {
		ask(t, dialUDP(t, r.addr), []byte("x"))
	}
	r.end(t, false) // a quarter of the descriptors is what flows may have
}
