package provider_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// A lab is a provider and one client: jail has the client's TUN, host its socket.
type lab struct {
	host, inet, exit, jail *world.Node
	p                      *provider.Provider
	client                 *provider.Client
	dev                    *device.Device
}

const (
	inetV4, otherV4 = "198.51.100.1", "198.51.100.9"
	inetV6          = "2001:db8:1::1"
)

func newLab(t *testing.T, w *world.World) *lab {
	t.Helper()
	l := &lab{host: w.Host, inet: w.Namespace(t, "inet"), exit: w.Namespace(t, "exit"), jail: w.Namespace(t, "jail")}
	w.Link(t, l.host.End("wan0", "198.51.100.2/24", "2001:db8:1::2/64"),
		l.inet.End("eth0", inetV4+"/24", otherV4+"/24", inetV6+"/64"))
	var err error
	l.p, err = provider.New(provider.Config{
		Inside:   l.exit.Namespace,
		Outside:  l.inet.Namespace,
		Endpoint: netip.MustParseAddrPort(inetV4 + ":51820"),
		Record:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.p.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.client, err = l.p.AddClient(); err != nil {
		t.Fatal(err)
	}
	l.connect(t)
	return l
}

// connect makes the client's end by hand.
func (l *lab) connect(t *testing.T) {
	t.Helper()
	var dev tun.Device
	err := l.jail.Do(func() (err error) {
		dev, err = tun.CreateTUN("wg0", 1420)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	silent := &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	l.dev = device.NewDevice(fixedMTU{dev}, hostBind{conn.NewStdNetBind(), l.host.Namespace}, silent)
	t.Cleanup(l.dev.Close)
	c := l.client
	private, server, shared := c.PrivateKey, c.Server, c.PresharedKey
	l.set(t, fmt.Sprintf("private_key=%x\npublic_key=%x\npreshared_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		private[:], server[:], shared[:], c.Endpoint))
	l.jail.Addr(t, "wg0", c.Addresses[0].String(), c.Addresses[1].String())
	if err := l.dev.Up(); err != nil {
		t.Fatal(err)
	}
	l.jail.Run(t, "ip", "route", "add", "default", "dev", "wg0")
	l.jail.Run(t, "ip", "-6", "route", "add", "default", "dev", "wg0")
}

func (l *lab) set(t *testing.T, config string) {
	t.Helper()
	if err := l.dev.IpcSet(config); err != nil {
		t.Fatal(err)
	}
}

type fixedMTU struct{ tun.Device }

func (fixedMTU) MTU() (int, error) { return 1420, nil }

// hostBind opens a tunnel's UDP sockets in a namespace.
type hostBind struct {
	conn.Bind
	ns *netnsx.Namespace
}

func (b hostBind) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	err = b.ns.Do(func() (err error) {
		fns, actual, err = b.Bind.Open(port)
		return err
	})
	return fns, actual, err
}

// roundTrip sends text to an echo service, from the jail, until it comes back:
// datagrams and handshakes may be lost.
func (l *lab) roundTrip(t *testing.T, network, addr, text string) {
	t.Helper()
	world.Eventually(t, network+" echo of "+text+" from "+addr, func() error { return echo(l.jail, network, addr, text, time.Second) })
}

func echo(from *world.Node, network, addr, text string, timeout time.Duration) error {
	c, err := from.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

func TestEchoThroughTheTunnel(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []netip.Addr{provider.ServerV4, provider.ServerV6} {
				for _, port := range []uint16{provider.EchoPort, provider.DNSPort} {
					canary := string(world.Canary())
					l.roundTrip(t, network, netip.AddrPortFrom(addr, port).String(), canary)
					checkRecorded(t, l, canary)
				}
			}
		}
		if n := l.p.Seen().Handshakes; n == 0 {
			t.Error("no handshake was counted")
		}
		peer, err := l.p.Peer(l.client.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if peer.LastHandshake.IsZero() || peer.Endpoint.Addr() != netip.MustParseAddr("198.51.100.2") || peer.RxBytes == 0 {
			t.Errorf("the server knows %+v of its client", peer)
		}
	})
}

// checkRecorded wants a packet with canary in each direction, between the
// client's and the server's inner addresses.
func checkRecorded(t *testing.T, l *lab, canary string) {
	t.Helper()
	in, out := 0, 0
	for _, p := range l.p.Find([]byte(canary)) {
		h, ok := p.Header()
		from := h.Src
		if p.Out {
			out++
			from = h.Dst
		} else {
			in++
		}
		if !ok || from.Addr() != l.client.Addresses[0].Addr() && from.Addr() != l.client.Addresses[1].Addr() {
			t.Errorf("a packet of %v (out: %v) is not the client's", h, p.Out)
		}
	}
	if in == 0 || out == 0 {
		t.Errorf("%d packets to and %d from the services were recorded, want some", in, out)
	}
}

func TestWhoamiNamesTheInnerAddress(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for i, server := range []netip.Addr{provider.ServerV4, provider.ServerV6} {
			c, err := l.jail.Dial("tcp", netip.AddrPortFrom(server, provider.WhoamiPort).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
			got, err := io.ReadAll(c)
			if want := l.client.Addresses[i].Addr().String() + "\n"; err != nil || !strings.HasSuffix(string(got), "\r\n\r\n"+want) {
				t.Errorf("got %q, %v; want the body %q", got, err, want)
			}
		}
		calls := l.p.Calls()
		if len(calls) != 2 || calls[0].Remote.Addr() != l.client.Addresses[0].Addr() || calls[0].Local.String() != "10.64.0.1:80" {
			t.Errorf("calls are %v", calls)
		}
	})
}

func TestNameServer(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.p.SetName("vpn.test", netip.MustParseAddr("192.0.2.1"))
		for _, network := range []string{"udp", "tcp"} {
			resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return l.jail.Dial(network, "10.64.0.1:53")
			}}
			both, err := resolver.LookupHost(t.Context(), "whoami.test.")
			if err != nil || len(both) != 2 {
				t.Errorf("whoami.test over %s is %v, %v; want both families", network, both, err)
			}
			one, err := resolver.LookupHost(t.Context(), "VPN.test.")
			if err != nil || len(one) != 1 || one[0] != "192.0.2.1" {
				t.Errorf("VPN.test over %s is %v, %v; want 192.0.2.1", network, one, err)
			}
			var dnsErr *net.DNSError
			if _, err := resolver.LookupHost(t.Context(), "nobody.test."); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
				t.Errorf("nobody.test over %s: %v; want not found", network, err)
			}
		}
		asked := map[string]bool{}
		for _, q := range l.p.Queries() {
			if q.Client.Addr() != l.client.Addresses[0].Addr() {
				t.Errorf("%v came from another client", q)
			}
			asked[q.Network+" "+q.Name+" "+q.Type] = true
		}
		for _, want := range []string{"udp whoami.test A", "udp whoami.test AAAA", "tcp vpn.test A", "tcp nobody.test AAAA"} {
			if !asked[want] {
				t.Errorf("the query %q was not recorded: %v", want, asked)
			}
		}
	})
}

func TestBlackholeIsSilentAndEnds(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.roundTrip(t, "udp", "10.64.0.1:7", "before")
		l.p.Blackhole(true)
		before := l.p.Seen()
		if err := echo(l.jail, "udp", "10.64.0.1:7", "lost", 200*time.Millisecond); err == nil {
			t.Error("an echo came out of the black hole")
		}
		world.Eventually(t, "the drop", func() error {
			if l.p.Seen().Dropped == before.Dropped {
				return errors.New("nothing was dropped")
			}
			return nil
		})
		if after := l.p.Seen(); after.InPackets != before.InPackets {
			t.Errorf("%d packets went in", after.InPackets-before.InPackets)
		}
		l.p.Blackhole(false)
		l.roundTrip(t, "udp", "10.64.0.1:7", "after")
	})
}

func TestSetEndpointMovesTheServer(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.roundTrip(t, "udp", "10.64.0.1:7", "before")
		server := l.client.Server
		for _, to := range []string{otherV4 + ":51820", otherV4 + ":51999", "[" + inetV6 + "]:51999"} {
			if err := l.p.SetEndpoint(netip.MustParseAddrPort(to)); err != nil {
				t.Fatal(err)
			}
			if got := l.p.Endpoint().String(); got != to {
				t.Errorf("Endpoint is %s, want %s", got, to)
			}
			if err := echo(l.jail, "udp", "10.64.0.1:7", "lost", 200*time.Millisecond); err == nil {
				t.Errorf("the server still answers at its address before %s", to)
			}
			l.set(t, fmt.Sprintf("public_key=%x\nupdate_only=true\nendpoint=%s\n", server[:], to))
			l.roundTrip(t, "udp", "10.64.0.1:7", "at "+to)
		}
	})
}

func TestAnyAddressServesAllOfThem(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		exit := w.Namespace(t, "exit")
		p, err := provider.New(provider.Config{Inside: exit.Namespace, Endpoint: netip.MustParseAddrPort("127.0.0.1:0"), AnyAddress: true})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.Endpoint().Port() == 0 {
			t.Error("the endpoint has no port")
		}
		client, err := p.AddClient()
		if err != nil {
			t.Fatal(err)
		}
		for i, endpoint := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			client.Endpoint = netip.AddrPortFrom(netip.MustParseAddr(endpoint), p.Endpoint().Port()).String()
			l := &lab{host: w.Host, jail: w.Namespace(t, fmt.Sprint("jail", i)), client: client}
			l.connect(t)
			l.roundTrip(t, "tcp", "10.64.0.1:7", "by "+endpoint)
			l.dev.Close()
		}
	})
}

func TestRemovedClientIsNotAnswered(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.roundTrip(t, "udp", "10.64.0.1:7", "before")
		if err := l.p.RemoveClient(l.client.PublicKey()); err != nil {
			t.Fatal(err)
		}
		if err := echo(l.jail, "udp", "10.64.0.1:7", "lost", 200*time.Millisecond); err == nil {
			t.Error("a removed client was served")
		}
		next, err := l.p.AddClient()
		if err != nil {
			t.Fatal(err)
		}
		if next.Addresses[0] == l.client.Addresses[0] {
			t.Error("the next client got the same address")
		}
	})
}

func TestCloseLeavesNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		inside, outside := w.Namespace(t, "inside"), w.Namespace(t, "outside")
		for range 3 {
			p, err := provider.New(provider.Config{Inside: inside.Namespace, Outside: outside.Namespace,
				Endpoint: netip.MustParseAddrPort("127.0.0.1:51820")})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(p.Close(), p.Close()); err != nil {
				t.Fatal(err)
			}
			if out := inside.Run(t, "ip", "-o", "link"); strings.Count(out, "\n") != 1 {
				t.Errorf("links are left: %s", out)
			}
			for _, n := range []*world.Node{inside, outside} {
				if out := n.Run(t, "ss", "-Htuln"); out != "" {
					t.Errorf("sockets are left in %s: %s", n.Name, out)
				}
			}
		}
	})
}

func TestConfigIsWhatAProviderHandsOut(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		c := l.client
		c.MTU, c.Keepalive = 1380, 25*time.Second
		want := fmt.Sprintf(`[Interface]
PrivateKey = %v
Address = 10.64.0.2/32, fd64::2/128
DNS = 10.64.0.1, fd64::1
MTU = 1380

[Peer]
PublicKey = %v
PresharedKey = %v
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 198.51.100.1:51820
PersistentKeepalive = 25
`, c.PrivateKey, c.Server, c.PresharedKey)
		if got := c.Config(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v", c, c)} {
			if strings.Contains(text, c.PrivateKey.String()) || bytes.Contains([]byte(text), c.PrivateKey[:]) {
				t.Errorf("the private key is in %q", text)
			}
		}
	})
}
