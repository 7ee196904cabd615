package jail

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A wgOracle asks the real wg(8) and wg-quick(8) what a configuration means.
//
// `wg setconf NAME FILE` parses FILE and sends what it understood to
// /var/run/wireguard/NAME.sock. Behind that socket is the test: the exit status
// is the verdict, the bytes are the meaning, and no tunnel is involved. A shell
// in its own mount and network namespace runs wg, with a folder of the test as
// /run/wireguard and with names that only a file of the test resolves.
type wgOracle struct {
	dir    string
	ask    io.WriteCloser
	answer *bufio.Reader
	uapi   chan string
}

const wgOracleScript = `set -e
mount --make-rprivate /
mount --bind hosts /etc/hosts
mount --bind nsswitch.conf /etc/nsswitch.conf
mount -t tmpfs tmpfs /run
mkdir /run/wireguard
mount --bind . /run/wireguard
set +e
echo ready
while read -r how; do
	case $how in
	wg) wg setconf oracle oracle.conf 2>stderr ;;
	wg-quick) wg-quick strip ./oracle.conf >stripped 2>stderr && wg setconf oracle stripped 2>stderr ;;
	esac
	echo $?
done
`

// wgOracleHosts is what wg resolves names with.
var wgOracleHosts = map[string]string{"localhost": "127.0.0.1", "vpn.example.com": "192.0.2.1"}

// newWGOracle starts an oracle that ends with tb. The error says why there can
// be none here.
func newWGOracle(tb testing.TB) (*wgOracle, error) {
	tb.Helper()
	for _, tool := range []string{"wg", "wg-quick"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: apt install wireguard-tools", err)
		}
	}
	o := &wgOracle{dir: tb.TempDir(), uapi: make(chan string, 1)}
	var hosts strings.Builder
	for name, addr := range wgOracleHosts {
		fmt.Fprintln(&hosts, addr, name)
	}
	o.write(tb, "hosts", hosts.String())
	o.write(tb, "nsswitch.conf", "hosts: files\nservices: files\n")

	l, err := net.Listen("unix", filepath.Join(o.dir, "oracle.sock"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go o.serve(l)

	cmd := exec.Command("sh", "-c", wgOracleScript)
	cmd.Dir, cmd.Stderr = o.dir, os.Stderr
	cmd.Env = append(os.Environ(), "WG_ENDPOINT_RESOLUTION_RETRIES=0", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if o.ask, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	o.answer = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("namespaces for wg: %w: run as root", err)
	}
	tb.Cleanup(func() {
		o.ask.Close()
		cmd.Wait()
	})
	if line, err := o.answer.ReadString('\n'); line != "ready\n" {
		return nil, fmt.Errorf("namespaces for wg: got %q, %v: run as root", line, err)
	}
	return o, nil
}

// serve takes the settings of each `wg setconf` and says that they are set.
func (o *wgOracle) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var all strings.Builder
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if err != nil || line == "\n" {
				break
			}
			all.WriteString(line)
		}
		if all.Len() > 0 { // else wg only looked whether somebody listens
			o.uapi <- all.String()
			io.WriteString(conn, "errno=0\n\n")
		}
		conn.Close()
	}
}

// A wgVerdict is what wg made of a configuration.
type wgVerdict struct {
	accepted bool
	uapi     []string // normalised
	stderr   string
}

// judge asks wg, through wg-quick if text has one of wg-quick's keys.
func (o *wgOracle) judge(tb testing.TB, text string) wgVerdict {
	tb.Helper()
	o.write(tb, "oracle.conf", text)
	how := "wg"
	if mentionsQuickKey(text) {
		how = "wg-quick"
	}
	fmt.Fprintln(o.ask, how)
	status, err := o.answer.ReadString('\n')
	if err != nil {
		tb.Fatalf("oracle: %v", err)
	}
	stderr, err := os.ReadFile(filepath.Join(o.dir, "stderr"))
	if err != nil {
		tb.Fatal(err)
	}
	v := wgVerdict{accepted: status == "0\n", stderr: strings.TrimSpace(string(stderr))}
	if v.accepted {
		v.uapi = normaliseUAPI(strings.Split(strings.TrimSpace(<-o.uapi), "\n"))
	}
	return v
}

func (o *wgOracle) write(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// mentionsQuickKey also finds keys with spaces in them: that wg-quick leaves
// those alone is part of what is tested.
func mentionsQuickKey(text string) bool {
	text = strings.ToLower(text)
	for _, space := range []string{" ", "\t", "\v", "\f", "\r"} {
		text = strings.ReplaceAll(text, space, "")
	}
	return slices.ContainsFunc(configKeys[:], func(k configKey) bool {
		return k.quick != nil && strings.Contains(text, strings.ToLower(k.name))
	})
}

// normaliseUAPI brings the text to one form for one meaning: host bits masked,
// as the kernel does, and nothing that only says "none".
func normaliseUAPI(lines []string) []string {
	var list []string
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "allowed_ip":
			if prefix, err := netip.ParsePrefix(value); err == nil { // newer versions of wg also send -PREFIX
				value = prefix.Masked().String()
			}
		case "endpoint":
			value = normaliseEndpoint(value)
		case "persistent_keepalive_interval":
			if value == "0" {
				continue
			}
		case "preshared_key":
			if strings.Trim(value, "0") == "" {
				continue
			}
		}
		list = append(list, name+"="+value)
	}
	return list
}

// normaliseEndpoint resolves as the oracle does, and names loopback's zone.
func normaliseEndpoint(value string) string {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return value
	}
	if addr, ok := wgOracleHosts[strings.ToLower(host)]; ok {
		host = addr
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() == "1" {
			addr = addr.WithZone("lo")
		}
		if !addr.IsLinkLocalUnicast() && !addr.IsMulticast() {
			addr = addr.WithZone("")
		}
		host = addr.String()
	}
	return net.JoinHostPort(host, port)
}

// uapiOf is what wg would have to send for c, normalised.
func uapiOf(c *Config) []string {
	lines := []string{
		"set=1",
		fmt.Sprintf("private_key=%x", [32]byte(c.PrivateKey.Key())),
		fmt.Sprintf("listen_port=%d", c.ListenPort),
		fmt.Sprintf("fwmark=%d", c.FirewallMark),
		"replace_peers=true",
	}
	for _, p := range c.Peers {
		lines = append(lines, fmt.Sprintf("public_key=%x", [32]byte(p.PublicKey)))
		if !p.PresharedKey.IsZero() {
			lines = append(lines, fmt.Sprintf("preshared_key=%x", [32]byte(p.PresharedKey.Key())))
		}
		if !p.Endpoint.IsZero() {
			lines = append(lines, "endpoint="+p.Endpoint.String())
		}
		lines = append(lines, fmt.Sprintf("persistent_keepalive_interval=%d", int(p.Keepalive.Seconds())), "replace_allowed_ips=true")
		for _, a := range p.AllowedIPs {
			lines = append(lines, "allowed_ip="+a.String())
		}
	}
	return normaliseUAPI(lines)
}
