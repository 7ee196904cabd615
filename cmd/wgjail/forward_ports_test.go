package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// One process forwards several SPECs: ranges, other targets, single addresses.
func TestForwardSpecs(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		for _, port := range []string{"80", "9000", "9001", "9002"} {
			serve(t, jail, "port-"+port, "tcp4", "127.0.0.1:"+port)
		}
		own := l.Client.Addresses[0].Addr().String()
		serve(t, jail, "loopback", "tcp4", "127.0.0.1:7000")
		serve(t, jail, "tunnel", "tcp4", own+":7000")
		l.forward(t, "8080:80", "8000-8002:9000-9002", "127.0.0.1:9000", "[::1]:9000", "[fd77::1]:9001:9002")
		lan, lan6 := world.HostLANV4, "["+world.HostLANV6+"]"

		mustGreet(t, l.LAN, lan+":8080", "port-80")
		for i := range 3 {
			mustGreet(t, l.LAN, fmt.Sprintf("%s:%d", lan6, 8000+i), fmt.Sprintf("port-%d", 9000+i))
		}
		mustBeClosed(t, l.LAN, lan+":8003")
		mustBeClosed(t, l.LAN, lan+":80")

		mustGreet(t, l.Host, "127.0.0.1:9000", "port-9000")
		mustGreet(t, l.Host, "[::1]:9000", "port-9000")
		mustBeClosed(t, l.LAN, lan+":9000")
		mustBeClosed(t, l.LAN, lan6+":9000")
		mustGreet(t, l.LAN, lan6+":9001", "port-9002")
		mustBeClosed(t, l.LAN, lan+":9001")
		mustBeClosed(t, l.Host, "[::1]:9001")

		// Without --to the jail's loopback comes first.
		l.forward(t, "7000")
		mustGreet(t, l.LAN, lan+":7000", "loopback")
		l.forward(t, "--to", own, "7001:7000")
		mustGreet(t, l.LAN, lan+":7001", "tunnel")
		l.forward(t, "--to", "::1", "7002:7000")
		mustBeReset(t, l.LAN, lan+":7002")
	})
}

// If one port of several cannot be had, none is opened.
func TestForwardOpensAllPortsOrNone(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		serve(t, l.up(t), "app", "tcp4", "127.0.0.1:80")
		serve(t, l.Host, "other", "tcp4", "127.0.0.1:8005")
		serve(t, l.Host, "other6", "tcp6", "[::1]:8010")
		settled(t, "vpn")
		before := w.Snapshot(t)
		for _, detach := range []string{"--detach=false", "--detach"} {
			l.refused(t, 1, []string{"8005/tcp: address already in use", "hint: another program has the port", "ss -lnp"},
				"forward", detach, "8000", "8001:80", "8002-8007", "8008")
			l.refused(t, 1, []string{":: port 8010/tcp: address already in use"}, "forward", detach, "8000", "8010:80")
			l.refused(t, 1, []string{"192.0.2.9 port 8000/tcp: cannot assign requested address", "hint: the host has no such address"},
				"forward", detach, "8001", "192.0.2.9:8000")
			for _, port := range []int{8000, 8001, 8002, 8004, 8006, 8007, 8008} {
				mustBeClosed(t, l.Host, fmt.Sprintf("127.0.0.1:%d", port))
				mustBeClosed(t, l.LAN, fmt.Sprintf("[%s]:%d", world.HostLANV6, port))
			}
			if diff := world.Diff(without(before, "forward.log"), without(w.Snapshot(t), "forward.log")); diff != "" {
				t.Errorf("left by a failed forward:\n%s", diff)
			}
		}
		mustGreet(t, l.Host, "127.0.0.1:8005", "other")

		// Two forwards of one port: whichever jail, whatever address.
		l.forward(t, "8000:80")
		l.refused(t, 1, []string{"error: 8000 is forwarded into jail vpn already", "wgjail forward --jail vpn --stop 8000\n"}, "forward", "8000:81")
		l.refused(t, 1, []string{"8000/tcp: address already in use"}, "forward", "127.0.0.1:8000:80")
		l.refused(t, 1, []string{`forward "8100:80": the port is given twice`}, "forward", "8100", "8100:80")
		mustBeClosed(t, l.Host, "127.0.0.1:8100")
		mustGreet(t, l.LAN, world.HostLANV4+":8000", "app")
	})
}

// Without the right to bind a low port, forward says so. Capabilities can be
// missing even for root, in containers for example.
func TestForwardPrivilegedPort(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		r := l.runCmd(t, exec.Command("setpriv", "--bounding-set", "-net_bind_service", "wgjail", "forward", "8080", "80"))
		for _, text := range []string{"port 80/tcp: permission denied", "hint: ports below 1024 need"} {
			if r.status != 1 || !strings.Contains(r.err, text) {
				t.Errorf("status %d, no %q in:\n%s", r.status, text, r.err)
			}
		}
		mustBeClosed(t, l.Host, "127.0.0.1:8080")
	})
}

// A thousand ports are one forward.
func TestForwardLargeRange(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		for _, port := range []string{"20000", "20500", "20999"} {
			serve(t, jail, port, "tcp6", "[::1]:"+port)
		}
		l.do(t, "forward", "-d", "10000-10999:20000-20999")
		for i := range 1000 {
			if l, err := l.Host.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", 10000+i)); !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatalf("port %d: listener %v, error %v, want it to be in use", 10000+i, l, err)
			}
		}
		for _, port := range []string{"000", "500", "999"} {
			mustGreet(t, l.LAN, world.HostLANV4+":10"+port, "20"+port)
		}
		mustBeReset(t, l.LAN, world.HostLANV4+":10001")
		mustBeClosed(t, l.LAN, world.HostLANV4+":11000")
		l.do(t, "forward", "--stop", "10000-10999")
		for _, port := range []int{10000, 10500, 10999} {
			free(t, l.Host, fmt.Sprintf("0.0.0.0:%d", port))
		}

		// More than there are descriptors for.
		r := l.runCmd(t, exec.Command("prlimit", "--nofile=600:600", "wgjail", "forward", "10000-10999"))
		for _, text := range []string{"too many open files", "hint: ", "two for each port"} {
			if r.status != 1 || !strings.Contains(r.err, text) {
				t.Errorf("status %d, no %q in:\n%s", r.status, text, r.err)
			}
		}
		free(t, l.Host, "0.0.0.0:10000")
	})
}

// free wants that addr can be listened on, now.
func free(t *testing.T, n *world.Node, addr string) {
	t.Helper()
	l, err := n.Listen("tcp", addr)
	if err != nil {
		t.Errorf("%s is not free: %v", addr, err)
		return
	}
	l.Close()
}

// without returns the lines of a snapshot that do not contain text.
func without(snapshot string, texts ...string) string {
	var b strings.Builder
	for line := range strings.Lines(snapshot) {
		if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A port can be forwarded, stopped and forwarded again without a pause, even
// with connections that linger.
func TestForwardPortIsFreeAtOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		serve(t, l.up(t), "app", "tcp4", "127.0.0.1:80")
		var open []net.Conn
		defer func() {
			for _, c := range open {
				c.Close()
			}
		}()
		for i := range times(50, 10) {
			l.do(t, "forward", "-d", "--drain-timeout", "0", "8080:80", "8081:80")
			v, err := visitTo(l.LAN, world.HostLANV4+":8080")
			if err != nil || v.banner != "app" {
				t.Fatalf("round %d: %v", i, err)
			}
			open = append(open, v)
			if i%2 == 0 {
				l.do(t, "forward", "--stop", "8080", "8081")
			} else {
				l.do(t, "forward", "--stop")
			}
			free(t, l.Host, "0.0.0.0:8080")
			free(t, l.Host, "[::]:8081")
		}
	})
}
