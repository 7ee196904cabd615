package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/internal/machine"
)

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
