package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Called in a jail, wgjail makes no jail whose tunnel would run through the other
// one, and opens no port where no client is: it says where to call it.
func TestCalledInside(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.up(t)
		other := l.Conf(t, "other")
		before, jail := w.Snapshot(t), inside.Snapshot(t)
		for _, way := range []struct {
			in   []string
			says string
		}{
			{[]string{"nsenter", "--net=/run/netns/vpn"}, "this is inside jail vpn"},
			{[]string{"ip", "netns", "exec", "vpn"}, "this is inside jail vpn"},
			{[]string{"wgjail", "exec", "--keep-caps", "--user", "0", "vpn", "--"}, "this is inside a jail"},
		} {
			for _, command := range [][]string{
				{"up", l.conf}, {"up", other}, {"run", other, "--", "true"}, {"down", "vpn"},
				{"forward", "--jail", "vpn", "8080"}, {"forward", "-d", "--jail", "vpn", "8080"},
				{"forward", "--netns", "/proc/1/ns/net", "8080"}, {"proxy", "--jail", "vpn"},
			} {
				args := append(append(way.in, "wgjail"), command...)
				r := l.runCmd(t, exec.Command(args[0], args[1:]...))
				if r.status != 1 || r.out != "" || !strings.Contains(r.err, way.says+"\n") || !strings.Contains(r.err, "hint: call wgjail on the host") {
					t.Errorf("%s: %+v", strings.Join(args, " "), r)
				}
			}
		}
		l.unchanged(t, before, "all of that")
		if diff := world.Diff(jail, inside.Snapshot(t)); diff != "" {
			t.Errorf("the jail has changed:\n%s", diff)
		}
		// Root without capabilities cannot even look where it is.
		r := l.runCmd(t, exec.Command("wgjail", "exec", "--user", "0", "vpn", "--", "wgjail", "up", other))
		if r.status != 1 || !strings.Contains(r.err, "operation not permitted") || !strings.Contains(r.err, "hint: this root lacks capabilities: call wgjail on the host") {
			t.Errorf("without capabilities: %+v", r)
		}
	})
}
