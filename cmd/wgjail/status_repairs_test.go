package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Whoever watches sees what the keeper notices and does, as it does it.
func TestStatusWatchShowsRepairs(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		chatter(t, inside)
		table := l.start(t, "status", "--watch")
		array := l.start(t, "status", "--watch", "--json", "vpn")
		shown := func(what string) {
			t.Helper()
			table.WaitOutput(t, " ago: "+what)
			array.WaitOutput(t, `"what": "`+what+`"`)
		}
		table.WaitOutput(t, "10.64.0.2/32")
		array.WaitOutput(t, `"state": "up"`)

		l.move(t, world.EndpointsV4[1])
		shown("the tunnel goes on at " + world.EndpointsV4[1] + ":51820")

		l.Host.Run(t, "ip", "route", "add", world.EndpointsV4[1], "dev", "wan0", "src", "192.168.77.1")
		l.Inet.Run(t, "ip", "route", "replace", "192.168.77.0/24", "via", world.HostV4)
		shown("the host reaches " + world.EndpointsV4[1] + " from 192.168.77.1 now")

		l.narrow(t, outer+1350)
		shown("the path loses packets of more than 1344 bytes; MTU lowered from 1420 to 1344")
		table.WaitOutput(t, "MTU 1344")
		array.WaitOutput(t, `"mtu": 1344`)
		l.narrow(t, 0)

		l.Provider.Blackhole(true)
		array.WaitOutput(t, `"state": "stale"`)
		table.WaitOutput(t, "stale\n")
		l.Provider.Blackhole(false)
		shown("the tunnel answers again")

		for _, p := range []*world.Process{table, array} {
			p.Signal(t, syscall.SIGINT)
			if err := p.Wait(); err != nil {
				t.Errorf("after Ctrl-C: %v", err)
			}
		}
		for pages := json.NewDecoder(strings.NewReader(array.Output())); pages.More(); {
			var page json.RawMessage
			if err := pages.Decode(&page); err != nil {
				t.Fatal(err)
			}
			checkContract(t, string(page))
		}
	})
}
