package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// A jailStatus is an element of what wgjail status --json prints.
type jailStatus struct {
	Name, State, Backend, Interface, Netns string

	MTU            int
	Addresses, DNS []string
	Missing        []string
	Peers          []struct {
		PublicKey       string `json:"public_key"`
		Endpoint        string
		LatestHandshake *time.Time `json:"latest_handshake"`
		RxBytes         int64      `json:"rx_bytes"`
		TxBytes         int64      `json:"tx_bytes"`
		AllowedIPs      []string   `json:"allowed_ips"`
	}
	Port *struct {
		Protocol, Gateway, Error string
		Port                     int
		LocalPort                int `json:"local_port"`
	} `json:"provider_port"`
	Forwards  []forwardStatus
	Processes []struct {
		PID     int
		UID     int
		Command string
	}
}

type forwardStatus struct {
	ID, Mode, Proto, Listen, Target, Source string

	PID                    int
	Allow                  []string
	Active, Total, Refused uint64
	BytesIn                uint64 `json:"bytes_in"`
	BytesOut               uint64 `json:"bytes_out"`
	PacketsIn              uint64 `json:"packets_in"`
	PacketsOut             uint64 `json:"packets_out"`
	ProxyProtocol          string `json:"proxy_protocol"`
	Reverse                bool
	DialErrors             uint64 `json:"dial_errors"`
	Dropped                uint64
	Warning                string
}

// status returns the status of the jail vpn.
func (l *lab) status(t *testing.T) jailStatus {
	t.Helper()
	list := l.statusList(t, "vpn")
	if len(list) != 1 {
		t.Fatalf("status of %d jails, want 1", len(list))
	}
	return list[0]
}

func (l *lab) statusList(t *testing.T, names ...string) []jailStatus {
	t.Helper()
	var list []jailStatus
	if err := json.Unmarshal([]byte(l.do(t, append([]string{"status", "--json"}, names...)...)), &list); err != nil {
		t.Fatalf("status --json: %v", err)
	}
	return list
}

// waitStatus waits until the status of the jail vpn is as ok wants it.
func (l *lab) waitStatus(t *testing.T, what string, ok func(jailStatus) bool) {
	t.Helper()
	world.Eventually(t, what, func() error {
		if s := l.status(t); !ok(s) {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}

// The names of JSON's types, as far as status uses them.
var (
	statusShape = map[string]string{
		"name": "string", "state": "string", "backend": "string", "interface": "string", "netns": "string", "mtu": "number",
		"addresses": "array", "dns": "array", "peers": "array", "forwards": "array", "processes": "array",
		"missing": "array?", "search": "array?", "repairs": "array?",
	}
	peerShape = map[string]string{
		"public_key": "string", "endpoint": "string", "latest_handshake": "string|null",
		"rx_bytes": "number", "tx_bytes": "number", "allowed_ips": "array",
	}
	forwardShape = map[string]string{
		"id": "string", "pid": "number", "mode": "string", "proto": "string", "listen": "string", "target": "string",
		"allow": "array", "source": "string", "active": "number", "total": "number", "refused": "number",
		"bytes_in": "number", "bytes_out": "number", "dial_errors": "number?",
		"dropped": "number?", "evicted": "number?",
	}
	processShape = map[string]string{"pid": "number", "uid": "number", "command": "string"}
	repairShape  = map[string]string{"at": "string", "what": "string"}
)

// checkShape wants exactly these keys in v, of these types. A key with "?" may
// be missing.
func checkShape(t *testing.T, where string, v any, shape map[string]string) {
	t.Helper()
	object, ok := v.(map[string]any)
	if !ok {
		t.Errorf("%s is %s, want an object", where, jsonType(v))
		return
	}
	for key, want := range shape {
		value, there := object[key]
		optional := strings.HasSuffix(want, "?")
		if !there && optional {
			continue
		}
		if got := jsonType(value); !there || !slices.Contains(strings.Split(strings.TrimSuffix(want, "?"), "|"), got) {
			t.Errorf("%s.%s is %s (there: %v), want %s", where, key, got, there, want)
		}
	}
	for key := range object {
		if shape[key] == "" {
			t.Errorf("%s.%s is not in the contract", where, key)
		}
	}
}

func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case float64:
		return "number"
	case []any:
		return "array"
	}
	return fmt.Sprintf("%T", v)
}

// checkContract wants text to be what wgjail status --json promises.
func checkContract(t *testing.T, text string) {
	t.Helper()
	var list []any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("status --json: %v", err)
	}
	for i, jail := range list {
		where := fmt.Sprintf("[%d]", i)
		checkShape(t, where, jail, statusShape)
		for key, shape := range map[string]map[string]string{"peers": peerShape, "forwards": forwardShape, "processes": processShape, "repairs": repairShape} {
			elements, _ := jail.(map[string]any)[key].([]any)
			for j, e := range elements {
				checkShape(t, fmt.Sprintf("%s.%s[%d]", where, key, j), e, shape)
			}
		}
	}
}

func TestStatusOfNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		if got := l.do(t, "status", "--json"); got != "[]\n" {
			t.Errorf("status --json printed %q, want []", got)
		}
		if got := l.do(t, "status"); got != "there is no jail\n" {
			t.Errorf("status printed %q", got)
		}
		for _, json := range []string{"--json=true", "--json=false"} {
			l.refused(t, 1, []string{"error: jail nope is not up", "hint: make it with: wgjail up nope.conf"}, "status", json, "nope")
		}
		l.unchanged(t, before, "status")
	})
}

// Status shows the jail, its peers, forwards and programs, as people and as
// programs read it.
func TestStatus(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		// So that nothing is sent before it is asked for.
		l.Client.Keepalive = 0
		given := strings.Replace(l.Client.Config(), "[Peer]", "MTU = 1420\n[Peer]", 1)
		if err := os.WriteFile(l.conf, []byte(given), 0o600); err != nil {
			t.Fatal(err)
		}
		jail := l.up(t)
		checkContract(t, l.do(t, "status", "--json"))
		s := l.status(t)
		if s.Name != "vpn" || s.State != "up" || s.Backend != backend() || s.Interface != "vpn" || s.Netns != "/run/netns/vpn" || s.MTU != 1420 {
			t.Errorf("status %+v", s)
		}
		var want []string
		for _, a := range l.Client.Addresses {
			want = append(want, a.String())
		}
		if !slices.Equal(s.Addresses, want) || len(s.DNS) != len(l.Client.DNS) {
			t.Errorf("addresses %q, DNS %q, want %q, %v", s.Addresses, s.DNS, want, l.Client.DNS)
		}
		p := s.Peers[0]
		if p.LatestHandshake != nil || p.RxBytes != 0 || p.Endpoint != l.Provider.Endpoint().String() || len(p.AllowedIPs) != 2 {
			t.Errorf("peer %+v before there was traffic", p)
		}
		if table := l.do(t, "status"); !strings.Contains(table, "handshake none yet") {
			t.Errorf("no handshake was expected in:\n%s", table)
		}

		began := time.Now().Add(-2 * time.Second) // kernel and Go read the clock differently
		if err := echo(jail, "tcp", world.InternetV4+":7", "hello"); err != nil {
			t.Fatal(err)
		}
		p = l.status(t).Peers[0]
		if p.LatestHandshake == nil || p.LatestHandshake.Before(began) || p.LatestHandshake.After(time.Now().Add(time.Second)) {
			t.Errorf("latest handshake %v, want one since %v", p.LatestHandshake, began)
		}
		if p.RxBytes == 0 || p.TxBytes == 0 {
			t.Errorf("%d bytes received, %d sent, want some", p.RxBytes, p.TxBytes)
		}

		app := l.start(t, "exec", "vpn", "--user", "65534", "--", "sleep", "1234")
		l.do(t, "forward", "-d", "--allow", "192.168.77.0/24", "--allow", "fd77::/64", "127.0.0.1:8000-8001:9000-9001")
		l.do(t, "forward", "-d", "--allow", "any", "8080:80")
		l.waitStatus(t, "the program in status", func(s jailStatus) bool {
			return len(s.Processes) == 1 && s.Processes[0].Command == "sleep 1234"
		})
		checkContract(t, l.do(t, "status", "--json", "vpn"))
		s = l.status(t)
		if got := s.Processes[0]; got.PID != app.Pid || got.UID != 65534 {
			t.Errorf("process %+v, want number %d of user 65534", got, app.Pid)
		}
		l.checkForwards(t, s.Forwards)
		table := l.do(t, "status", "vpn")
		for _, text := range []string{
			"jail vpn        up\n", "tunnel", backend() + " WireGuard, MTU 1420", "10.64.0.2/32", "198.51.100.10:51820",
			"*:8080/tcp to 127.0.0.1:80 (relay)", fmt.Sprintf("%d sleep 1234", app.Pid), "ago,",
		} {
			if !strings.Contains(table, text) {
				t.Errorf("no %q in:\n%s", text, table)
			}
		}
	})
}

// checkForwards wants the two forwards of TestStatus.
func (l *lab) checkForwards(t *testing.T, got []forwardStatus) {
	t.Helper()
	want := []forwardStatus{
		{ID: "tcp-127.0.0.1:8000-8001", Mode: "relay", Proto: "tcp", Listen: "127.0.0.1:8000-8001", Target: "127.0.0.1:9000-9001",
			Source: "jail", Allow: []string{"192.168.77.0/24", "fd77::/64"}},
		{ID: "tcp-8080", Mode: "relay", Proto: "tcp", Listen: "*:8080", Target: "127.0.0.1:80",
			Source: "jail", Allow: []string{"0.0.0.0/0", "::/0"}},
	}
	if len(got) != len(want) {
		t.Fatalf("forwards %+v, want %d", got, len(want))
	}
	for i, f := range got {
		args, err := os.ReadFile("/proc/" + strconv.Itoa(f.PID) + "/cmdline")
		if err != nil || !bytes.HasPrefix(args, []byte("wgjail\x00forward\x00")) {
			t.Errorf("process %d of forward %s is %q (%v)", f.PID, f.ID, args, err)
		}
		f.PID = 0
		if fmt.Sprint(f) != fmt.Sprint(want[i]) {
			t.Errorf("forward\n%+v, want\n%+v", f, want[i])
		}
	}
}

// A keeper says that the tunnel is stale; its successor begins afresh.
func TestStatusStale(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		const health = "/run/wgjail/vpn/health.json" // a keeper takes three minutes to write it
		// The keeper may just be beginning, and take it back once.
		world.Eventually(t, "a stale jail", func() error {
			if err := os.WriteFile(health, []byte(`{"stale":true,"since":"2026-01-02T03:04:05Z"}`), 0o600); err != nil {
				return err
			}
			if s, table := l.status(t), l.do(t, "status"); s.State != "stale" || !strings.Contains(table, "stale\n") {
				return fmt.Errorf("state %q, and a table of\n%s", s.State, table)
			}
			return nil
		})
		l.Host.Run(t, "sh", "-c", "kill -9 $(head -n 1 /run/wgjail/vpn/keeper)")
		l.waitStatus(t, "a broken jail", func(s jailStatus) bool { return s.State == "broken" })
		l.do(t, "up", l.conf)
		l.waitStatus(t, "a jail that is up again", func(s jailStatus) bool { return s.State == "up" })
	})
}

// --watch prints again, with what is new, until Ctrl-C.
func TestStatusWatch(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		table := l.start(t, "status", "--watch")
		array := l.start(t, "status", "--watch", "--json")
		one := l.start(t, "status", "--watch", "vpn")
		for _, p := range []*world.Process{table, array, one} {
			p.WaitOutput(t, "10.64.0.2/32")
		}
		l.do(t, "forward", "-d", "8080")
		table.WaitOutput(t, "*:8080/tcp")
		array.WaitOutput(t, `"tcp-8080"`)
		l.do(t, "down", "vpn")
		table.WaitOutput(t, "there is no jail")
		if err := one.Wait(); err == nil || !strings.Contains(one.Output(), "error: jail vpn is not up") {
			t.Errorf("the watch of a jail that is gone ended with %v", err)
		}
		for _, p := range []*world.Process{table, array} {
			p.Signal(t, syscall.SIGINT)
			if err := p.Wait(); err != nil {
				t.Errorf("after Ctrl-C: %v", err)
			}
		}
		arrays := json.NewDecoder(strings.NewReader(array.Output()))
		for arrays.More() {
			var one json.RawMessage
			if err := arrays.Decode(&one); err != nil {
				t.Fatal(err)
			}
			checkContract(t, string(one))
		}
	})
}

// Whatever happens meanwhile, status prints what there is and is content.
func TestStatusDuringChanges(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		done := make(chan error, 1)
		go func() {
			const script = `for i in $(seq $1); do
				wgjail up "$0" && wgjail forward -d 8080 8081 && wgjail forward --stop 8081 && wgjail forward --stop && wgjail down vpn || exit 1
			done`
			r, err := runIn(l.Host, exec.Command("sh", "-ec", script, l.conf, fmt.Sprint(times(6, 1))))
			if err == nil && r.status != 0 {
				err = fmt.Errorf("status %d: %s", r.status, r.err)
			}
			done <- err
		}()
		for {
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				return
			default:
				checkContract(t, l.do(t, "status", "--json"))
			}
		}
	})
}
