package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

func TestCurl(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		l.Provider.SetName("app.test", netip.MustParseAddr(world.InternetV4), netip.MustParseAddr(world.InternetV6))
		wire := l.Host.CaptureAll(t)
		for _, c := range []struct{ family, url, seen string }{
			{"-4", "http://" + world.InternetV4, "10.64.0.2"}, {"-6", "http://[" + world.InternetV6 + "]", "fd64::2"},
			{"-4", "http://app.test", "10.64.0.2"}, {"-6", "http://app.test", "fd64::2"},
		} {
			canary := world.Canary()
			got := l.do(t, "exec", "vpn", "--", "curl", "--noproxy", "*", "-sSf", "-m", "20", c.family, c.url+"/"+string(canary))
			if strings.TrimSpace(got) != c.seen {
				t.Errorf("%s saw %q, want %s", c.url, got, c.seen)
			}
			if len(l.Provider.Find(canary)) == 0 {
				t.Errorf("the request to %s was not seen at the provider", c.url)
			}
			wire.MustNotSee(t, canary)
		}
		l.mustStayInside(t, wire)
	})
}

// mustStayInside wants that of what the capture has kept nothing but WireGuard
// left the host towards the internet, and that nothing arrived there in clear.
func (l *lab) mustStayInside(t *testing.T, wire *world.Capture) {
	t.Helper()
	wire.Sync(t)
	stray := wire.Except(func(f world.Frame) bool { return f.Link != "wan0" || l.Tunnel(f) || world.Neighbour(f) })
	if len(stray) > 0 {
		t.Errorf("outside the tunnel:%s", world.Lines(stray))
	}
	if calls := l.Sink.Calls(); len(calls) > 0 {
		t.Errorf("arrived in clear: %v", calls)
	}
}

// transmissionArgs start Debian's transmission-daemon in the foreground, with a
// page that everybody may use and peers that are met without encryption.
func transmissionArgs(t *testing.T) []string {
	return []string{"transmission-daemon", "-f", "-g", t.TempDir(), "-p", "9091", "-a", "*", "-T", "-M", "-et", "--no-utp"}
}

// transmission is its page and RPC as the LAN finds them.
type transmission struct {
	client  *http.Client
	url     string
	session string
}

func (l *lab) transmission() *transmission {
	return &transmission{url: "http://" + world.HostLANV4 + ":9091/transmission/", client: &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return l.LAN.Dial(network, addr)
		}},
	}}
}

// page fetches the web page.
func (tr *transmission) page() (string, error) {
	resp, err := tr.client.Get(tr.url + "web/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

// call calls a method of the RPC. The first call is answered with a session ID,
// with which it is called again.
func (tr *transmission) call(method string, args any) (map[string]any, error) {
	body, err := json.Marshal(map[string]any{"method": method, "arguments": args})
	if err != nil {
		return nil, err
	}
	for range 2 {
		req, err := http.NewRequest(http.MethodPost, tr.url+"rpc", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Transmission-Session-Id", tr.session)
		resp, err := tr.client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusConflict {
			tr.session = resp.Header.Get("X-Transmission-Session-Id")
			continue
		}
		var answer struct {
			Result    string
			Arguments map[string]any
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Result != "success" {
			return nil, fmt.Errorf("%s: %s: %q, %w", method, resp.Status, answer.Result, err)
		}
		return answer.Arguments, nil
	}
	return nil, errors.New("no session was given")
}

// A swarm is a tracker and the one peer that it knows, on the internet behind
// the provider.
type swarm struct {
	mu                sync.Mutex
	announced, shaken []string // addresses that came for hash
}

const trackerPort, peerPort = 6969, 51414

func (l *lab) swarm(t *testing.T, hash string) *swarm {
	t.Helper()
	s := &swarm{}
	tracker, err := l.Exit.Listen("tcp4", fmt.Sprintf("%s:%d", world.InternetV4, trackerPort))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("info_hash") == hash {
			s.note(&s.announced, r.RemoteAddr)
		}
		peer := netip.MustParseAddr(world.InternetV4).AsSlice()
		fmt.Fprintf(w, "d8:intervali1800e5:peers6:%s%se", peer, []byte{peerPort >> 8, peerPort & 255}) // BEP 23
	})}
	go server.Serve(tracker)
	t.Cleanup(func() { server.Close() })
	peer, err := l.Exit.Listen("tcp4", fmt.Sprintf("%s:%d", world.InternetV4, peerPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	go func() {
		for {
			c, err := peer.Accept()
			if err != nil {
				return
			}
			hello := make([]byte, 68) // BEP 3
			if _, err := io.ReadFull(c, hello); err == nil && strings.HasPrefix(string(hello), "\x13BitTorrent protocol") && string(hello[28:48]) == hash {
				s.note(&s.shaken, c.RemoteAddr().String())
			}
			c.Close()
		}
	}()
	return s
}

func (s *swarm) note(list *[]string, addr string) {
	host, _, _ := net.SplitHostPort(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, host)
}

// met returns nil once the program has been to the tracker and to the peer.
func (s *swarm) met() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.announced, "10.64.0.2") || !slices.Contains(s.shaken, "10.64.0.2") {
		return fmt.Errorf("announced by %q, greeted by %q", s.announced, s.shaken)
	}
	return nil
}

// A real program with a web page, as it is in Debian: the LAN uses its page and
// its RPC, and what it sends itself leaves the host in the tunnel alone.
func TestTransmission(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		wire := l.Host.CaptureAll(t)
		hash := string(world.Canary()) + "wgja" // in clear with tracker and peer, in hexadecimal with us
		swarm := l.swarm(t, hash)
		program := l.start(t, append([]string{"exec", "vpn", "--"}, transmissionArgs(t)...)...)
		l.forward(t, "9091")
		tr := l.transmission()
		world.Eventually(t, "transmission's page", func() error {
			text, err := tr.page()
			if err == nil && !strings.Contains(text, "<title>Transmission Web Interface</title>") {
				err = fmt.Errorf("not its page: %.200s", text)
			}
			return err
		})
		magnet := fmt.Sprintf("magnet:?xt=urn:btih:%s&tr=http://%s:%d/announce&tr=udp://%[2]s:7/announce",
			hex.EncodeToString([]byte(hash)), world.InternetV4, trackerPort)
		if _, err := tr.call("torrent-add", map[string]any{"filename": magnet}); err != nil {
			t.Fatal(err)
		}
		world.Eventually(t, "tracker and peer", swarm.met)
		world.Eventually(t, "the tracker that speaks UDP", func() error {
			for _, call := range l.Provider.Calls() {
				if call.Network == "udp" && call.Local.Port() == 7 {
					return nil
				}
			}
			return errors.New("not called")
		})
		list, err := tr.call("torrent-get", map[string]any{"fields": []string{"hashString"}})
		if err != nil || !strings.Contains(fmt.Sprint(list), hex.EncodeToString([]byte(hash))) {
			t.Errorf("the list of torrents is %v (%v)", list, err)
		}
		if len(l.Provider.Find([]byte(hash))) == 0 {
			t.Error("its traffic was not seen at the provider")
		}
		wire.MustNotSee(t, []byte(hash))
		l.do(t, "down", "--kill", "vpn")
		program.Wait()
		wire.MustNotSee(t, []byte(hash)) // nor at its end
		l.mustStayInside(t, wire)
	})
}

// The README's first command, until Ctrl-C.
func TestRunTransmission(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		wire := l.Host.CaptureAll(t)
		run := l.Host.Start(t, exec.Command("wgjail", append([]string{"run", l.conf, "-p", "9091", "--"}, transmissionArgs(t)...)...))
		tr := l.transmission()
		world.Eventually(t, "transmission's page", func() error {
			_, err := tr.page()
			return err
		})
		if _, err := tr.call("session-stats", nil); err != nil {
			t.Error(err)
		}
		tr.client.CloseIdleConnections()
		run.Signal(t, syscall.SIGINT)
		if err := run.Wait(); err != nil {
			t.Errorf("run: %v, want the program's own exit status, 0", err)
		}
		for _, text := range []string{"jail vpn is up", "forwarding 9091 into jail vpn", "jail vpn is down"} {
			if !strings.Contains(run.Output(), text) {
				t.Errorf("not printed: %q", text)
			}
		}
		l.mustStayInside(t, wire)
		l.unchanged(t, before, "wgjail run")
	})
}
