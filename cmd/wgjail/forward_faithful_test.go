package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// A way leads from a client to a service in the jail.
type way struct {
	from     *world.Node
	to       string // where the client connects
	listener *net.TCPListener
	datagram net.PacketConn
}

// connect makes a connection: the client's end and the service's.
func (w *way) connect() (client, server *net.TCPConn, err error) {
	c, err := w.from.Dial("tcp", w.to)
	if err != nil {
		return nil, nil, err
	}
	w.listener.SetDeadline(time.Now().Add(20 * time.Second))
	s, err := w.listener.AcceptTCP()
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	for _, c := range []net.Conn{c, s} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c.(*net.TCPConn), s, nil
}

// A habit is what the ends of a connection can tell of what is between them:
// nothing may. It is tried with the client and with the service as a.
type habit func(a, b *net.TCPConn) error

var habits = map[string]habit{
	"bytes both ways at once": func(a, b *net.TCPConn) error {
		data := make([]byte, 4<<20)
		rand.Read(data)
		done := make(chan error, 4)
		for _, c := range []*net.TCPConn{a, b} {
			go func() {
				_, err := c.Write(data)
				done <- errors.Join(err, c.CloseWrite())
			}()
			go func() {
				got, err := io.ReadAll(c)
				if !bytes.Equal(got, data) {
					err = fmt.Errorf("%d bytes came, not as they were sent: %w", len(got), err)
				}
				done <- err
			}()
		}
		return errors.Join(<-done, <-done, <-done, <-done)
	},
	"half-close": func(a, b *net.TCPConn) error {
		io.WriteString(a, "request")
		a.CloseWrite()
		if got, err := io.ReadAll(b); string(got) != "request" || err != nil {
			return fmt.Errorf("the request is %q (%w)", got, err)
		}
		answer := bytes.Repeat([]byte("answer"), 1<<18)
		go func() { b.Write(answer); b.CloseWrite() }()
		if got, err := io.ReadAll(a); !bytes.Equal(got, answer) || err != nil {
			return fmt.Errorf("%d bytes of the answer came (%w)", len(got), err)
		}
		return nil
	},
	"reset after the last words": func(a, b *net.TCPConn) error {
		io.WriteString(a, "last words")
		if _, err := io.ReadFull(b, make([]byte, len("last words"))); err != nil {
			return err
		}
		a.SetLinger(0)
		a.Close()
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("after a reset: %w", err)
		}
		return nil
	},
	"close with unread bytes": func(a, b *net.TCPConn) error {
		io.WriteString(b, "nobody reads this")
		if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
			return err
		}
		a.Close() // which resets
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("after a reset: %w", err)
		}
		return nil
	},
}

// mustBeFaithful tries every habit, and datagrams of all sizes.
func (w *way) mustBeFaithful(t *testing.T) {
	for name, habit := range habits {
		for _, first := range []string{"client", "service"} {
			c, s, err := w.connect()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			a, b := c, s
			if first == "service" {
				a, b = s, c
			}
			if err := habit(a, b); err != nil {
				t.Errorf("%s, by the %s: %v", name, first, err)
			}
			c.Close()
			s.Close()
		}
	}
	go func() {
		buf := make([]byte, 65<<10)
		for {
			n, from, err := w.datagram.ReadFrom(buf)
			if err != nil {
				return
			}
			w.datagram.WriteTo(buf[:n], from)
		}
	}()
	for _, size := range []int{0, 1, 1472, 1473, 65507} {
		if err := w.ask(size); err != nil {
			t.Errorf("a datagram of %d bytes: %v", size, err)
		}
	}
}

// ask sends a datagram and wants it back from the address that it was sent to.
func (w *way) ask(size int) error {
	c, err := w.from.Dial("udp", w.to)
	if err != nil {
		return err
	}
	defer c.Close()
	data := make([]byte, size)
	rand.Read(data)
	buf := make([]byte, 65<<10)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(data); err != nil {
		return err
	}
	n, err := c.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], data) {
		return fmt.Errorf("%d bytes came back: %w", n, err)
	}
	return nil
}

// Client and service cannot tell a forward from a direct connection, whatever
// their families.
func TestForwardIsFaithful(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		v4, v6 := world.HostLANV4, "["+world.HostLANV6+"]"
		own4, own6 := l.Client.Addresses[0].Addr().String(), "["+l.Client.Addresses[1].Addr().String()+"]"
		for i, c := range []struct {
			name, mode  string
			from        *world.Node
			to, service string
		}{
			{"direct", "", jail, "127.0.0.1", "127.0.0.1"},
			{"relay, IPv4", "relay", l.LAN, v4, "127.0.0.1"},
			{"relay, IPv6", "relay", l.LAN, v6, "[::1]"},
			{"relay, IPv4 to IPv6", "relay", l.LAN, v4, "[::1]"},
			{"relay, IPv6 to IPv4", "relay", l.LAN, v6, "127.0.0.1"},
			{"relay, from the host", "relay", l.Host, "127.0.0.1", own4},
			{"veth, IPv4", "veth", l.LAN, v4, own4},
			{"veth, IPv6", "veth", l.LAN, v6, own6},
		} {
			port := 8001 + i
			at := func(host string) string { return fmt.Sprintf("%s:%d", host, port) }
			listener, err := jail.Listen("tcp", at(c.service))
			if err != nil {
				t.Fatal(err)
			}
			datagram, err := jail.ListenPacket("udp", at(c.service))
			if err != nil {
				t.Fatal(err)
			}
			if c.mode != "" {
				l.do(t, "forward", "-d", "--mode", c.mode, fmt.Sprint(port), fmt.Sprintf("%d/udp", port))
			}
			way := &way{c.from, at(c.to), listener.(*net.TCPListener), datagram}
			t.Run(c.name, way.mustBeFaithful)
			listener.Close()
			datagram.Close()
			if c.mode == "relay" { // else the client is refused before it is connected
				mustBeReset(t, c.from, at(c.to))
			} else {
				mustBeClosed(t, c.from, at(c.to))
			}
		}
	})
}

// A service that does not answer costs its own clients the dial timeout, and
// nobody else anything.
func TestForwardToABlackHole(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp4", "127.0.0.1:80")
		jail.Run(t, "nft", "add table inet t; add chain inet t i {type filter hook input priority 0;}; add rule inet t i tcp dport 81 drop")
		l.forward(t, "--to", "127.0.0.1", "--dial-timeout", "2s", "8080:80", "8081:81")
		stuck, err := l.LAN.Dial("tcp", world.HostLANV4+":8081")
		if err != nil {
			t.Fatal(err)
		}
		defer stuck.Close()
		l.waitStatus(t, "the client to wait", func(s jailStatus) bool { return s.Forwards[1].Active == 1 })
		for range 20 {
			mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		}
		stuck.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := stuck.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client of the silent service: %v, want a reset", err)
		}
	})
}

// A client that stays half-open does not keep a namespace alive that has been
// removed: its end of a link to the host, which goes with it, is gone.
func TestForwardKeepsNoNamespaceAlive(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.Host.Run(t, "sh", "-ec", `ip netns add app
			ip link add app0 type veth peer name eth0 netns app
			ip -n app address add 10.99.0.2/24 dev eth0; ip -n app link set lo up; ip -n app link set eth0 up; ip link set app0 up`)
		app := l.Host.Start(t, netcat("app", "80"))
		world.Eventually(t, "the service", func() error {
			out, err := l.Host.Try(t, "ip", "netns", "exec", "app", "ss", "-Hltn", "sport = :80")
			if err == nil && out == "" {
				err = errors.New("it does not listen")
			}
			return err
		})
		p := l.forward(t, "--netns", "app", "--drain-timeout", "1h", "8080:80")
		c, err := l.LAN.Dial("tcp", world.HostLANV4+":8080")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, "hello\n")
		app.WaitOutput(t, "hello\n")
		app.Signal(t, syscall.SIGKILL)
		app.Wait()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the service's end: %v, want EOF", err)
		}
		l.Host.Run(t, "ip", "link", "show", "app0") // the positive control: the relay's socket keeps it
		l.Host.Run(t, "ip", "netns", "delete", "app")
		if err := p.Wait(); err == nil {
			t.Error("the forward ended without an error")
		}
		world.Eventually(t, "the namespace's end", func() error {
			if out, err := l.Host.Try(t, "ip", "link", "show", "app0"); err == nil {
				return fmt.Errorf("it has still a link: %s", out)
			}
			return nil
		})
	})
}

// netcat is a service in a namespace that prints what one client sends.
func netcat(netns, port string) *exec.Cmd {
	return exec.Command("ip", "netns", "exec", netns, "nc.openbsd", "-l", "127.0.0.1", port)
}
