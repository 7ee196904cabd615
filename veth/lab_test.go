package veth_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashVar) != "" {
		os.Exit(crashChild())
	}
	world.Main(m)
}

// A lab is a host between a LAN and the internet, with a jail whose tunnel leads
// to an exit. The tunnel is a link without address resolution, like WireGuard's.
//
//	lan eth0 ─── lan0 host wan0 ─── eth0 inet        jail vpn ─── vpn exit
type lab struct {
	w                              *world.World
	host, lan, inet, jail, exit    *world.Node
	opts                           veth.Options
	hostLAN4, hostLAN6, lan4, lan6 string
}

const (
	tunnel4, tunnel6 = "10.64.0.2", "fd64::2"
	exit4, exit6     = "10.64.0.1", "fd64::1"
	inet4, inet6     = "198.51.100.1", "2001:db8:100::1"
)

// newLab makes a lab whose tunnel has these addresses: tunnel4, tunnel6, or one
// of them. The tunnel has the default routes of their families.
func newLab(t *testing.T, w *world.World, tunnel ...string) *lab {
	t.Helper()
	l := &lab{w: w, host: w.Host, hostLAN4: "192.168.50.1", hostLAN6: "2001:db8:50::1", lan4: "192.168.50.2", lan6: "2001:db8:50::2"}
	l.lan, l.inet, l.exit = w.Namespace(t, "lan"), w.Namespace(t, "inet"), w.Namespace(t, "exit")
	w.Link(t, l.host.End("lan0", l.hostLAN4+"/24", l.hostLAN6+"/64"), l.lan.End("eth0", l.lan4+"/24", l.lan6+"/64"))
	w.Link(t, l.host.End("wan0", "198.51.100.2/24", "2001:db8:100::2/64"), l.inet.End("eth0", inet4+"/24", inet6+"/64"))
	for _, via := range []string{inet4, inet6} {
		l.host.Route(t, "default", via)
	}
	for _, via := range []string{l.hostLAN4, l.hostLAN6} {
		l.lan.Route(t, "default", via)
	}
	for _, via := range []string{"198.51.100.2", "2001:db8:100::2"} {
		l.inet.Route(t, "default", via)
	}
	l.jail = l.newJail(t, "vpn", tunnel...)
	routed(t, l.host)
	l.opts = options("vpn", l.jail, tunnel...)
	return l
}

func options(name string, jail *world.Node, tunnel ...string) veth.Options {
	opts := veth.Options{Name: name, Namespace: jail.Namespace, Log: slog.New(slog.DiscardHandler)}
	for _, a := range tunnel {
		addr := netip.MustParseAddr(a)
		opts.TunnelAddrs = append(opts.TunnelAddrs, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return opts
}

// newJail makes a namespace as package jail does: its switches, lo and a tunnel.
func (l *lab) newJail(t *testing.T, name string, tunnel ...string) *world.Node {
	t.Helper()
	jail := l.w.Namespace(t, name)
	for _, s := range []string{"rp_filter=1", "arp_ignore=2", "accept_redirects=0", "forwarding=0"} {
		setting, value, _ := strings.Cut(s, "=")
		for _, which := range []string{"all", "default"} {
			sysctl(t, jail, "net/ipv4/conf/"+which+"/"+setting, value)
		}
	}
	for _, which := range []string{"all", "default"} {
		sysctl(t, jail, "net/ipv6/conf/"+which+"/accept_ra", "0")
		sysctl(t, jail, "net/ipv6/conf/"+which+"/accept_redirects", "0")
	}
	inside, outside := jail.End("vpn"), l.exit.End("vpn"+name)
	l.w.Link(t, inside, outside)
	for _, e := range []world.End{inside, outside} {
		e.Node.Run(t, "ip", "link", "set", e.Name, "down")
		e.Node.Run(t, "ip", "link", "set", e.Name, "address", "02:00:00:00:00:01", "arp", "off")
		sysctl(t, e.Node, "net/ipv6/conf/"+e.Name+"/addr_gen_mode", "1")
		e.Node.Run(t, "ip", "link", "set", e.Name, "up")
	}
	l.exit.Addr(t, "vpn"+name, exit4+"/32", exit6+"/128")
	for _, a := range tunnel {
		addr := netip.MustParseAddr(a)
		flag := "-4"
		if addr.Is6() {
			flag = "-6"
		}
		jail.Addr(t, "vpn", fmt.Sprintf("%s/%d", a, addr.BitLen()))
		jail.Run(t, "ip", flag, "route", "add", "default", "dev", "vpn")
		l.exit.Run(t, "ip", flag, "route", "replace", a, "dev", "vpn"+name)
	}
	if len(tunnel) == 1 && strings.Contains(tunnel[0], ".") {
		sysctl(t, jail, "net/ipv6/conf/vpn/disable_ipv6", "1")
	}
	routed(t, jail)
	return jail
}

// routed waits until the kernel has made the routes that go with the node's IPv6
// addresses: it does so later.
func routed(t *testing.T, n *world.Node) {
	t.Helper()
	world.Eventually(t, "routes of addresses", func() error {
		addrs, err := n.Netlink.AddrList(nil, unix.AF_INET6)
		if err != nil {
			return err
		}
		routes, err := n.Netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.IP) }) {
				return fmt.Errorf("none for %v", a.IP)
			}
		}
		return nil
	})
}

func sysctl(t *testing.T, n *world.Node, name, value string) {
	t.Helper()
	if err := n.Sysctl(name, value); err != nil {
		t.Fatal(err)
	}
}

// open joins the lab's jail to its host; the pair goes away with the test.
func (l *lab) open(t *testing.T) *veth.Veth {
	t.Helper()
	v, err := veth.Open(l.opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return v
}

func add(t *testing.T, v *veth.Veth, list ...veth.Forward) {
	t.Helper()
	for _, f := range list {
		if err := v.Add(f); err != nil {
			t.Fatalf("Add %s: %v", f.ID, err)
		}
	}
}

// tcp and udp are forwards of one port to the same one.
func tcp(port uint16) veth.Forward {
	return veth.Forward{ID: fmt.Sprintf("tcp-%d", port), Network: "tcp", First: port, Last: port, Target: port}
}

func udp(port uint16) veth.Forward {
	f := tcp(port)
	f.ID, f.Network = fmt.Sprintf("udp-%d", port), "udp"
	return f
}

// A service answers who it is, who the client is, and what the client sent. It
// remembers that.
type service struct {
	who   string
	mu    sync.Mutex
	bytes []byte
	conn  net.PacketConn      // UDP
	conns map[string]net.Conn // TCP, by client
}

// silent is who only listens: two services that answer each other would go on for
// ever.
const silent = "silent"

// serve serves a port of the node.
func serve(t *testing.T, n *world.Node, who, network, addr string) *service {
	t.Helper()
	s := &service{who: who, conns: map[string]net.Conn{}}
	if network == "tcp" {
		ln, err := n.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go s.serveTCP(ln)
		return s
	}
	c, err := n.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.conn = c
	t.Cleanup(func() { c.Close() })
	go s.serveUDP()
	return s
}

func (s *service) hear(from net.Addr, data []byte) (answer []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes = append(s.bytes, data...)
	return fmt.Appendf(nil, "%s %s %s\n", s.who, unmapped(from), data)
}

// heard reports whether a client has sent these bytes.
func (s *service) heard(canary []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.bytes, canary)
}

// sayTo sends to a client that the service knows, without having been asked.
func (s *service) sayTo(client net.Addr, what string) error {
	if s.conn != nil {
		_, err := s.conn.WriteTo([]byte(what), client)
		return ignoreRefused(err)
	}
	s.mu.Lock()
	c := s.conns[unmappedPort(client)]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("%s does not know %s", s.who, client)
	}
	_, err := io.WriteString(c, what)
	return err
}

// drop ends a TCP client's connection, and what the kernel would still send.
func (s *service) drop(client net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.conns[unmappedPort(client)].(*net.TCPConn); ok {
		c.SetLinger(0)
		c.Close()
	}
}

// dropAll does so with all of them.
func (s *service) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// ignoreRefused leaves out the errors of a packet that was not let out.
func ignoreRefused(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENETUNREACH) {
		return nil
	}
	return err
}

func (s *service) serveTCP(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[unmappedPort(c.RemoteAddr())] = c
		s.mu.Unlock()
		go func() {
			defer s.forget(c)
			buf := make([]byte, 1<<16)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				c.Write(s.hear(c.RemoteAddr(), buf[:n]))
			}
		}()
	}
}

func (s *service) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if client := unmappedPort(c.RemoteAddr()); s.conns[client] == c {
		delete(s.conns, client)
	}
	c.Close()
}

// open returns how many TCP connections the service has.
func (s *service) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *service) serveUDP() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			answer := s.hear(from, buf[:n])
			if s.who != silent {
				s.conn.WriteTo(answer, from)
			}
		}
	}
}

// unmapped is the address alone.
func unmapped(a net.Addr) string {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap().String()
}

func unmappedPort(a net.Addr) string {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

func deadline(c net.PacketConn) { c.SetDeadline(time.Now().Add(patience)) }

// quick is how long something may take that should not happen.
const quick = 300 * time.Millisecond

// patience is how long something may take that should happen.
var patience = 10 * time.Second

// ask sends "hello" and returns who answered and which client it saw.
func ask(n *world.Node, network, addr string, timeout time.Duration) (string, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = net.DialTimeout(network, addr, timeout)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	return talk(c, timeout)
}

func talk(c net.Conn, timeout time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	k, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSpace(string(buf[:k])), " hello"), nil
}

// expect asks and wants this answer: "who client".
func expect(n *world.Node, network, addr, want string) error {
	got, err := ask(n, network, addr, patience)
	if err != nil {
		return fmt.Errorf("%s asks %s %s: %w", n.Name, network, addr, err)
	}
	if got != want {
		return fmt.Errorf("%s asks %s %s: answered by %q, want %q", n.Name, network, addr, got, want)
	}
	return nil
}

// expectNone asks and wants no answer.
func expectNone(n *world.Node, network, addr string) error {
	got, err := ask(n, network, addr, quick)
	if err == nil {
		return fmt.Errorf("%s asks %s %s: answered by %q", n.Name, network, addr, got)
	}
	return nil
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func isReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
