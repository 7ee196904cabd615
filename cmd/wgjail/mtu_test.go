package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// narrow makes the path between the host and the provider lose packets of more
// than size bytes, outer header and all, without a word: 0 ends that.
func (l *lab) narrow(t *testing.T, size int) {
	t.Helper()
	l.Inet.Run(t, "nft", "add table inet path; delete table inet path")
	if size > 0 {
		l.Inet.Run(t, "nft", fmt.Sprintf(`table inet path {
			chain in { type filter hook input priority 0; meta l4proto udp meta length > %d drop; }
			chain out { type filter hook output priority 0; meta l4proto udp meta length > %d drop; }
		}`, size, size))
	}
}

func TestProbeMTU(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		const outer = 20 + 8 + 32 // IPv4, UDP, WireGuard
		for _, tt := range []struct{ path, passes int }{
			{0, 1420},
			{outer + 1420, 1420},
			{outer + 1419, 1408},
			{outer + 1280, 1280},
			{outer + 1000, 96}, // too narrow for IPv6
		} {
			l.narrow(t, tt.path)
			r, err := jail.ProbeMTU(context.Background(), "vpn")
			if err != nil {
				t.Fatal(err)
			}
			if r.MTU != 1420 || r.Passes != tt.passes || r.Target != provider.ServerV4 && r.Target != provider.ServerV6 || r.Narrow() != (tt.passes < 1420) {
				t.Errorf("on a path of %d bytes it found %+v, want %d", tt.path, *r, tt.passes)
			}
		}
		l.narrow(t, 0)
		l.Provider.Blackhole(true)
		if r, err := jail.ProbeMTU(context.Background(), "vpn"); err != nil || r.Passes != 0 || r.Narrow() || r.Target.IsValid() {
			t.Errorf("where nobody answers it found %+v, %v", r, err)
		}
	})
}
