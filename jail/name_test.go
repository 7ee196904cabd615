package jail

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, good := range []string{"vpn", "a", "wg0", "de-1.example", "A_=+.-b", "123456789012345"} {
		if err := CheckName(good); err != nil {
			t.Errorf("CheckName(%q): %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", ".vpn", "-n", "a b", "a/b", "../x", "1234567890123456", "ü", "$(id)", "a\nb", "a\x00", "*", "lo", "all", "default"} {
		if err := CheckName(bad); err == nil {
			t.Errorf("CheckName(%q): accepted", bad)
		}
	}
}

func TestTemporaryLinkIsAnInterfaceName(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "b", "vpn", "VPN", strings.Repeat("x", 15)} {
		link := temporaryLink(name)
		if len(link) > 15 || CheckName(link) != nil {
			t.Errorf("temporaryLink(%q) = %q", name, link)
		}
		if other := seen[link]; other != "" {
			t.Errorf("%q and %q share %q", name, other, link)
		}
		seen[link] = name
	}
}
