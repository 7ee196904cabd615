package veth_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// A logBuffer keeps what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// watched opens the pair and watches it until the test ends.
func (l *lab) watched(t *testing.T) (*veth.Veth, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	l.opts.Log = slog.New(slog.NewTextHandler(log, nil))
	v := l.open(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.Watch(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return v, log
}

// TestWatch: what somebody removes from a pair in use comes back, and clients over
// a link that appears are let in.
func TestWatch(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		serve(t, l.jail, "jail", "tcp", "[::]:8080")
		v, log := l.watched(t)
		add(t, v, tcp(8080))
		whole := func(after string) {
			t.Helper()
			world.Eventually(t, "the pair to be whole after: "+after, func() error {
				r, err := v.Inspect()
				if err == nil && len(r.Missing) > 0 {
					err = fmt.Errorf("missing: %v; it has said: %s", r.Missing, log)
				}
				return err
			})
			must(t, l.everywhere("tcp", "8080")...)
		}
		for _, x := range []struct {
			at   *world.Node
			line string
		}{
			{l.host, "iptables -t nat -F"},
			{l.host, "nft flush ruleset"},
			{l.jail, "nft flush ruleset"},
			{l.host, "ip link set " + veth.HostLink("vpn") + " down"},
			{l.host, "ip link del " + veth.HostLink("vpn")},
			{l.host, "sysctl -w net.ipv4.conf.lan0.forwarding=0"},
			{l.jail, "ip rule del pref 100"},
		} {
			run(t, x.at, x.line)
			whole(x.line)
		}
		if !strings.Contains(log.String(), "put back") {
			t.Errorf("it has not said what it repairs: %s", log)
		}
		more := w.Namespace(t, "more")
		w.Link(t, l.host.End("lan1", "192.168.60.1/24"), more.End("eth0", "192.168.60.2/24"))
		world.Eventually(t, "a client over a new link", func() error {
			return expect(more, "tcp", net.JoinHostPort("192.168.60.1", "8080"), "jail 192.168.60.2")
		})
		whole("a new link")
	})
}
