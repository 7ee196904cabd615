package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// mustVisit connects from the LAN and keeps the connection until the test ends.
func (l *lab) mustVisit(t *testing.T, addr string) *visit {
	t.Helper()
	v, err := visitTo(l.LAN, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// exchange sends text over an open connection and wants it back.
func (v *visit) exchange(text string) error {
	v.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(v, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(v.r, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

// mustEnd wants the connection to end, by a reset if one is asked for.
func (v *visit) mustEnd(t *testing.T, reset bool) {
	t.Helper()
	v.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := v.r.ReadByte()
	if reset && !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("the connection: %v, want it to be ended (reset: %v)", err, reset)
	}
}

// forward --stop ends one forward, several or all; each can be bound again at
// once, and what is connected goes on for a while.
func TestForwardStop(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		addr := func(port int) string { return fmt.Sprintf("%s:%d", world.HostLANV4, port) }
		both := m.forward(t, l, "8000:80", "8001:80")
		m.background(t, l, "8002:80")
		v := l.mustVisit(t, addr(8000))

		// One of two: by where it listens, whatever its target.
		if out := l.do(t, "forward", "--stop", "8000"); out != "stopped tcp-8000\n" {
			t.Errorf("printed %q", out)
		}
		free(t, l.Host, "0.0.0.0:8000")
		free(t, l.Host, "[::]:8000")
		mustGreet(t, l.LAN, addr(8001), "app")
		if err := v.exchange("still here"); err != nil {
			t.Errorf("a connection of a stopped forward: %v", err)
		}

		// What is not there is an error, and the rest is stopped all the same.
		l.refused(t, 1, []string{"error: 8000 is not forwarded into jail vpn\n", "hint: see what is: wgjail status"},
			"forward", "--stop", "8000", "8002")
		free(t, l.Host, "0.0.0.0:8002")
		l.refused(t, 1, []string{"8001/udp is not forwarded into jail vpn"}, "forward", "--stop", "8001/udp")
		mustGreet(t, l.LAN, addr(8001), "app")

		m.background(t, l, "8003:80")
		if out := l.do(t, "forward", "--stop"); out != "stopped tcp-8001\nstopped tcp-8003\n" {
			t.Errorf("printed %q", out)
		}
		free(t, l.Host, "0.0.0.0:8001")
		free(t, l.Host, "0.0.0.0:8003")
		v.Close()
		if err := both.Wait(); err != nil || !strings.Contains(both.Output(), "stopped by wgjail forward --stop\n") {
			t.Errorf("the stopped forward ended with %v and printed:\n%s", err, both.Output())
		}
		if out := l.do(t, "forward", "--stop"); out != "nothing is forwarded into jail vpn\n" {
			t.Errorf("printed %q", out)
		}
		l.refused(t, 1, []string{"error: jail nope is not up\n"}, "forward", "--jail", "nope", "--stop")
		l.refused(t, 1, []string{"error: jail nope is not up\n", "hint: make it with: wgjail up nope.conf"}, "forward", "--jail", "nope", "8080")
		l.refused(t, 1, []string{"error: jail nope is not up\n"}, "forward", "--jail", "nope", "-d", "8080")
		if forwards := l.status(t).Forwards; len(forwards) != 0 {
			t.Errorf("still forwarded: %+v", forwards)
		}
	})
}

// A forward that was killed is not listed, and does not stand in the way.
func TestForwardKilled(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		serve(t, l.up(t), "app", "tcp", "[::]:80")
		settled(t, "vpn")
		before := l.w.Snapshot(t)
		p := m.forward(t, l, "8080:80", "8081:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		p.Signal(t, syscall.SIGKILL)
		p.Wait()
		if forwards := l.status(t).Forwards; len(forwards) != 0 {
			t.Errorf("a killed forward is listed: %+v", forwards)
		}
		l.refused(t, 1, []string{"8081 is not forwarded"}, "forward", "--stop", "8081")
		p = m.forward(t, l, "8080:80")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
		if forwards := l.status(t).Forwards; len(forwards) != 1 || forwards[0].Total != 1 {
			t.Errorf("forwards %+v, want one that counts from zero", forwards)
		}
		p.Signal(t, syscall.SIGINT)
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
		l.do(t, "forward", "--stop")
		l.unchanged(t, before, "the end of all forwards")
	})
}

// SIGTERM lets what is being transferred come to its end; a second one does
// not, nor does it wait for what never ends.
func TestForwardDrains(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		jail := l.up(t)
		serve(t, jail, "app", "tcp", "[::]:80")
		const size = 16 << 20
		go sendAll(t, jail, "0.0.0.0:81", size)
		world.Eventually(t, "the sender", func() error { return listening(jail, 81) })
		addr := world.HostLANV4 + ":8080"

		p := m.forward(t, l, "--drain-timeout", "1m", "8081:81", "8080:80")
		c, err := l.LAN.Dial("tcp", world.HostLANV4+":8081")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(60 * time.Second))
		head := make([]byte, 1<<20)
		if _, err := io.ReadFull(c, head); err != nil {
			t.Fatal(err)
		}
		p.Signal(t, syscall.SIGTERM)
		world.Eventually(t, "the port's end", func() error {
			if _, _, err := greet(l.LAN, addr); !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("error %v, want connection refused", err)
			}
			return nil
		})
		p.WaitOutput(t, " to end; again ends now")
		if n, err := io.Copy(io.Discard, c); n != size-1<<20 || err != nil {
			t.Errorf("after SIGTERM %d of %d bytes came (%v)", n, size-1<<20, err)
		}
		c.Close()
		if err := p.Wait(); err != nil {
			t.Errorf("after the drain: %v", err)
		}

		for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			p = m.forward(t, l, "--drain-timeout", "1h", "8080:80")
			v := l.mustVisit(t, addr)
			p.Signal(t, syscall.SIGTERM)
			p.WaitOutput(t, "for 1 connection to end")
			if err := v.exchange("not yet"); err != nil {
				t.Errorf("between the signals: %v", err)
			}
			p.Signal(t, second)
			v.mustEnd(t, true)
			if err := p.Wait(); err != nil {
				t.Errorf("after the second signal: %v", err)
			}
		}
	})
}

// sendAll serves one client at addr in a node: it gets size bytes.
func sendAll(t *testing.T, n *world.Node, addr string, size int) {
	listener, err := n.Listen("tcp4", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer listener.Close()
	c, err := listener.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.Write(make([]byte, size))
}

// listening returns nil if a TCP socket listens on the port in the node.
func listening(n *world.Node, port int) error {
	r, err := runIn(n, exec.Command("ss", "-Hltn", fmt.Sprintf("sport = :%d", port)))
	if err == nil && r.out == "" {
		err = fmt.Errorf("nothing listens on port %d", port)
	}
	return err
}

// down ends forwards, and what is connected through them, without waiting.
func TestForwardEndsWithItsJail(t *testing.T) {
	eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
		before := l.w.Snapshot(t)
		app := serve(t, l.up(t), "app", "tcp", "[::]:80")
		foreground := m.forward(t, l, "--drain-timeout", "1h", "8000:80", "8001:80")
		m.background(t, l, "--drain-timeout", "1h", "8002:80")
		stopped := m.forward(t, l, "--drain-timeout", "1h", "8003:80")
		stopped.Signal(t, syscall.SIGSTOP)
		var open []*visit
		for port := 8000; port <= 8002; port++ {
			open = append(open, l.mustVisit(t, fmt.Sprintf("%s:%d", world.HostLANV4, port)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // not an hour
		defer cancel()
		r := l.runCmd(t, exec.CommandContext(ctx, "wgjail", "down", "vpn"))
		if r.status != 0 {
			t.Errorf("down: status %d", r.status)
		}
		for _, v := range open {
			v.mustEnd(t, false)
		}
		if err := foreground.Wait(); err == nil || !strings.Contains(foreground.Output(), "error: jail vpn was removed: the forward has ended\n") {
			t.Errorf("the forward ended with %v and printed:\n%s", err, foreground.Output())
		}
		stopped.Wait()
		for port := 8000; port <= 8003; port++ {
			free(t, l.Host, fmt.Sprintf("0.0.0.0:%d", port))
		}
		app.Close()
		l.unchanged(t, before, "down")
	})
}

// A jail that goes away without wgjail takes its forwards along.
func TestForwardNoticesTheEndOfItsJail(t *testing.T) {
	for name, script := range rows(map[string]string{
		"name deleted":   "ip netns delete vpn",
		"name unmounted": "umount -l /run/netns/vpn",
		"name reused":    "ip netns delete vpn && ip netns add vpn",
	}, "name reused") {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, l *lab, m forwardMode) {
				serve(t, l.up(t), "app", "tcp", "[::]:80")
				p := m.forward(t, l, "--drain-timeout", "1h", "8080:80")
				v := l.mustVisit(t, world.HostLANV4+":8080")
				l.Host.Run(t, "sh", "-ec", script)
				v.mustEnd(t, true)
				if err := p.Wait(); err == nil || !strings.Contains(p.Output(), "error: jail vpn was removed: the forward has ended\n") {
					t.Errorf("the forward ended with %v and printed:\n%s", err, p.Output())
				}
				free(t, l.Host, "0.0.0.0:8080")
			})
		})
	}
}
