package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/internal/machine"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/jail"
)

// Addresses of the lab.
var (
	hostLAN    = netip.MustParseAddr("192.168.77.1") // of the host, towards lan
	routerLAN  = netip.MustParseAddr("192.168.78.1") // of the router, towards lan
	routerJail = netip.MustParseAddr("10.99.0.1")    // of the router, towards the jail
	jailDNAT   = netip.MustParseAddr("10.99.0.2")    // of the jail, towards the router
	loopback   = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

// jailName is the jail that forwards lead into, and its namespace.
const jailName = "bench"

// tunnelMTU is WireGuard's usual one for links of 1500 bytes.
const tunnelMTU = 1420

// A lab is where measurements are made. What is in it goes with the machine.
type lab struct {
	nodes    map[string]*netnsx.Namespace
	provider *provider.Provider
	inHost   *load.Server
	inJail   *load.Server
	inExit   *load.Server
}

// newLab builds the lab in this machine.
func newLab() (*lab, error) {
	l := &lab{nodes: map[string]*netnsx.Namespace{}}
	if _, err := netnsx.PrepareDir(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{l.makeNodes, l.joinLAN, l.startProvider, l.makeJail, l.joinRouter, l.startServers} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("build the lab: %w", err)
		}
	}
	return l, nil
}

func (l *lab) makeNodes() (err error) {
	if l.nodes["host"], err = netnsx.Current(); err != nil {
		return err
	}
	for _, name := range []string{"lan", "router", "inet", "exit", "pasta"} {
		if l.nodes[name], err = netnsx.Create(name); err != nil {
			return err
		}
		if err := l.nodes[name].Do(machine.NewHost); err != nil {
			return err
		}
	}
	for _, ns := range l.nodes {
		if err := ns.Do(manyConnections); err != nil {
			return err
		}
	}
	return nil
}

// manyConnections lets a namespace bear a connection for each request, which
// would use up its ports otherwise.
func manyConnections() error {
	return errors.Join(sysctl("net/ipv4/tcp_tw_reuse", "1"), sysctl("net/ipv4/ip_local_port_range", "10000 64000"))
}

func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

func (l *lab) joinLAN() error {
	return errors.Join(
		l.join("lan", "eth0", "192.168.77.2/24", "host", "lan0", hostLAN.String()+"/24"),
		l.join("lan", "eth1", "192.168.78.2/24", "router", "lan0", routerLAN.String()+"/24"),
		l.join("host", "wan0", "198.51.100.2/24", "inet", "eth0", "198.51.100.1/24"),
	)
}

// joinRouter gives the jail a second link, for the hand-written rule.
func (l *lab) joinRouter() error {
	return l.join("router", "jail0", routerJail.String()+"/30", jailName, "router0", jailDNAT.String()+"/30")
}

// join connects two nodes with a veth pair.
func (l *lab) join(a, linkA, addrA, b, linkB, addrB string) error {
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: linkA, Namespace: netlink.NsFd(l.nodes[a].Fd())},
		PeerName:      linkB,
		PeerNamespace: netlink.NsFd(l.nodes[b].Fd()),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("join %s and %s: %w", a, b, err)
	}
	return errors.Join(
		l.nodes[a].Do(func() error { return configure(linkA, addrA) }),
		l.nodes[b].Do(func() error { return configure(linkB, addrB) }))
}

// configure gives a link of the calling thread's namespace an address and sets
// it up.
func configure(name, addr string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	return errors.Join(nl.AddrAdd(link, a), nl.LinkSetUp(link))
}

func (l *lab) startProvider() (err error) {
	l.provider, err = provider.New(provider.Config{
		Inside: l.nodes["exit"], Outside: l.nodes["inet"], AnyAddress: true,
		Endpoint: netip.MustParseAddrPort("198.51.100.1:51820"),
	})
	return err
}

// conf writes the file of a new client of the provider's.
func (l *lab) conf(name string) (string, error) {
	c, err := l.provider.AddClient()
	if err != nil {
		return "", err
	}
	c.MTU = tunnelMTU
	path := filepath.Join(machine.TmpDir, name+".conf")
	return path, os.WriteFile(path, []byte(c.Config()), 0o600)
}

func (l *lab) makeJail() error {
	conf, err := l.conf(jailName)
	if err != nil {
		return err
	}
	if err := l.wgjail("up", conf); err != nil {
		return err
	}
	if l.nodes[jailName], err = netnsx.OpenNamed(jailName); err != nil {
		return err
	}
	return l.nodes[jailName].Do(manyConnections)
}

// wgjail runs wgjail on the host, to its end.
func (l *lab) wgjail(args ...string) error {
	out, err := jail.Self(args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wgjail %s: %s", args[0], reason(string(out), err))
	}
	return nil
}

// reason returns the error that a program has printed, or else err.
func reason(printed string, err error) string {
	for line := range strings.Lines(printed) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "wgjail: error: "); ok {
			return text
		}
	}
	for line := range strings.Lines(printed) {
		// pasta complains of each line that there is no syslog here.
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, "to syslog") {
			return fmt.Sprintf("%v: %s", err, line)
		}
	}
	return err.Error()
}

func (l *lab) startServers() (err error) {
	if l.inHost, err = load.Serve(nil); err != nil {
		return err
	}
	if l.inJail, err = load.Serve(l.enter(jailName)); err != nil {
		return err
	}
	l.inExit, err = load.Serve(l.enter("exit"))
	return err
}

// enter returns what moves a thread into a node.
func (l *lab) enter(node string) load.Enter {
	if node == "host" {
		return nil
	}
	return l.nodes[node].Enter
}
