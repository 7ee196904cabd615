package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/bench/load"
	"github.com/wgjail/wgjail/internal/machine"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// Other people's forwarders, as their users start them.

// startHAProxy forwards as HAProxy's manual says for network namespaces.
func startHAProxy(l *lab, i *instance) error {
	intoJail(l, i)
	var text strings.Builder
	text.WriteString(`global
  maxconn 4500
  nbthread 2
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1h
  timeout server 1h
`)
	for _, p := range tcpPorts {
		fmt.Fprintf(&text, "listen p%d\n  bind :%d\n  server s 127.0.0.1:%d namespace %s\n", p, p+forwardBase, p, jailName)
	}
	path := filepath.Join(machine.TmpDir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return i.run(l, "host", exec.Command("haproxy", "-db", "-f", path))
}

// shell is a command line that is given its words as they are.
func shell(script string, args ...string) *exec.Cmd {
	return exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
}

func startSocat(l *lab, i *instance) error {
	intoJail(l, i)
	for _, p := range tcpPorts {
		inner := fmt.Sprintf(`exec:'ip netns exec %s socat STDIO "tcp-connect:127.0.0.1:%d"',nofork`, jailName, p)
		if err := i.run(l, "host", exec.Command("socat", fmt.Sprintf("tcp-listen:%d,fork,reuseaddr", p+forwardBase), inner)); err != nil {
			return err
		}
	}
	return nil
}

// proxyd is where systemd keeps it.
const proxyd = "/lib/systemd/systemd-socket-proxyd"

// startProxyd hands each proxy, which runs in the jail, a socket of the host's
// as systemd does (sd_listen_fds(3)).
func startProxyd(l *lab, i *instance) error {
	intoJail(l, i)
	for _, p := range tcpPorts {
		socket, err := listenFile(l, p+forwardBase)
		if err != nil {
			return err
		}
		cmd := shell(`LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec "$@"`,
			proxyd, "--connections-max=4500", netip.AddrPortFrom(loopback, p).String())
		cmd.ExtraFiles = append(cmd.ExtraFiles, socket)
		err = i.run(l, jailName, cmd)
		socket.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// listenFile returns a socket of the host's that listens, for another process.
func listenFile(l *lab, port uint16) (*os.File, error) {
	var socket *os.File
	err := l.nodes["host"].Do(func() error {
		listener, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return err
		}
		defer listener.Close()
		socket, err = listener.(*net.TCPListener).File()
		return err
	})
	return socket, err
}

func startPasta(l *lab, i *instance) error {
	server, err := load.Serve(l.enter("pasta"))
	if err != nil {
		return err
	}
	l.aim(i, "lan", hostLAN, forwardBase, server)
	i.undo = func() error { server.Close(); return nil }
	list := func(ports []uint16) string {
		var words []string
		for _, p := range ports {
			words = append(words, fmt.Sprintf("%d:%d", p+forwardBase, p))
		}
		return strings.Join(words, ",")
	}
	return i.run(l, "host", exec.Command("pasta", "--foreground", "--stderr", "--config-net", "--runas", "0:0",
		"--interface", "lan0", "--address", "10.1.1.2", "--gateway", "10.1.1.1", "--netmask", "24",
		"--netns", netnsx.Path("pasta"), "--netns-only", "-4", "-t", list(tcpPorts), "-u", list(udpPorts)))
}
