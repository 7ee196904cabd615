package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/jail"
)

// A candidate is a way from lan to a server.
type candidate struct {
	name, what string
	ours       bool
	noUDP      bool
	kernel     bool                        // the kernel holds the connections: its processes need nothing for them
	idle       int                         // connections that it can hold; 0: as many as usual
	needs      []string                    // programs
	start      func(*lab, *instance) error // fills in the instance
}

// forwardBase is where forwards listen: a service at 8080 is at 28080.
const forwardBase = 20000

// portIperf is where iperf3 serves, when it checks the generator.
const portIperf = 8085

var tcpPorts = []uint16{load.PortHTTP, load.PortSource, load.PortSink, portIperf}
var udpPorts = []uint16{load.PortUDP, load.PortUDPSink}

// target is what a client in a node finds at addr, whose ports are offset.
func (l *lab) target(node string, addr netip.Addr, offset uint16) load.Target {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port+offset) }
	return load.Target{
		Enter: l.enter(node), HTTP: at(load.PortHTTP), Source: at(load.PortSource), Sink: at(load.PortSink),
		UDP: at(load.PortUDP), UDPSink: at(load.PortUDPSink),
	}
}

// aim sets where an instance's clients are, and what they find.
func (l *lab) aim(i *instance, node string, addr netip.Addr, offset uint16, server *load.Server) {
	i.from, i.target, i.server = node, l.target(node, addr, offset), server
}

var candidates = []*candidate{
	{name: "generator", what: "nothing but the load generator: client and server on the host, over its loopback", start: startGenerator},
	{name: "direct", what: "no forwarder: the client is in the jail, over its loopback, past the jail's rules", start: startDirect},
	{name: "native", what: "no forwarder: the server is on the host", start: startNative},
	{name: "relay", what: "wgjail forward", ours: true, start: forward(udpPorts)},
	{name: "relay-source", what: "wgjail forward --source client", ours: true, noUDP: true, start: forward(nil, "--source", "client")},
	{name: "veth", what: "wgjail forward --mode veth", ours: true, kernel: true, start: forward(udpPorts, "--mode", "veth")},
	{name: "dnat", what: "DNAT and MASQUERADE over a veth pair, by hand", needs: []string{"iptables"}, start: startDNAT},
	{name: "haproxy", what: "HAProxy, namespace, mode tcp, splice-auto, 2 threads", noUDP: true, needs: []string{"haproxy"}, start: startHAProxy},
	{name: "socket-proxyd", what: "systemd-socket-proxyd in the jail", noUDP: true, needs: []string{proxyd}, start: startProxyd},
	{name: "socat", what: "socat, which starts a socat in the jail for each connection", noUDP: true, idle: 20, needs: []string{"socat", "ip"}, start: startSocat},
	{name: "pasta", what: "pasta, into a namespace of its own: it cannot serve a jail", needs: []string{"pasta"}, start: startPasta},
}

// missing says why a candidate cannot run here; "": it can.
func (c *candidate) missing() string {
	for _, program := range c.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not installed"
		}
	}
	return ""
}

func startGenerator(l *lab, i *instance) error {
	l.aim(i, "host", loopback, 0, l.inHost)
	return nil
}

func startDirect(l *lab, i *instance) error {
	l.aim(i, jailName, loopback, 0, l.inJail)
	return nil
}

func startNative(l *lab, i *instance) error {
	l.aim(i, "lan", hostLAN, 0, l.inHost)
	return nil
}

// intoJail is the target of those that forward from the host into the jail.
func intoJail(l *lab, i *instance) {
	l.aim(i, "lan", hostLAN, forwardBase, l.inJail)
}

// forward starts wgjail forward with options, for the TCP ports and these.
func forward(udp []uint16, options ...string) func(*lab, *instance) error {
	return func(l *lab, i *instance) error {
		intoJail(l, i)
		args := append([]string{"forward", "--jail", jailName, "--drain-timeout", "0"}, options...)
		args = append(args, "--")
		for _, p := range tcpPorts {
			args = append(args, fmt.Sprintf("%d:%d", p+forwardBase, p))
		}
		for _, p := range udp {
			args = append(args, fmt.Sprintf("%d:%d/udp", p+forwardBase, p))
		}
		return i.run(l, "host", jail.Self(args...))
	}
}

// startDNAT sets the rules that people set, on the router.
func startDNAT(l *lab, i *instance) error {
	l.aim(i, "lan", routerLAN, forwardBase, l.inJail)
	rules := [][]string{{"POSTROUTING", "-o", "jail0", "-j", "MASQUERADE"}}
	add := func(proto string, ports []uint16) {
		for _, p := range ports {
			rules = append(rules, []string{"PREROUTING", "-i", "lan0", "-p", proto, "--dport", fmt.Sprint(p + forwardBase),
				"-j", "DNAT", "--to-destination", netip.AddrPortFrom(jailDNAT, p).String()})
		}
	}
	add("tcp", tcpPorts)
	add("udp", udpPorts)
	i.undo = func() error { return l.rules("-D", rules) }
	if err := l.nodes["router"].Do(func() error { return sysctl("net/ipv4/ip_forward", "1") }); err != nil {
		return err
	}
	return l.rules("-A", rules)
}

// rules runs iptables on the router for each rule of its nat table.
func (l *lab) rules(what string, rules [][]string) error {
	var errs []error
	for _, r := range rules {
		cmd := exec.Command("iptables", append([]string{"-w", "-t", "nat", what}, r...)...)
		var out output
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := l.nodes["router"].Do(cmd.Run); err != nil {
			errs = append(errs, errors.New("iptables: "+reason(out.String(), err)))
		}
	}
	return errors.Join(errs...)
}
