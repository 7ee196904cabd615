package jail

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func prefixes(list string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range strings.Fields(list) {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestRoutesFor(t *testing.T) {
	const v4, v6 = "10.0.0.2/32 ", "fd00::2/128 "
	for _, tt := range []struct{ name, addresses, allowed, want string }{
		{"both families", v4 + v6, "0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"},
		{"halves are a default route", v4 + v6, "0.0.0.0/1 128.0.0.0/1 ::/1 8000::/1", "0.0.0.0/0 ::/0"},
		{"quarters too", v4, "0.0.0.0/2 64.0.0.0/2 128.0.0.0/1", "0.0.0.0/0"},
		{"a default route covers the rest", v4, "10.0.0.0/8 0.0.0.0/0 192.168.0.0/16", "0.0.0.0/0"},
		{"one half is no default route", v4, "0.0.0.0/1", "0.0.0.0/1"},
		{"no address, no routes", v4, "0.0.0.0/0 ::/0", "0.0.0.0/0"},
		{"no IPv4 address, no IPv4 routes", v6, "0.0.0.0/0 ::/0", "::/0"},
		{"part of a family", v4, "10.8.0.0/24 10.8.0.0/24 10.0.0.0/8", "10.0.0.0/8 10.8.0.0/24"},
		{"siblings join only their parent", v4, "10.0.0.0/9 10.128.0.0/9", "10.0.0.0/9 10.128.0.0/9"},
		{"nothing", v4 + v6, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The same prefixes from two peers: routes have no duplicates.
			peers := []Peer{{AllowedIPs: prefixes(tt.allowed)}, {AllowedIPs: prefixes(tt.allowed)}}
			got := routesFor(prefixes(tt.addresses), peers)
			if !reflect.DeepEqual(got, prefixes(tt.want)) {
				t.Errorf("routes %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRoutesForManyPrefixes(t *testing.T) {
	var all []netip.Prefix
	for i := range 1 << 16 { // together 10.0.0.0/8
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)))
	}
	if got := routesFor(prefixes("10.0.0.1/32"), []Peer{{AllowedIPs: all}}); len(got) != len(all) {
		t.Errorf("%d routes, want %d", len(got), len(all))
	}
}

func TestStandIns(t *testing.T) {
	for _, tt := range []struct {
		addresses string
		want      []netip.Prefix
	}{
		{"10.0.0.2/32 fd00::2/128", nil},
		{"10.0.0.2/32", []netip.Prefix{standInIPv6}},
		{"fd00::2/128", []netip.Prefix{standInIPv4}},
	} {
		if got := standIns(prefixes(tt.addresses)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("standIns(%s) = %v, want %v", tt.addresses, got, tt.want)
		}
	}
	for _, p := range []netip.Prefix{standInIPv4, standInIPv6} {
		if p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			t.Errorf("%v would be taken for local", p)
		}
	}
}
