package jail

import (
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

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
		{iface(testKey3), `vpn.conf:4: the line is no known setting (not shown: it may hold a key)`},
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
