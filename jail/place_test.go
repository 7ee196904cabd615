package jail

import (
	"net/netip"
	"testing"
)

func TestWithinLAN(t *testing.T) {
	for a, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "172.16.0.1": true, "172.31.255.1": true, "172.32.0.1": false,
		"192.168.7.7": true, "169.254.1.1": true, "8.8.8.8": false, "100.64.0.1": false,
		"::1": true, "fd12::1": true, "fe80::1": true, "2001:db8::1": false,
	} {
		addr := netip.MustParseAddr(a)
		if got := within(netip.PrefixFrom(addr, addr.BitLen()), lanAlways); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}

func TestForwardIDsDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, spec := range []string{"8080", "8080/udp", "127.0.0.1:8080", "[::1]:8080", "8080-8090", "[fe80::1%eth0]:8080"} {
		s, err := ParseForward(spec)
		if err != nil {
			t.Fatal(err)
		}
		id := forwardID(s)
		for _, r := range id {
			if r == '/' || r == ' ' || r == '[' {
				t.Errorf("%s: ID %q is no plain file name", spec, id)
			}
		}
		if other := seen[id]; other != "" {
			t.Errorf("%s and %s share the ID %q", spec, other, id)
		}
		seen[id] = spec
	}
}

func TestRegisterNamesOfNamespacesAreNoJails(t *testing.T) {
	a, b := Place{Path: "/run/netns/a"}.register(), Place{Path: "/run/netns/b"}.register()
	if a == b {
		t.Errorf("two namespaces share the name %s", a)
	}
	if CheckName(a) == nil {
		t.Errorf("%s could be a jail", a)
	}
}
