package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/provider"
)

// echo sends text from a node and wants it back.
func echo(from *Node, network, addr, text string) error {
	c, err := from.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(dialTimeout))
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

func TestLabIsConnected(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{InternetV4, InternetV6, GatewayV4, EndpointsV6[1]} {
				for _, port := range append([]uint16{provider.EchoPort, provider.DNSPort}, EchoPorts...) {
					at := net.JoinHostPort(addr, fmt.Sprint(port))
					if err := echo(l.Host, network, at, "hello"); err != nil {
						t.Errorf("%s %s from the host: %v", network, at, err)
					}
				}
			}
			for _, addr := range []string{HostLANV4, HostLANV6, HostV4, HostV6} {
				checkReaches(t, l.LAN, l.Host, network, addr)
			}
		}
		// Neither way through the host, which is no router.
		l.Host.Run(t, "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward | grep -x 0")
		if err := echo(l.Exit, "tcp", EndpointsV4[0]+":7", "hello"); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("the provider's inside reaches the outside: %v", err)
		}
		if text, err := os.ReadFile(l.Conf(t, "vpn")); err != nil || string(text) != l.Client.Config() {
			t.Errorf("Conf wrote %q, %v", text, err)
		}
	})
}

// checkReaches wants that a service on addr in one node is reached from another.
func checkReaches(t *testing.T, from, to *Node, network, addr string) {
	t.Helper()
	s, err := provider.Serve(to.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := echo(from, network, net.JoinHostPort(addr, "7"), "hello"); err != nil {
		t.Errorf("%s %s from %s: %v", network, addr, from.Name, err)
	}
}

func TestNamesAreResolvedByTheSink(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		l := w.Lab(t)
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(t.Context(), "vpn.test")
		if err != nil || len(addrs) != 1 || addrs[0] != EndpointsV4[0] {
			t.Errorf("vpn.test is %v, %v", addrs, err)
		}
		if len(l.Sink.Queries()) == 0 {
			t.Error("the sink was not asked")
		}
	})
}

func TestNodesRefuseNames(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		for _, addr := range []string{"localhost:80", "vpn.test:80", "nonsense"} {
			if _, err := w.Host.Dial("tcp", addr); err == nil || strings.Contains(err.Error(), "lookup") {
				t.Errorf("Dial(%q): %v; want a refusal", addr, err)
			}
		}
	})
}

func TestCommandsRunInTheirNode(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		n := w.Namespace(t, "there")
		out := n.Run(t, "readlink", "/proc/self/ns/net")
		if strings.TrimSpace(out) != n.ID().String() {
			t.Errorf("the command ran in %s, want %v", out, n.ID())
		}
		if out := w.Open(t, "there").Run(t, "ip", "netns", "identify"); strings.TrimSpace(out) != "there" {
			t.Errorf("ip netns identify says %q", out)
		}
		out, err := n.Try(t, "sh", "-c", "echo out; echo err >&2; exit 3")
		var exit *exec.ExitError
		if out != "out\nerr\n" || !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("got %q, %v", out, err)
		}
	})
}

func TestStartedProcesses(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		var p *Process
		t.Run("in a subtest", func(t *testing.T) {
			p = w.Host.Start(t, exec.Command("sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done"))
			p.WaitOutput(t, "ready\n")
			p.Signal(t, syscall.SIGTERM)
			p.WaitOutput(t, "bye\n")
			var exit *exec.ExitError
			if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("it ended with %v", err)
			}
			p = w.Host.Start(t, exec.Command("sh", "-c", "trap '' TERM; sleep 12345 & echo ready; wait"))
			p.WaitOutput(t, "ready\n")
		})
		select {
		case <-p.Done():
		default:
			t.Error("the process outlived its test")
		}
		if lines, err := processes(); err != nil || strings.Contains(strings.Join(lines, "\n"), "sleep 12345") {
			t.Errorf("processes are left: %v, %v", lines, err)
		}
	})
}

func TestSnapshotSeesChangesAndOnlyThem(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		w.Lab(t)
		before := w.Snapshot(t)
		if diff := Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("nothing happened, but:\n%s", diff)
		}
		for _, tt := range []struct{ do, undo, want string }{
			{"ip link add x0 type veth peer x1", "ip link del x0", "+link x0: veth"},
			{"ip link set lan0 mtu 1400", "ip link set lan0 mtu 1500", "-link lan0: veth, mtu 1500"},
			{"ip addr add 192.0.2.1/32 dev lan0", "ip addr del 192.0.2.1/32 dev lan0", "+address lan0: 192.0.2.1/32"},
			{"ip route add 192.0.2.0/24 via 198.51.100.1", "ip route del 192.0.2.0/24", "+route: type 1 "},
			{"ip route add default via 198.51.100.1 table 77", "ip route flush table 77", "Table: 77"},
			{"ip -6 rule add fwmark 7 table 77", "ip -6 rule del fwmark 7", "+rule: family 10"},
			{"sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv4.ip_forward=0", "+sysctl /proc/sys/net/ipv4/ip_forward = 1"},
			{"nft add table inet x", "nft delete table inet x", "+filter nft: table inet x"},
			{"iptables-legacy -t nat -N X", "iptables-legacy -t nat -X X", "+filter iptables-legacy-save: *nat"},
			{"mkdir -p /etc/netns/x && echo hi > /etc/netns/x/resolv.conf", "rm -r /etc/netns", "+file /etc/netns/x/resolv.conf: -rw-r--r-- 0:0 3 bytes"},
			{"chmod 600 /etc/resolv.conf", "chmod 644 /etc/resolv.conf", "+file /etc/resolv.conf: -rw-------"},
			{"mount -t tmpfs x /mnt", "umount /mnt", "+mount / /mnt"},
			{"ip netns add x", "ip netns del x", "+file /run/netns/x"},
			{"sleep 12346 >/dev/null 2>&1 &", "kill $(pgrep -f 'sleep 1234[6]')", "+process sleep 12346"},
		} {
			w.Host.Run(t, "sh", "-c", tt.do)
			if diff := Diff(before, w.Snapshot(t)); !strings.Contains(diff, tt.want) {
				t.Errorf("after `%s` no %q in:\n%s", tt.do, tt.want, diff)
			}
			w.Host.Run(t, "sh", "-c", tt.undo)
			var after string
			Eventually(t, "the end of `"+tt.do+"`", func() error {
				after = w.Snapshot(t)
				if diff := Diff(before, after); diff != "" && !strings.HasPrefix(tt.do, "iptables-legacy") { // whose table stays
					return fmt.Errorf("left:\n%s", diff)
				}
				return nil
			})
			before = after
		}
	})
}

func TestPrepareDirIsUndoneWithTheLastName(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		before := w.Snapshot(t)
		t.Run("names", func(t *testing.T) {
			w.Namespace(t, "a")
			did, err := netnsx.PrepareDir()
			if err != nil || did != (netnsx.DirState{}) {
				text, _ := json.Marshal(did)
				t.Errorf("the second PrepareDir did %s, %v; want nothing", text, err)
			}
			w.Namespace(t, "b")
		})
		if diff := Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}
