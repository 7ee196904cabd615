package jail

import (
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

const plainConf = `[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.0.2/32, fd64::2/128
DNS = 10.64.0.1
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0
Endpoint = 192.0.2.1:51820
`

// Whatever is wrong in a configuration, there is a way out: each row spoils a
// plain one and says what its reader is told.
func TestConfigHints(t *testing.T) {
	const zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, c := range []struct{ old, new, want string }{
		{plainConf, "", "save the provider's file again"},
		{"[Interface]\n", "", "move it below the line [Interface]"},
		{"PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", "", "add the PrivateKey line of the provider's file"},
		{"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", zero, "put in the key that the provider gave"},
		{"Address = 10.64.0.2/32, fd64::2/128\n", "", "add the Address line of the provider's file"},
		{plainConf[strings.Index(plainConf, "[Peer]"):], "", "add the server's [Peer] section of the provider's file"},
		{"DNS =", "MTU = 600\nDNS =", "raise MTU to 1280, or remove the IPv6 Address"},
		{"DNS =", "DNS\x00 =", "this is no plain text, or text saved as UTF-16: save it as UTF-8"},
		{"DNS =", "\x01DNS =", "remove it, or save the provider's file again"},
		{"[Peer]", "[Pear]", "sections are [Interface] and [Peer]"},
		{"[Peer]", "[Peer", "sections are [Interface] and [Peer]"},
		{"PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n", "", "add the PublicKey line of the provider's file, or remove the section"},
		{"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", zero, "put in the key that the provider gave for this peer"},
		{"Endpoint = 192.0.2.1:51820\n", "[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n", "join both [Peer] sections into one"},
		{"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "short", keyHint},
		{"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "short", keyHint},
		{"AllowedIPs", "PresharedKey = short\nAllowedIPs", keyHint + "; remove the line if there is none"},
		{"DNS =", "ListenPort = 70000\nDNS =", portHint},
		{"DNS =", "FwMark = blue\nDNS =", "write off, a number up to 4294967295, or one in hexadecimal such as 0xca6c"},
		{"AllowedIPs", "PersistentKeepalive = 25s\nAllowedIPs", "write off or a number from 0 to 65535 without a unit, such as 25"},
		{"0.0.0.0/0", "0.0.0.0/0,", "write it as in AllowedIPs = 0.0.0.0/0, ::/0"},
		{"0.0.0.0/0", "+0.0.0.0/0", "write all networks of the peer without + or -"},
		{"0.0.0.0/0", "everything", "write networks with commas between them, as in AllowedIPs = 0.0.0.0/0, ::/0"},
		{"192.0.2.1:51820", "192.0.2:51820", "write four decimal numbers without leading zeros, an IPv6 address in brackets, or a name, then : and the port"},
		{"192.0.2.1:51820", "192.0.2.1", "write host:port; WireGuard's usual port is 51820"},
		{"192.0.2.1:51820", "[2001:db8::1:51820", "write [address]:port"},
		{"192.0.2.1:51820", "[2001:db8::1]51820", "write [address]:port"},
		{"192.0.2.1:51820", "[2001:db8::1%eth0]:51820", "write the address without % and what follows"},
		{"192.0.2.1:51820", "192.0.2.1:http", portHint},
		{"10.64.0.2/32, fd64::2/128", "10.64.0.2/33", "write addresses with commas between them, as in Address = 10.64.1.2/32, fd00::2/128"},
		{"10.64.0.2/32, fd64::2/128", "", "write the address that the provider gave, as in Address = 10.64.1.2/32"},
		{"DNS = 10.64.0.1", "DNS = 10.64.0.1:53", "write servers by their addresses, without a port, as in DNS = 10.64.0.1, fd00::53"},
		{"DNS = 10.64.0.1", "DNS = fe80::1%eth0", "the only interface that leads out of this jail is vpn: write the address without %"},
		{"DNS = 10.64.0.1", "DNS = ~.", "remove it: it is for systemd-resolved, and in a jail all names go to the jail's servers anyway"},
		{"DNS = 10.64.0.1", "DNS = 10.64.0.1, -", "write servers by their addresses and search domains by their names, as in DNS = 10.64.0.1, corp.example"},
		{"DNS =", "MTU = large\nDNS =", "write the provider's number, or remove the line: then it is found out"},
		{"DNS =", "SaveConfig = maybe\nDNS =", "remove the line: it has no effect in a jail"},
		{"[Interface]", "\ufeff[Interface]", "save it as UTF-8 without one"},
		{"DNS =", "; servers\nDNS =", "begin it with #"},
		{"DNS =", "DNS\u00a0=", "type it anew: spaces and quotes copied from a web page or a document are not what they look like"},
		{"DNS = 10.64.0.1", "DN\rS = 10.64.0.1", "save the file with the line endings of Unix or Windows"},
		{"DNS =", "D NS =", "write DNS = …"},
		{"DNS =", "DNS:", "write DNS = …"},
		{"DNS =", "hello world\nDNS =", "settings are written as Name = value, comments begin with #; if this is the rest of the line above, join them"},
		{"DNS =", "Jc = 4\nDNS =", "get a plain WireGuard file from the provider: this one's server speaks another protocol"},
		{"DNS =", "Adress = 10.0.0.1\nDNS =", "is Address meant?"},
		{"DNS =", "Colour = blue\nDNS =", "remove the line, or begin it with #: wg-quick would refuse it too"},
		{"AllowedIPs", "MTU = 1400\nAllowedIPs", "move it below the line [Interface]"},
		{"AllowedIPs = 0.0.0.0/0", "AllowedIPs =", "write AllowedIPs = and the value, or remove the line"},
		{"[Interface]\n", "[ Interface ]\n", "write [Interface] without spaces"},
		{plainConf, strings.Repeat("#\n", maxConfigSize), "a WireGuard configuration is a page of text: check that this is the right file"},
	} {
		text := strings.Replace(plainConf, c.old, c.new, 1)
		if text == plainConf {
			t.Errorf("%q changes nothing", c.old)
		}
		_, err := ParseConfig("vpn.conf", strings.NewReader(text))
		if got := hint.Of(err); got != c.want {
			t.Errorf("%.40q instead of %.40q: %v\n got hint %s\nwant hint %s", c.new, c.old, err, got, c.want)
		}
	}
}

// Whatever is wrong in a SPEC, there is a way out.
func TestForwardSpecHints(t *testing.T) {
	for spec, want := range map[string]string{
		"80:127.0.0.1":      "a target is a port in the jail: give another address in it with --to",
		"80-82:90-91":       "make both ranges equally long",
		"80/sctp":           "end it with /tcp or /udp, or with neither for tcp",
		"::1:80:81":         "put an IPv6 address in brackets, as in [::1]:8080; else " + forwardForm,
		"localhost:80":      "use 127.0.0.1, or [::1] for IPv6",
		"example.com:80:80": "give the IP address to listen on, no name; else " + forwardForm,
		"[::1:80":           "write it as in [::1]:8080",
		"[x]:80":            "write it as in [::1]:8080, with a zone only if it is link-local, as in [fe80::1%eth0]:8080",
		"[::1]":             "write it as in [::1]:8080",
		"90-80":             "write it as 80-90",
		"127.0.0.1:":        forwardForm,
		"+80":               "ports are numbers from 1 to 65535, without sign or space; " + forwardForm,
		":80:80":            "leave it out, with its colon, to listen on all addresses; else " + forwardForm,
	} {
		_, err := ParseForward(spec)
		if got := hint.Of(err); got != want {
			t.Errorf("%q: %v\n got hint %s\nwant hint %s", spec, err, got, want)
		}
	}
}
