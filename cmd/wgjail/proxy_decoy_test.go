package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// Whatever fails, who asks a proxy for an address of the jail never meets a
// service of the host that has the same one, nor one in another namespace that
// has the jail's name; and a service in the jail never sees a loopback address.
func TestProxyNeverReachesTheHost(t *testing.T) {
	for name, c := range rows(mishaps, "keeper killed", "interface deleted", "down and up") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				decoy := l.decoys(t)
				jail := l.up(t)
				if name != "no service" {
					serve(t, jail, "app", "tcp", "[::]:9000")
				}
				p := l.start(t, "proxy", "--dial-timeout", "200ms")
				p.WaitOutput(t, "proxy at")
				pid := l.status(t).Forwards[0].PID
				h := &hammer{stop: make(chan struct{}), answers: map[string]int{}}
				for _, to := range []string{"127.0.0.1:9000", "[::1]:9000", "10.64.0.2:9000", "[fd64::2]:9000", "localhost:9000", "0.0.0.0:9000"} {
					h.wg.Go(func() { h.strikeThrough(l.Host, to) })
				}
				world.Eventually(t, "a client", h.begun)

				cmd := exec.Command("sh", "-ec", "CONF=$0 FORWARD=$1; "+c.script, l.conf, fmt.Sprint(pid))
				if r := l.runCmd(t, cmd); r.status != 0 {
					t.Fatalf("%s: status %d", c.script, r.status)
				}
				if strings.Contains(name, "reused") || name == "down and up" {
					serve(t, w.Open(t, "vpn"), "impostor", "tcp", "[::]:9000")
				}
				if c.after == "closed" {
					p.Wait()
					mustBeClosed(t, l.Host, "127.0.0.1:1080")
				} else if name != "no service" {
					seen := h.count()
					world.Eventually(t, "some more clients", func() error {
						if h.count() < seen+20 {
							return errors.New("there are none")
						}
						return nil
					})
				}
				for who, n := range h.end() {
					if who != "" && who != "app" {
						t.Errorf("%d clients were answered by the %s", n, who)
					}
				}
				if n := decoy.called(); n != 0 {
					t.Errorf("the decoy was called %d times", n)
				}
				mustGreet(t, l.Host, "127.0.0.1:9000", "decoy") // the positive control
			})
		})
	}
}

// strikeThrough connects to a target through the proxy until it is stopped.
func (h *hammer) strikeThrough(from *world.Node, to string) {
	for {
		select {
		case <-h.stop:
			return
		default:
		}
		banner := ""
		if c, err := socks(from, "127.0.0.1:1080", to, nil); err == nil {
			hang := time.AfterFunc(time.Second, func() { c.Close() })
			if v, err := greeting(c); err == nil {
				banner = v.banner
				if v.seen.Addr().Unmap().IsLoopback() {
					banner += ", who saw a loopback address,"
				}
				v.Close()
			}
			hang.Stop()
			c.Close()
		}
		h.mu.Lock()
		h.answers[banner]++
		h.mu.Unlock()
	}
}

// count returns how many clients have come back.
func (h *hammer) count() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, times := range h.answers {
		n += times
	}
	return n
}

// associate asks a SOCKS5 proxy for datagrams, and returns the connection that
// keeps them going and a socket for them.
func associate(from *world.Node, at string) (control, datagrams net.Conn, err error) {
	control, err = from.Dial("tcp", at)
	if err != nil {
		return nil, nil, err
	}
	control.SetDeadline(time.Now().Add(20 * time.Second))
	reply := make([]byte, 2+10)
	host := control.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	if host.Is6() {
		reply = make([]byte, 2+22)
	}
	io.WriteString(control, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	if _, err := io.ReadFull(control, reply); err != nil || reply[3] != 0 {
		return control, nil, fmt.Errorf("reply %q, %v", reply, err)
	}
	port := binary.BigEndian.Uint16(reply[len(reply)-2:])
	datagrams, err = from.Dial("udp", netip.AddrPortFrom(host, port).String())
	if err == nil {
		datagrams.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return control, datagrams, err
}

// Datagrams go through the tunnel to addresses of both families and to names,
// which the jail's servers are asked for, and answers come back.
func TestProxyForDatagrams(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, jail := proxyLab(t, w)
		own, err := jail.ListenPacket("udp4", "127.0.0.1:7001")
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := own.ReadFrom(buf)
				if err != nil {
					return
				}
				own.WriteTo(fmt.Appendf(buf[:n], " %s", from.(*net.UDPAddr).IP), from)
			}
		}()
		wire := l.Host.CaptureAll(t, "lo", "lan0")
		wire.Control(t, "a datagram from the host", func(canary []byte) error {
			return l.Host.Do(func() error { return sendProbe("udp/"+world.InternetV4+":7", canary) })
		})
		for _, c := range []caller{{l.LAN, world.HostLANV4}, {l.LAN, "[" + world.HostLANV6 + "]"}, {l.Host, "127.0.0.1"}} {
			control, udp, err := associate(c.from, c.to+":1080")
			if err != nil {
				t.Fatal(err)
			}
			canary := string(world.Canary())
			for _, to := range []struct{ header, suffix string }{
				{"\x00\x00\x00\x01\xcb\x00\x71\x07\x00\x07", ""},                                                 // 203.0.113.7
				{"\x00\x00\x00\x04\x20\x01\x0d\xb8\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x07", ""}, // 2001:db8:7::7
				{"\x00\x00\x00\x03\x08web.test\x00\x07", ""},                                                     // either
				{"\x00\x00\x00\x01\x7f\x00\x00\x01\x1b\x59", " 10.64.0.2"},                                       // the jail itself
			} {
				io.WriteString(udp, to.header+canary)
				got := make([]byte, 100)
				n, err := udp.Read(got)
				if err != nil || !strings.HasSuffix(string(got[:n]), canary+to.suffix) {
					t.Errorf("%q came back from %q, %v", got[:n], to.header, err)
				}
			}
			wire.MustNotSee(t, []byte(canary))
			control.Close()
			udp.Close()
		}
		l.waitStatus(t, "the counters", func(s jailStatus) bool {
			f := s.Forwards[1]
			return f.Total == 3 && f.Active == 0 && f.BytesIn == 3*4*16 && f.BytesOut == f.BytesIn+3*uint64(len(" 10.64.0.2"))
		})
	})
}
