package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/world"
)

// rows returns the rows of a table, or, where the machine is emulated, those
// with these names: there a world takes its time.
func rows[V any](all map[string]V, emulated ...string) map[string]V {
	if kernelBackend() {
		maps.DeleteFunc(all, func(name string, _ V) bool { return !slices.Contains(emulated, name) })
	}
	return all
}

// A service greets each client with its banner and the address it sees, and
// then echoes.
type service struct {
	net.Listener
	banner string

	mu    sync.Mutex
	calls int
}

// serve starts a service in a node, until the test ends. For network "tcp" and
// the address [::] it listens in both families.
func serve(t *testing.T, n *world.Node, banner, network, addr string) *service {
	t.Helper()
	l, err := n.Listen(network, addr)
	if err != nil {
		t.Fatalf("serve %s in %s: %v", addr, n.Name, err)
	}
	t.Cleanup(func() { l.Close() })
	s := &service{Listener: l, banner: banner}
	go s.accept()
	return s
}

func (s *service) accept() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.calls++
		s.mu.Unlock()
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s\n", s.banner, c.RemoteAddr())
			io.Copy(c, c)
		}()
	}
}

// called returns how many clients the service has had.
func (s *service) called() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// A visit is a connection to a service after its greeting.
type visit struct {
	net.Conn
	banner string
	seen   netip.AddrPort // whom the service sees
	r      *bufio.Reader
}

// visitTo connects from a node to addr and reads the greeting. The caller
// closes it.
func visitTo(from *world.Node, addr string) (*visit, error) {
	c, err := from.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return greeting(c)
}

func greeting(c net.Conn) (*visit, error) {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	v := &visit{Conn: c, r: bufio.NewReader(c)}
	line, err := v.r.ReadString('\n')
	if err != nil {
		c.Close()
		return nil, err
	}
	var seen string
	v.banner, seen, _ = strings.Cut(strings.TrimSpace(line), " ")
	if v.seen, err = netip.ParseAddrPort(seen); err != nil {
		c.Close()
		return nil, fmt.Errorf("greeting %q: %w", line, err)
	}
	return v, nil
}

// greet connects, reads the greeting and closes.
func greet(from *world.Node, addr string) (banner string, seen netip.Addr, err error) {
	v, err := visitTo(from, addr)
	if err != nil {
		return "", netip.Addr{}, err
	}
	v.Close()
	return v.banner, v.seen.Addr().Unmap(), nil
}

// mustGreet wants the service with this banner at addr.
func mustGreet(t *testing.T, from *world.Node, addr, banner string) {
	t.Helper()
	got, _, err := greet(from, addr)
	if err != nil || got != banner {
		t.Errorf("%s to %s: banner %q, error %v, want banner %q", from.Name, addr, got, err, banner)
	}
}

// mustBeReset wants addr to be open, and to reset the client.
func mustBeReset(t *testing.T, from *world.Node, addr string) {
	t.Helper()
	if got, _, err := greet(from, addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s to %s: banner %q, error %v, want connection reset", from.Name, addr, got, err)
	}
}

// mustBeClosed wants nobody to listen at addr.
func mustBeClosed(t *testing.T, from *world.Node, addr string) {
	t.Helper()
	if got, _, err := greet(from, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s to %s: banner %q, error %v, want connection refused", from.Name, addr, got, err)
	}
}

// forward starts wgjail forward in the foreground and waits until it says that
// its ports are open.
func (l *lab) forward(t *testing.T, args ...string) *world.Process {
	t.Helper()
	p := l.start(t, append([]string{"forward"}, args...)...)
	p.WaitOutput(t, "forwarding ")
	return p
}

// addresses returns all addresses in the node.
func addresses(t *testing.T, n *world.Node) map[netip.Addr]bool {
	t.Helper()
	list, err := n.Netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	set := map[netip.Addr]bool{}
	for _, a := range list {
		ip, _ := netip.AddrFromSlice(a.IP)
		set[ip.Unmap()] = true
	}
	return set
}

// Whatever address a service in the jail listens on, clients of both families
// reach it, and it sees them with an address of the jail that is not loopback.
func TestForwardReachesServices(t *testing.T) {
	for name, families := range rows(map[string]string{"both families": "46", "IPv4 only": "4", "IPv6 only": "6"}, "both families") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				l.only(t, families)
				jail := l.up(t)
				kinds := []struct{ network, host string }{
					{"tcp4", "127.0.0.1"}, {"tcp6", "::1"},
					{"tcp4", "0.0.0.0"}, {"tcp6", "::"}, {"tcp", "::"},
				}
				for _, a := range l.Client.Addresses {
					kinds = append(kinds, struct{ network, host string }{"tcp", a.Addr().String()})
				}
				for i, k := range kinds {
					serve(t, jail, k.host, k.network, net.JoinHostPort(k.host, fmt.Sprint(8001+i)))
				}
				l.forward(t, fmt.Sprintf("8001-%d", 8000+len(kinds)))
				own := addresses(t, jail)
				for i, k := range kinds {
					for _, c := range l.clients() {
						addr := fmt.Sprintf("%s:%d", c.to, 8001+i)
						banner, seen, err := greet(c.from, addr)
						if err != nil || banner != k.host {
							t.Errorf("%s to %s, service on %s (%s): banner %q, error %v", c.from.Name, addr, k.host, k.network, banner, err)
							continue
						}
						if seen.IsLoopback() || !own[seen] {
							t.Errorf("%s to %s: the service on %s saw %s", c.from.Name, addr, k.host, seen)
						}
					}
				}
			})
		})
	}
}

// only leaves the client addresses of these families ("4", "6").
func (l *lab) only(t *testing.T, families string) {
	t.Helper()
	var left []netip.Prefix
	for _, a := range l.Client.Addresses {
		if a.Addr().Is4() && strings.Contains(families, "4") || a.Addr().Is6() && strings.Contains(families, "6") {
			left = append(left, a)
		}
	}
	l.Client.Addresses = left
	l.conf = l.Conf(t, "vpn")
}

// A caller is a node and the address at which it finds the host.
type caller struct {
	from *world.Node
	to   string
}

// clients are all ways in which the host itself and the LAN can come.
func (l *lab) clients() []caller {
	return []caller{
		{l.Host, "127.0.0.1"}, {l.Host, "[::1]"}, {l.Host, world.HostLANV4}, {l.Host, "[" + world.HostLANV6 + "]"},
		{l.LAN, world.HostLANV4}, {l.LAN, "[" + world.HostLANV6 + "]"},
	}
}

// The ports can be used at the very moment at which the line appears.
func TestForwardListensBeforeItSaysSo(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		serve(t, l.up(t), "app", "tcp4", "127.0.0.1:8080")
		for range times(10, 3) {
			cmd := exec.Command("wgjail", "forward", "8080")
			out, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdout = in
			p := l.Host.Start(t, cmd)
			in.Close()
			defer out.Close()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
			mustGreet(t, l.LAN, "["+world.HostLANV6+"]:8080", "app")
			if want := "forwarding 8080 into jail vpn, for the local networks\n"; line != want {
				t.Errorf("printed %q, want %q", line, want)
			}
			p.Signal(t, syscall.SIGTERM)
			if err := p.Wait(); err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
			l.do(t, "forward", "-d", "8080")
			mustGreet(t, l.LAN, world.HostLANV4+":8080", "app")
			l.do(t, "forward", "--stop", "8080")
		}
		l.do(t, "down", "vpn")
		l.do(t, "up", l.conf, "-p", "8080", "-p", "8081:8080")
		serve(t, l.w.Open(t, "vpn"), "again", "tcp4", "127.0.0.1:8080")
		mustGreet(t, l.LAN, world.HostLANV4+":8080", "again")
		mustGreet(t, l.LAN, world.HostLANV4+":8081", "again")
	})
}
