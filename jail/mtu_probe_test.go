package jail

import (
	"net/netip"
	"slices"
	"testing"
)

// Whatever the path lets through, it is found to 16 bytes, with few packets.
func TestWidest(t *testing.T) {
	for _, most := range []int{1280, 1281, 1296, 1420, 1440, 8920, 65535} {
		for _, least := range []int{576, 1280} {
			for path := least; path <= most; path += 1 + (most-least)/500 {
				asked, rounds := 0, 0
				got := widest(least, most, func(sizes []int) int {
					asked, rounds = asked+len(sizes), rounds+1
					if !slices.IsSorted(sizes) || len(sizes) > echoBurst || sizes[0] <= least || sizes[len(sizes)-1] >= most {
						t.Fatalf("from %d to %d it asks %v", least, most, sizes)
					}
					best := 0
					for _, s := range sizes {
						if s <= path {
							best = s
						}
					}
					return best
				})
				if got > path || got <= path-echoGrain && got+echoGrain < most {
					t.Fatalf("from %d to %d, where %d passes, it found %d", least, most, path, got)
				}
				if rounds > 5 {
					t.Errorf("from %d to %d it asked %d times, %d packets", least, most, rounds, asked)
				}
			}
		}
	}
	if got := widest(1420, 1420, nil); got != 1420 { // nothing to ask
		t.Errorf("where the MTU passes it found %d", got)
	}
}

func TestEchoTargets(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	all := prefixes("0.0.0.0/0", "::/0")
	for _, tt := range []struct {
		what      string
		addresses []netip.Prefix
		dns       []netip.Addr
		routes    []netip.Prefix
		want      []netip.Addr
	}{
		{"provider", prefixes("10.64.0.2/32", "fd64::2/128"), addrs("10.64.0.1"), all, addrs("10.64.0.1", "fd64::1")},
		{"no DNS", prefixes("10.2.3.4/32"), nil, all, addrs("10.2.3.1")},
		{"network", prefixes("10.2.3.4/16", "fd64::5/48"), nil, all, addrs("10.2.0.1", "fd64::1")},
		{"server itself", prefixes("10.2.3.1/24"), nil, all, nil},
		{"not routed", prefixes("10.2.3.4/32"), addrs("9.9.9.9", "10.2.3.1"), prefixes("10.0.0.0/8"), addrs("10.2.3.1")},
		{"many", prefixes("10.2.3.4/32"), addrs("1.1.1.1", "1.0.0.1", "9.9.9.9", "8.8.8.8", "8.8.4.4"), all, addrs("1.1.1.1", "1.0.0.1", "9.9.9.9", "8.8.8.8")},
	} {
		s := &state{Addresses: tt.addresses, DNS: tt.dns, Routes: tt.routes}
		if got := s.echoTargets(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}

// RFC 1071, section 3.
func TestChecksum(t *testing.T) {
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("%#x", got)
	}
	if got := checksum([]byte{0x12, 0x34, 0x56}); got != ^uint16(0x6834) {
		t.Errorf("%#x", got)
	}
}
