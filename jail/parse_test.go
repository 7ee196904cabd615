package jail

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
)

const (
	testKey1 = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	testKey2 = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	testKey3 = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	testKey4 = "9fK0/m+3vQz7RrXo2aWcYb1LdEuT8hJkGpNs4iSxV6U="
	zeroKey  = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

func mustKey(s string) wgtypes.Key {
	k, ok := parseKey(s)
	if !ok {
		panic("not a key")
	}
	return k
}

// iface is a good file with extra as its line 4, in [Interface].
func iface(extra string) string {
	return "[Interface]\nPrivateKey = " + testKey1 + "\nAddress = 10.64.0.2/32\n" + extra +
		"\n[Peer]\nPublicKey = " + testKey2 + "\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0\n"
}

// peer is a good file with extra as its line 7, in [Peer].
func peer(extra string) string {
	return "[Interface]\nPrivateKey = " + testKey1 + "\nAddress = 10.64.0.2/32\nDNS = 10.64.0.1\n" +
		"[Peer]\nPublicKey = " + testKey2 + "\n" + extra + "\n"
}

func mustParse(t *testing.T, in string) *Config {
	t.Helper()
	c, err := ParseConfig("vpn.conf", strings.NewReader(in))
	if err != nil {
		t.Fatalf("ParseConfig: %v", err)
	}
	return c
}

func wantConfigError(t *testing.T, in, want string) {
	t.Helper()
	c, err := ParseConfig("vpn.conf", strings.NewReader(in))
	if err == nil {
		t.Fatalf("got %+v, want error with %q", c, want)
	}
	if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "vpn.conf:") {
		t.Errorf("got error %q, want one with %q", err, want)
	}
	if h := hint.Of(err); h == "" || strings.HasSuffix(h, ".") || strings.Contains(h, "%!") {
		t.Errorf("error %q has hint %q", err, h)
	}
}

// acceptExample has everything that wg and wg-quick take.
const acceptExample = `[interface]                       # case, trailing comment
privatekey=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.1.2/32,fc00:bbbb::2/128
Address = 10.9.0.1
DNS = 10.64.0.1, fd00::53, corp.example     # corp.example -> search
FwMark = 0xca6c
ListenPort = 5 1 8 2 0
MTU = 1380
PostUp = iptables -A OUTPUT -m comment --comment "#1" ! -o %i -j REJECT
postup=second
PreDown =	third` + "\r" + `
[PEER]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Preshared Key = 9fK0/m+3vQz7RrXo2aWcYb1LdEuT8hJkGpNs4iSxV6U=
AllowedIPs = 0.0.0.0/0, ::0/0
AllowedIPs = 10.0.0.1/8           # warning: host bits
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = OFF
[Peer]
PublicKey=TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=
Endpoint = vpn.example.com:domain
PersistentKeepalive = 025`

func TestParseConfigAccepts(t *testing.T) {
	prefixes := func(list ...string) (p []netip.Prefix) {
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	want := &Config{
		Name:         "vpn",
		PrivateKey:   NewSecret(mustKey(testKey1)),
		ListenPort:   51820,
		FirewallMark: 0xca6c,
		Addresses:    prefixes("10.64.1.2/32", "fc00:bbbb::2/128", "10.9.0.1/32"),
		DNS:          []netip.Addr{netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("fd00::53")},
		Search:       []string{"corp.example"},
		MTU:          1380,
		Peers: []Peer{{
			PublicKey:    mustKey(testKey2),
			PresharedKey: NewSecret(mustKey(testKey4)),
			Endpoint:     Endpoint{"2001:db8::1", 51820},
			AllowedIPs:   prefixes("0.0.0.0/0", "::/0", "10.0.0.0/8"),
		}, {
			PublicKey: mustKey(testKey3),
			Endpoint:  Endpoint{"vpn.example.com", 53},
			Keepalive: 25 * time.Second,
		}},
		Hooks: Hooks{
			PostUp:  []string{`iptables -A OUTPUT -m comment --comment "#1" ! -o %i -j REJECT`, "second"},
			PreDown: []string{"third"},
		},
		Warnings: []string{
			"vpn.conf:9: PostUp would run a command: ignored unless --allow-hooks is given",
			"vpn.conf:10: PostUp would run a command: ignored unless --allow-hooks is given",
			"vpn.conf:11: PreDown would run a command: ignored unless --allow-hooks is given",
			"vpn.conf:16: AllowedIPs 10.0.0.1/8 has host bits set: 10.0.0.0/8 is used",
		},
	}
	got := mustParse(t, acceptExample)
	if !reflect.DeepEqual(got, want) {
		a, _ := json.MarshalIndent(got, "", " ")
		b, _ := json.MarshalIndent(want, "", " ")
		t.Fatalf("got %s\nwant %s", a, b)
	}
	got.DropHookWarnings()
	if want.Warnings = want.Warnings[3:]; !slices.Equal(got.Warnings, want.Warnings) {
		t.Errorf("without hook warnings: got %q, want %q", got.Warnings, want.Warnings)
	}
}

// Values that wg or wg-quick take and that are easily taken wrongly.
func TestParseConfigValues(t *testing.T) {
	for _, tt := range []struct {
		in   string
		got  func(c *Config) any
		want string
	}{
		{iface("ListenPort = 010"), func(c *Config) any { return c.ListenPort }, "10"},
		{iface("ListenPort = +5"), func(c *Config) any { return c.ListenPort }, "5"},
		{iface("ListenPort = domain"), func(c *Config) any { return c.ListenPort }, "53"},
		{iface("FwMark = 010"), func(c *Config) any { return c.FirewallMark }, "10"},
		{iface("FwMark = 0xFFFFFFFF"), func(c *Config) any { return uint32(c.FirewallMark) }, "4294967295"},
		{iface("FwMark = 5\nFwMark = oFF"), func(c *Config) any { return c.FirewallMark }, "0"},
		{iface("MTU = 1420\nMTU="), func(c *Config) any { return c.MTU }, "0"},
		{iface("MTU = 1200"), func(c *Config) any { return c.MTU }, "1200"},
		{iface("Address = 10.0.0.2/255.255.240.0 ,, fd00::2/064,"), func(c *Config) any { return c.Addresses }, "[10.64.0.2/32 10.0.0.2/20 fd00::2/64]"},
		{iface("DNS = 1.1.1.1,2.2.2.2 3.3.3.3\t4.4.4.4, "), func(c *Config) any { return c.DNS }, "[1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4]"},
		{iface("DNS = 1.1.1.1, lan. _tcp.example 4.example"), func(c *Config) any { return c.Search }, "[lan. _tcp.example 4.example]"},
		{iface("DNS = fe80::1%vpn"), func(c *Config) any { return c.DNS }, "[fe80::1%vpn]"},
		{iface("DNS = corp.example"), func(c *Config) any { return c.Search }, "[]"},
		{peer("AllowedIPs = 10.0.0.0/08, ::ffff:1.2.3.4/128, fd00::1"), func(c *Config) any { return c.Peers[0].AllowedIPs }, "[10.0.0.0/8 ::ffff:1.2.3.4/128 fd00::1/128]"},
		{peer("AllowedIPs = 10.0.0.0/8\nAllowedIPs = 10.0.0.0/8"), func(c *Config) any { return c.Peers[0].AllowedIPs }, "[10.0.0.0/8 10.0.0.0/8]"},
		{peer("Endpoint = [1.2.3.4]:5"), func(c *Config) any { return c.Peers[0].Endpoint }, "1.2.3.4:5"},
		{peer("Endpoint = [localhost]:+5"), func(c *Config) any { return c.Peers[0].Endpoint }, "localhost:5"},
		{peer("Endpoint = [fe80::1%lo]:5"), func(c *Config) any { return c.Peers[0].Endpoint }, "[fe80::1%lo]:5"},
		{peer("Endpoint = 1.2.3.4:5\nEndpoint = Vpn.Example.COM.:6"), func(c *Config) any { return c.Peers[0].Endpoint }, "Vpn.Example.COM.:6"},
		{peer("PresharedKey = " + testKey3 + "\nPresharedKey = " + zeroKey), func(c *Config) any { return c.Peers[0].PresharedKey }, "(none)"},
		{peer("PersistentKeepalive = 65535"), func(c *Config) any { return c.Peers[0].Keepalive }, "18h12m15s"},
		{peer("") + "[Interface]\nPrivateKey = " + testKey3, func(c *Config) any { return c.PrivateKey.Key() }, testKey3},
		{strings.ReplaceAll(peer("Endpoint=a:1"), "\n", "\r\n"), func(c *Config) any { return c.Peers[0].Endpoint }, "a:1"},
		{iface("PreUp = a # b = c"), func(c *Config) any { return c.Hooks.PreUp }, "[a # b = c]"},
		{iface("PostDown = # only a comment"), func(c *Config) any { return c.Hooks.PostDown }, "[# only a comment]"},
	} {
		c, err := ParseConfig("vpn.conf", strings.NewReader(tt.in))
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if got := fmt.Sprint(tt.got(c)); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

// A default route in pieces is one: no warning.
func TestParseConfigDefaultRoute(t *testing.T) {
	for _, list := range []string{"0.0.0.0/0", "::/0", "0.0.0.0/0,::/0", "0.0.0.0/1, 128.0.0.0/1", "::/1, 8000::/1", "10.0.0.0/8, 1.2.3.4/0"} {
		for _, w := range mustParse(t, peer("Endpoint = a:1\nAllowedIPs = "+list)).Warnings {
			if strings.Contains(w, "reaches") {
				t.Errorf("%s: got warning %q", list, w)
			}
		}
	}
}

func TestParseConfigNames(t *testing.T) {
	for name, want := range map[string]string{
		"vpn.conf": "vpn", "vpn": "vpn", "/etc/wireguard/se-got_1+2=3.conf": "se-got_1+2=3",
		"./123456789012345.conf": "123456789012345", "a.conf.conf": "a.conf",
	} {
		c, err := ParseConfig(name, strings.NewReader(iface("Table = off")))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Name != want {
			t.Errorf("%s: got name %q, want %q", name, c.Name, want)
		}
		if !strings.HasPrefix(c.Warnings[0], name+":4: ") {
			t.Errorf("%s: got warning %q", name, c.Warnings[0])
		}
	}
	for _, name := range []string{"", ".conf", "1234567890123456.conf", "a b.conf", "-a.conf", ".a.conf", "..", "/", "lo.conf", "all", "default.conf", "a:b", "ä"} {
		c, err := ParseConfig(name, strings.NewReader(iface("")))
		if err == nil || hint.Of(err) == "" || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%q: got %v and error %v with hint %q", name, c, err, hint.Of(err))
		}
	}
}
