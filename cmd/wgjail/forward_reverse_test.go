package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// One port of the jail leads to one of the host: to its loopback, whatever family
// the service is in, or where --to says; over TCP and UDP.
func TestReverse(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, l.Host, "host4", "tcp4", "127.0.0.1:5432")
		serve(t, l.Host, "host6", "tcp6", "[::1]:5433")
		serve(t, l.LAN, "machine", "tcp4", world.LANV4+":5434")
		p := l.forward(t, "--reverse", "8080:5432")
		if want := "forwarding 8080:5432 out of jail vpn, to the host\n"; p.Output() != want {
			t.Errorf("printed %q, want %q", p.Output(), want)
		}
		if sets := capabilitiesOf(t, p.Pid); len(sets) != 0 {
			t.Errorf("it has %v", sets)
		}
		l.do(t, "forward", "-d", "--reverse", "5433")
		l.do(t, "forward", "-d", "--reverse", "--to", world.LANV4, "5434")
		own := l.Client.Addresses[0].Addr().String()
		l.do(t, "forward", "-d", "--reverse", own+":8081:5432")
		l.do(t, "forward", "-d", "--reverse", "--to", "127.0.0.1", "7000:53/udp")
		for addr, banner := range map[string]string{
			"127.0.0.1:8080": "host4", "[::1]:8080": "host4", "127.0.0.1:5433": "host6", "[::1]:5433": "host6",
			"127.0.0.1:5434": "machine", own + ":8081": "host4",
		} {
			got, seen, err := greet(jail, addr)
			if err != nil || got != banner || banner != "machine" && !seen.IsLoopback() {
				t.Errorf("%s: banner %q, who saw %v, error %v; want %q", addr, got, seen, err, banner)
			}
		}
		mustBeClosed(t, jail, own+":8080")
		mustBeClosed(t, jail, "127.0.0.1:8081")
		dns, err := l.Host.ListenPacket("udp4", "127.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		defer dns.Close()
		go func() {
			buf := make([]byte, 100)
			if n, from, err := dns.ReadFrom(buf); err == nil {
				dns.WriteTo(buf[:n], from)
			}
		}()
		if err := echo(jail, "udp", "127.0.0.1:7000", "who?"); err != nil {
			t.Errorf("a datagram: %v", err)
		}

		app := w.Namespace(t, "app")
		elsewhere := l.forward(t, "--reverse", "--netns", "app", "8080:5432")
		mustGreet(t, app, "127.0.0.1:8080", "host4")
		if table := l.do(t, "status"); !strings.Contains(table, "namespace /run/netns/app\n  reverse  127.0.0.1:8080/tcp to 127.0.0.1:5432 (relay), ") {
			t.Errorf("status printed:\n%s", table)
		}
		elsewhere.Signal(t, syscall.SIGTERM)
		elsewhere.Wait()

		f := l.status(t).Forwards
		if len(f) != 5 || f[1].ID != "reverse-tcp-127.0.0.1:5433" || !f[1].Reverse || f[1].Listen != "127.0.0.1:5433" || f[1].Target != "127.0.0.1:5433" || f[1].Total != 2 {
			t.Errorf("forwards in status: %+v", f)
		}
		table := strings.Join(strings.Fields(l.do(t, "status")), " ")
		if want := "reverse 127.0.0.1:8080/tcp to 127.0.0.1:5432 (relay), 0 open of 2"; !strings.Contains(table, want) {
			t.Errorf("status has no %q:\n%s", want, table)
		}

		const warning = "127.0.0.1:8080/tcp in the jail leads to 127.0.0.1:5432 on the host's side, by a reverse forward"
		if r := l.run(t, "check", "vpn"); r.status != 0 || !strings.Contains(r.out+r.err, warning) {
			t.Errorf("check does not name the way out (status %d):\n%s%s", r.status, r.out, r.err)
		}

		// It is stopped by itself, and is not in the way of a forward of that port.
		l.refused(t, 1, []string{"8080 is forwarded out of jail vpn already", "wgjail forward --jail vpn --reverse --stop 8080\n"}, "forward", "--reverse", "8080:5432")
		l.do(t, "forward", "-d", "8080")
		l.refused(t, 1, []string{"5433 is not forwarded into jail vpn"}, "forward", "--stop", "5433")
		if out := l.do(t, "forward", "--stop", "--reverse", "5433"); out != "stopped reverse-tcp-127.0.0.1:5433\n" {
			t.Errorf("printed %q", out)
		}
		mustBeClosed(t, jail, "127.0.0.1:5433")
		mustGreet(t, jail, "127.0.0.1:8080", "host4")
		l.do(t, "forward", "--stop")
		mustBeClosed(t, jail, "127.0.0.1:8080")
		if f := l.status(t).Forwards; len(f) != 0 {
			t.Errorf("after --stop: %+v", f)
		}
	})
}

// What is opened is one address and port, for the jail and nobody else: nothing
// else of the host is reached from inside, nor the port from anywhere else.
func TestReverseOpensNothingElse(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		wt := l.watch(t)
		serve(t, l.Host, "host", "tcp", "[::]:5432")
		other := serve(t, l.Host, "other", "tcp", "[::]:5433")
		jail := l.up(t)
		own := l.Client.Addresses[0].Addr().String()
		decoy := serve(t, jail, "decoy", "tcp", "[::]:5432")
		l.forward(t, "--reverse", "8080:5432")
		l.forward(t, "--reverse", own+":8081:5432")
		wt.probeFrom(t, "vpn")
		mustGreet(t, jail, "127.0.0.1:8080", "host") // the positive control
		for _, addr := range []string{"127.0.0.1", "[::1]", own} {
			mustBeClosed(t, jail, addr+":5433")
		}
		for _, addr := range []string{world.HostLANV4, world.HostV4, world.GatewayV4, "10.64.0.1"} {
			if banner, _, err := greet(jail, addr+":5433"); err == nil {
				t.Errorf("%s:5433 is reached from inside: %q", addr, banner)
			}
		}
		if n := other.called(); n != 0 {
			t.Errorf("another service of the host was called %d times", n)
		}
		for _, c := range l.clients() {
			mustBeClosed(t, c.from, c.to+":8080")
			mustBeClosed(t, c.from, c.to+":8081")
		}
		wire := jail.Capture(t, "vpn")
		if c, err := l.Exit.Dial("tcp", own+":8081"); err == nil {
			c.Close()
			t.Error("the port is reached through the tunnel")
		}
		wire.Sync(t)
		if len(wire.Frames()) == 0 {
			t.Error("nobody has tried to come through the tunnel") // the positive control
		}
		if n := decoy.called(); n != 0 {
			t.Errorf("the service in the jail was called %d times in the host's place", n)
		}
	})
}

// A reverse forward ends with its jail, and keeps nothing of it.
func TestReverseEndsWithItsJail(t *testing.T) {
	for name, script := range rows(map[string]string{
		"down":        "wgjail down vpn",
		"killed":      "kill -9 $FORWARD; wgjail forward --stop",
		"name reused": "ip netns delete vpn && ip netns add vpn",
	}, "down") {
		t.Run(name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				l := newLab(t, w)
				host := serve(t, l.Host, "host", "tcp", "[::]:5432")
				jail := l.up(t)
				p := l.forward(t, "--reverse", "8080:5432")
				v, err := visitTo(jail, "127.0.0.1:8080")
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close()
				l.Host.Run(t, "sh", "-ec", fmt.Sprintf("FORWARD=%d; %s", p.Pid, script))
				v.mustEnd(t, name == "name reused")
				err = p.Wait()
				if name != "killed" && (err == nil || !strings.Contains(p.Output(), "error: jail vpn was removed: the forward has ended\n")) {
					t.Errorf("it ended with %v and printed:\n%s", err, p.Output())
				}
				mustBeClosed(t, jail, "127.0.0.1:8080")
				if n := host.called(); n != 1 {
					t.Errorf("the host was called %d times; want once", n)
				}
			})
		})
	}
}

// What a reverse forward cannot do is said.
func TestReverseErrors(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		serve(t, jail, "app", "tcp4", "127.0.0.1:80")
		settled(t, "vpn")
		before := w.Snapshot(t)
		for _, c := range []struct {
			status int
			args   string
			texts  []string
		}{
			{2, "--reverse", []string{"error: which port?"}},
			{2, "--reverse --stop", []string{"error: which port?"}},
			{2, "--reverse 8080 8081", []string{"error: --reverse opens one port at a time", "hint: start one forward for each port"}},
			{2, "--reverse 8080-8081", []string{"error: --reverse opens one port at a time"}},
			{2, "--reverse --source client 8080", []string{"error: --reverse and --source exclude each other"}},
			{2, "--reverse --mode veth 8080", []string{"error: --reverse does not go with --mode veth", "hint: "}},
			{2, "--reverse --to localhost 8080", []string{"--to localhost: not an IP address"}},
			{1, "--reverse 80", []string{"listen in jail vpn on 127.0.0.1 port 80/tcp: address already in use", "hint: a program inside has the port", "--reverse OTHER:80"}},
			{1, "--reverse 192.0.2.1:81", []string{"listen in jail vpn on 192.0.2.1 port 81/tcp: cannot assign requested address", "hint: there is no such address inside"}},
			{1, "--reverse --stop 81", []string{"81 is not forwarded out of jail vpn"}},
		} {
			l.refused(t, c.status, c.texts, append([]string{"forward"}, strings.Fields(c.args)...)...)
		}
		l.unchanged(t, before, "refused forwards")
		p := l.Host.Start(t, exec.Command("wgjail", "forward", "--reverse", "81"))
		p.WaitOutput(t, "forwarding ")
		mustBeReset(t, jail, "127.0.0.1:81") // nobody listens on the host
		p.Signal(t, syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
		l.unchanged(t, before, "the end of a reverse forward")
	})
}
