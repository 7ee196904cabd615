package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
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

func TestParseConfigRejects(t *testing.T) {
	for _, tt := range []struct{ in, wantErr string }{
		{iface("; comment"), `vpn.conf:4: ; does not begin a comment`},
		{iface("ListenPort="), `vpn.conf:4: ListenPort has no value`},
		{iface("ListenPort= # 5"), `vpn.conf:4: ListenPort has no value`},
		{iface("ListenPort"), `vpn.conf:4: ListenPort has no value`},
		{iface("ListenPort: 5"), `vpn.conf:4: ListenPort is followed by a colon`},
		{iface("ListenPort==5"), `vpn.conf:4: ListenPort "=5" is no port`},
		{iface("ListenPort = off"), `ListenPort "off" is no port`},
		{iface("ListenPort = -1"), `ListenPort "-1" is no port`},
		{iface("ListenPort = 0x10"), `ListenPort "0x10" is no port`},
		{iface("ListenPort =\u00a05"), `is no port`},
		{iface("PrivateKey = (none)"), `vpn.conf:4: PrivateKey is not a key`},
		{iface("PrivateKey = " + testKey1[:43]), `vpn.conf:4: PrivateKey is not a key`},
		{iface("PrivateKey = " + strings.ReplaceAll(testKey1, "+", "-")), `vpn.conf:4: PrivateKey is not a key`},
		{iface("PrivateKey = " + testKey1[:42] + "l="), `vpn.conf:4: PrivateKey is not a key`},
		{iface("PrivateKey = " + testKey1[:10] + "#" + testKey1[10:]), `vpn.conf:4: PrivateKey is not a key`},
		{iface("[Foo]"), `vpn.conf:4: the section [Foo] is unknown`},
		{iface("[Interface"), `vpn.conf:4: the section [Interface] is unknown`},
		{iface("[Interface] = x"), `vpn.conf:4: the line is no section`},
		{iface("PublicKey = " + testKey2), `vpn.conf:4: PublicKey is in [Interface]`},
		{iface("Foo = bar"), `vpn.conf:4: the setting Foo is unknown`},
		{iface("Jc = 4"), `vpn.conf:4: Jc is a setting of AmneziaWG`},
		{iface("SaveConfig = yes"), `vpn.conf:4: SaveConfig "yes" is neither true nor false`},
		{iface("SaveConfig ="), `SaveConfig is neither true nor false`},
		{iface("FwMark = 0XCA6C"), `vpn.conf:4: FwMark "0XCA6C" is no mark`},
		{iface("FwMark = 0x"), `FwMark "0x" is no mark`},
		{iface("FwMark = 4294967296"), `FwMark "4294967296" is no mark`},
		{iface("FwMark = 1/2"), `FwMark "1/2" is no mark`},
		{iface("Ad dress = 10.0.0.1"), `vpn.conf:4: Address is written with a space in it`},
		{iface("[ Interface ]\nAddress = 10.0.0.1"), `vpn.conf:5: Address is in a section that wg-quick does not take for [Interface]`},
		{"\ufeff" + iface(""), `vpn.conf:1: the file begins with a byte order mark`},
		{iface("\u00a0ListenPort = 5"), `vpn.conf:4: the line is no setting, and has a character outside ASCII`},
		{iface("what is this"), `vpn.conf:4: the line is no section, no setting and no comment`},
		{strings.ReplaceAll("# c\n"+iface(""), "\n", "\r")[4:], `vpn.conf:1: the line is no section`},
		{iface("ListenPort=5\\"), `is no port`},
		{"ListenPort = 5\n" + iface(""), `vpn.conf:1: ListenPort is before the first section`},
		{peer("DNS = 1.1.1.1"), `vpn.conf:7: DNS is in [Peer]`},
		{peer("[Peer]\nAllowedIPs = ::/0"), `vpn.conf:7: this [Peer] has no PublicKey`},
		{peer("[Peer]\nAllowedIPs = ::/0\n[Peer]\nFoo=bar"), `vpn.conf:7: this [Peer] has no PublicKey`},
		{peer("PresharedKey = (none)"), `vpn.conf:7: PresharedKey is not a key`},
		{peer("AllowedIPs = "), `vpn.conf:7: AllowedIPs has no value`},
		{peer("AllowedIPs = 10.0.0.1/32,"), `vpn.conf:7: AllowedIPs has a comma too many`},
		{peer("AllowedIPs = 10.0.0.1/33"), `vpn.conf:7: AllowedIPs "10.0.0.1/33": the length is greater than 32`},
		{peer("AllowedIPs = ::/129"), `AllowedIPs "::/129": the length is greater than 128`},
		{peer("AllowedIPs = 10.0.0.0/255.0.0.0"), `AllowedIPs "10.0.0.0/255.0.0.0": what follows / is no length`},
		{peer("AllowedIPs = 10.0.0.0/"), `what follows / is no length`},
		{peer("AllowedIPs = 10.0.0.0/+8"), `what follows / is no length`},
		{peer("AllowedIPs = 10.0.0.0/99999999999999999999"), `the length is greater than 32`},
		{peer("AllowedIPs = 010.0.0.1/32"), `AllowedIPs "010.0.0.1/32": this is no IP address`},
		{peer("AllowedIPs = 10/8"), `AllowedIPs "10/8": this is no IP address`},
		{peer("AllowedIPs = fe80::1%lo/128"), `this is no IP address`},
		{peer("AllowedIPs = 10.0.0.1/32 10.0.0.2/32"), `what follows / is no length`},
		{peer("Endpoint = 1.2.3.4"), `vpn.conf:7: Endpoint "1.2.3.4": there is no port`},
		{peer("Endpoint = 1.2.3.4:"), `there is no port`},
		{peer("Endpoint = [::1]51820"), `Endpoint "[::1]51820": no : and port follow the bracket`},
		{peer("Endpoint = [::1:51820"), `Endpoint "[::1:51820": the bracket is not closed`},
		{peer("Endpoint = [2001:db8::1%lo]:5"), `a zone belongs to a link-local address only`},
		{peer("Endpoint = :51820"), `the host is neither`},
		{peer("Endpoint = 256.1.1.1:51820"), `the host is neither`},
		{peer("Endpoint = a:1,b:2"), `the host is neither`},
		{peer("Endpoint = udp://a:1"), `the host is neither`},
		{peer("Endpoint = vpn.example.com:wireguard"), `Endpoint "vpn.example.com:wireguard": what follows the last colon is no port`},
		{peer("PersistentKeepalive = 25s"), `vpn.conf:7: PersistentKeepalive "25s" is no number of seconds`},
		{peer("PersistentKeepalive = 65536"), `PersistentKeepalive "65536" is no number of seconds`},
		{peer("PersistentKeepalive = +5"), `is no number of seconds`},
	} {
		t.Run(tt.wantErr, func(t *testing.T) { wantConfigError(t, tt.in, tt.wantErr) })
	}
}

func TestParseConfigHints(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{iface("PrivatKey = " + testKey1), "is PrivateKey meant?"},
		{peer("AllowedIP = ::/0"), "is AllowedIPs meant?"},
		{peer("PreSharedKeys = " + testKey1), "is PresharedKey meant?"},
		{peer("DNS = 1.1.1.1"), "move it below the line [Interface]"},
		{iface("Jc = 4"), "plain WireGuard file"},
		{"I\x00n\x00", "UTF-16"},
	} {
		_, err := ParseConfig("vpn.conf", strings.NewReader(tt.in))
		if got := hint.Of(err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: got hint %q, want one with %q", err, got, tt.want)
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
		if err == nil || hint.Of(err) == "" {
			t.Errorf("%q: got %v and error %v with hint %q", name, c, err, hint.Of(err))
		}
	}
}

func TestParseConfigReader(t *testing.T) {
	broken := errors.New("broken")
	if _, err := ParseConfig("vpn.conf", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
	if _, err := ParseConfig("vpn.conf", iotest.OneByteReader(strings.NewReader(iface("")))); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
	wantLarge := strings.Repeat("#", maxConfigSize-len(iface(""))) + "\n" + iface("")
	_, err := ParseConfig("vpn.conf", strings.NewReader(wantLarge))
	if err == nil || !strings.Contains(err.Error(), "vpn.conf: larger than 16 MiB") || hint.Of(err) == "" {
		t.Errorf("17 MiB: got error %v", err)
	}
	if _, err := ParseConfig("vpn.conf", strings.NewReader(wantLarge[1:])); err != nil {
		t.Errorf("16 MiB: %v", err)
	}
}

// bigConfig has n AllowedIPs lines of two networks each, as the kernel's own
// test has.
func bigConfig(n int) string {
	var b strings.Builder
	b.WriteString(peer("Endpoint = 192.0.2.1:1"))
	for i := range n {
		fmt.Fprintf(&b, "AllowedIPs = %d.%d.0.0/16, %x:%x::/32 # %d\n", i>>8&255, i&255, i>>16+1, i&0xffff, i)
	}
	return b.String()
}

func TestParseConfigBig(t *testing.T) {
	const n = 65280
	c := mustParse(t, bigConfig(n))
	list := c.Peers[0].AllowedIPs
	if len(list) != 2*n {
		t.Fatalf("got %d AllowedIPs, want %d", len(list), 2*n)
	}
	if got, want := fmt.Sprint(list[2*n-2:]), "[254.255.0.0/16 1:feff::/32]"; got != want {
		t.Errorf("got last %s, want %s", got, want)
	}
}

// Warnings of one kind stay few, however many lines cause them.
func TestParseConfigWarningsStayFew(t *testing.T) {
	c := mustParse(t, peer(strings.Repeat("AllowedIPs = 10.0.0.1/8\n", 1000)))
	if len(c.Warnings) > 10 {
		t.Errorf("got %d warnings: %q", len(c.Warnings), c.Warnings[:10])
	}
	if got, want := c.Warnings[len(c.Warnings)-1], "vpn.conf: 995 more warnings of these kinds"; got != want {
		t.Errorf("got last warning %q, want %q", got, want)
	}
}

// Four times the input, four times the allocations, and the log of lists that
// grow: this needs no clock. BenchmarkParseConfig has one.
func TestParseConfigIsLinear(t *testing.T) {
	allocations := func(in string) float64 {
		return testing.AllocsPerRun(1, func() { mustParse(t, in) })
	}
	for name, in := range map[string]func(n int) string{
		"AllowedIPs": bigConfig,
		"Address":    func(n int) string { return iface("Address = " + strings.Repeat("10.0.0.1,", n)) },
		"DNS":        func(n int) string { return iface("DNS = " + strings.Repeat("1.1.1.1,corp ", n)) },
		"Peers": func(n int) string {
			var b strings.Builder
			b.WriteString(peer("AllowedIPs = ::/0"))
			for i := range n {
				fmt.Fprintf(&b, "[Peer]\nPublicKey = %s\nAllowedIPs = ::/0\n", wgtypes.Key{byte(i), byte(i >> 8), 1})
			}
			return b.String()
		},
	} {
		small, large := allocations(in(2000)), allocations(in(8000))
		if large > 4.5*small+100 {
			t.Errorf("%s: %v allocations for 2000, %v for 8000", name, small, large)
		}
	}
}

func BenchmarkParseConfig(b *testing.B) {
	in := bigConfig(65280)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := ParseConfig("vpn.conf", strings.NewReader(in)); err != nil {
			b.Fatal(err)
		}
	}
}
