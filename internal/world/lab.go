package world

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
)

// Addresses of the lab.
const (
	HostV4, HostV6         = "198.51.100.2", "2001:db8:1::2" // the host's, towards the internet
	GatewayV4, GatewayV6   = "198.51.100.1", "2001:db8:1::1" // its default routes
	HostLANV4, HostLANV6   = "192.168.77.1", "fd77::1"       // the host's, towards the LAN
	LANV4, LANV6           = "192.168.77.2", "fd77::2"       // a machine in the LAN
	InternetV4, InternetV6 = "203.0.113.7", "2001:db8:7::7"  // somewhere on the internet
	EndpointPort           = "51820"
)

// Where the provider may be: it begins at the first and can move to the others.
var (
	EndpointsV4 = []string{"198.51.100.10", "198.51.100.11"}
	EndpointsV6 = []string{"2001:db8:1::10", "2001:db8:1::11"}
)

// EchoPorts are where the lab's services echo, besides 7 and 53.
var EchoPorts = []uint16{443, 853, 5353}

// A Lab is the usual surroundings of a jail. The host is the world's own
// namespace and does not forward:
//
//	lan eth0 ── lan0 host wan0 ── eth0 inet ═ provider ═ exit
//
// InternetV4 and InternetV6 exist twice, with the same services: in inet, where
// what leaks arrives, and in exit, where what came through the tunnel does.
type Lab struct {
	Host, LAN, Inet, Exit *Node

	Sink     *provider.Services // in inet: whatever it received was in clear
	Provider *provider.Provider // its inner packets are recorded
	Client   *provider.Client   // the provider's first
}

// Lab builds a Lab that goes away with the test.
func (w *World) Lab(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{Host: w.Host, LAN: w.Namespace(t, "lan"), Inet: w.Namespace(t, "inet"), Exit: w.Namespace(t, "exit")}
	inet := []string{GatewayV4 + "/24", GatewayV6 + "/64"}
	for i := range EndpointsV4 {
		inet = append(inet, EndpointsV4[i]+"/24", EndpointsV6[i]+"/64")
	}
	w.Link(t, l.Host.End("wan0", HostV4+"/24", HostV6+"/64"), l.Inet.End("eth0", inet...))
	w.Link(t, l.Host.End("lan0", HostLANV4+"/24", HostLANV6+"/64"), l.LAN.End("eth0", LANV4+"/24", LANV6+"/64"))
	for _, n := range []*Node{l.Inet, l.Exit} {
		n.Addr(t, "lo", InternetV4+"/32", InternetV6+"/128")
	}
	for _, gw := range []string{GatewayV4, GatewayV6} {
		l.Host.Route(t, "default", gw)
	}
	for _, gw := range []string{HostLANV4, HostLANV6} {
		l.LAN.Route(t, "default", gw)
	}
	l.Inet.Route(t, "192.168.77.0/24", HostV4)
	l.Inet.Route(t, "fd77::/64", HostV6)
	l.serve(t)
	return l
}

// serve starts the sink and the provider.
func (l *Lab) serve(t testing.TB) {
	t.Helper()
	var err error
	if l.Sink, err = provider.Serve(l.Inet.Namespace, EchoPorts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Sink.Close() })
	l.Sink.SetName("vpn.test", netip.MustParseAddr(EndpointsV4[0]))
	l.Provider, err = provider.New(provider.Config{
		Inside:   l.Exit.Namespace,
		Outside:  l.Inet.Namespace,
		Endpoint: netip.MustParseAddrPort(EndpointsV4[0] + ":" + EndpointPort),
		Echo:     EchoPorts,
		Record:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Provider.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.Client, err = l.Provider.AddClient(); err != nil {
		t.Fatal(err)
	}
}

// Conf writes the client's configuration to a new file NAME.conf that root alone
// may read, and returns its path. Change l.Client first for another content.
func (l *Lab) Conf(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".conf")
	if err := os.WriteFile(path, []byte(l.Client.Config()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Tunnel reports whether f is a datagram between the provider's endpoint, where
// it is now, and anybody.
func (l *Lab) Tunnel(f Frame) bool {
	h, ok := f.Header()
	at := l.Provider.Endpoint()
	return ok && h.Protocol == unix.IPPROTO_UDP && (h.Src == at || h.Dst == at)
}

// Neighbour reports whether f is what links say of themselves: ARP, and for IPv6
// router and neighbour discovery (RFC 4861) and reports of multicast listeners.
func Neighbour(f Frame) bool {
	if f.Protocol == unix.ETH_P_ARP {
		return true
	}
	h, ok := f.Header()
	if !ok || f.Protocol != unix.ETH_P_IPV6 || len(f.Data) <= 40 {
		return false
	}
	const hopByHop, listeners = 0, "ff02::16"
	if h.Protocol == hopByHop {
		return h.Dst.Addr().String() == listeners && int(binary.BigEndian.Uint16(f.Data[4:])) < 200
	}
	kind := f.Data[40]
	return h.Protocol == unix.IPPROTO_ICMPV6 && 133 <= kind && kind <= 136
}
