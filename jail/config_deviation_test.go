package jail

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A deviation is one way in which the parser differs from wg(8) and
// wg-quick(8) on purpose. Any other difference fails the tests.
type deviation struct {
	reason string
	// ours is in the error of the parser, where wg accepts.
	ours *regexp.Regexp
	// theirs is in the message of wg, where the parser accepts.
	theirs *regexp.Regexp
	// holds, if set, further says whether this is the case meant, by the line
	// in question or by wg's message.
	holds func(line string) bool
}

var configDeviations = []deviation{
	{
		reason: "1. wg takes ports modulo 65536, and * for none; names of services that nobody gives to a tunnel are left out",
		ours:   regexp.MustCompile(`is no port$`),
		holds:  strangePort,
	},
	{
		reason: "2. wg completes short IPv4 addresses and reads leading zeros as octal",
		ours:   regexp.MustCompile(`neither a complete IP address nor a domain name$`),
		holds: func(line string) bool {
			value := strings.TrimPrefix(strings.ToLower(cleanLine(line)), "endpoint=")
			host := strings.Trim(value[:max(strings.LastIndex(value, ":"), 0)], "[]")
			return host == "*" || strings.Trim(host, "0123456789abcdefx.") == ""
		},
	},
	{
		reason: "3. wg ends a line at NUL and bash drops NUL; other control characters are never meant",
		ours:   regexp.MustCompile(`NUL byte|control character`),
		holds: func(line string) bool {
			return strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f })
		},
	},
	{
		reason: "4. wg takes a key of zeros, with which no tunnel works",
		ours:   regexp.MustCompile(`all zeros`),
		holds:  func(line string) bool { return strings.Contains(cleanLine(line), strings.Repeat("A", 43)+"=") },
	},
	{
		reason: "5. wg sends a peer twice and loses the first one's AllowedIPs",
		ours:   regexp.MustCompile(`PublicKey is the same as in line`),
	},
	{
		reason: "8. wg-quick hands anything to ip(8) and resolvconf(8), which fail later",
		ours:   regexp.MustCompile(`: (Address|DNS|MTU)`),
	},
	{
		reason: "wg-quick takes the name of its own key for the value if there is no =",
		ours:   regexp.MustCompile(`has no value$`),
		holds:  func(line string) bool { text, _, _ := strings.Cut(line, "#"); return !strings.Contains(text, "=") },
	},
	{
		reason: "+ and - in AllowedIPs (wg since 1.0.20250521) change a running tunnel",
		ours:   regexp.MustCompile(`\+ and - change the list`),
	},
	{
		reason: "the parser looks up neither names nor zones: up does",
		theirs: regexp.MustCompile("not known: `|name resolution: `|failure in name resolution|No address associated"),
		holds: func(message string) bool {
			_, value, _ := strings.Cut(message, "`")
			host, _, _, err := splitEndpoint(strings.TrimSuffix(strings.SplitN(value, "'", 2)[0], "'"))
			addr, bad := netip.ParseAddr(host)
			return err == nil && (bad != nil || addr.Zone() != "")
		},
	},
}

// strangePort reports whether the port in line is no plain number up to 65535.
func strangePort(line string) bool {
	clean := cleanLine(line)
	port := clean[max(strings.LastIndexAny(clean, ":="), 0)+1:]
	n, err := strconv.ParseUint(strings.TrimPrefix(port, "+"), 10, 64)
	return err != nil || n > 65535
}

func cleanLine(line string) string {
	text, _, _ := strings.Cut(line, "#")
	return newConfigParser("").clean(text)
}

// disagreement compares the parser, short of what it knows about jails, with
// wg's verdict on the same text. It returns "" if they agree or differ on
// purpose.
func disagreement(text string, wg wgVerdict) string {
	p := newConfigParser("vpn.conf")
	err := p.parse(text)
	switch {
	case err == nil && wg.accepted:
		if got := uapiOf(&p.cfg); !slices.Equal(got, wg.uapi) {
			return fmt.Sprintf("meaning:\n got %s\nwant %s", got, wg.uapi)
		}
	case err != nil && wg.accepted:
		if deviationOfOurs(text, err) == nil {
			return fmt.Sprintf("wg accepts, the parser says: %v", err)
		}
	case err == nil && !wg.accepted:
		if deviationOfTheirs(wg.stderr) == nil {
			return fmt.Sprintf("the parser accepts, wg says: %s", wg.stderr)
		}
	}
	return ""
}

var lineNumber = regexp.MustCompile(`^vpn\.conf:(\d+): `)

func deviationOfOurs(text string, err error) *deviation {
	line := ""
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		line = strings.Split(text, "\n")[n-1]
	}
	for i, d := range configDeviations {
		if d.ours != nil && d.ours.MatchString(err.Error()) && (d.holds == nil || d.holds(line)) {
			return &configDeviations[i]
		}
	}
	return nil
}

func deviationOfTheirs(message string) *deviation {
	for i, d := range configDeviations {
		if d.theirs != nil && d.theirs.MatchString(message) && d.holds(message) {
			return &configDeviations[i]
		}
	}
	return nil
}

// Each deviation that is about text alone, once more by hand: what wg accepts
// and the parser does not, in a file that is otherwise good.
func TestParseConfigDeviations(t *testing.T) {
	for _, tt := range []struct{ name, in, wantErr string }{
		{"1 ListenPort wraps", iface("ListenPort = 65536"), `vpn.conf:4: ListenPort "65536" is no port`},
		{"1 ListenPort wraps far", iface("ListenPort = 99999"), `vpn.conf:4: ListenPort "99999" is no port`},
		{"1 Endpoint port wraps", peer("Endpoint = 192.0.2.1:65537"), `vpn.conf:7: Endpoint "192.0.2.1:65537": what follows the last colon is no port`},
		{"2 short IPv4", peer("Endpoint = 1.2:51820"), `vpn.conf:7: Endpoint "1.2:51820": the host is neither`},
		{"2 one number", peer("Endpoint = 16909060:51820"), `the host is neither`},
		{"2 octal", peer("Endpoint = 010.0.0.1:51820"), `the host is neither`},
		{"2 hexadecimal", peer("Endpoint = 0x1.0.0.1:51820"), `the host is neither`},
		{"2 any host", peer("Endpoint = *:51820"), `the host is neither`},
		{"3 NUL", iface("ListenPort = 5\x00junk"), `vpn.conf:4: the line has a NUL byte`},
		{"3 NUL in a comment", iface("# \x00"), `vpn.conf:4: the line has a NUL byte`},
		{"3 control character", iface("# \x1b[31m"), `vpn.conf:4: the line has the control character 0x1b`},
		{"3 delete", iface("ListenPort = 5\x7f"), `vpn.conf:4: the line has the control character 0x7f`},
		{"4 no PrivateKey", "[Interface]\nAddress = 10.0.0.2\n[Peer]\nPublicKey = " + testKey2, `vpn.conf:1: [Interface] has no PrivateKey`},
		{"4 zero PrivateKey", "[Interface]\nPrivateKey = " + zeroKey + "\nAddress = 10.0.0.2\n[Peer]\nPublicKey = " + testKey2, `vpn.conf:2: PrivateKey is all zeros`},
		{"4 zero PublicKey", "[Interface]\nPrivateKey = " + testKey1 + "\nAddress = 10.0.0.2\n[Peer]\nPublicKey = " + zeroKey, `vpn.conf:5: PublicKey is all zeros`},
		{"4 no Peer", "[Interface]\nPrivateKey = " + testKey1 + "\nAddress = 10.0.0.2\n", `vpn.conf:3: there is no [Peer] section`},
		{"4 no Address", "[Interface]\nPrivateKey = " + testKey1 + "\n[Peer]\nPublicKey = " + testKey2, `vpn.conf:1: [Interface] has no Address`},
		{"4 no Interface", "[Peer]\nPublicKey = " + testKey2, `vpn.conf:1: there is no [Interface] section`},
		{"4 empty", "", `vpn.conf:1: the file is empty`},
		{"5 one key, two peers", peer("AllowedIPs = ::/0") + "[Peer]\n\nPublicKey = " + testKey2, `vpn.conf:10: PublicKey is the same as in line 6`},
		{"8 short server", iface("DNS = 1.2"), `vpn.conf:4: DNS "1.2" is no IP address`},
		{"8 server too large", iface("DNS = 999.1.1.1"), `DNS "999.1.1.1" is no IP address`},
		{"8 server with a port", iface("DNS = 1.1.1.1:53"), `DNS "1.1.1.1:53" is no IP address`},
		{"8 name with a port", iface("DNS = host:53"), `DNS "host:53" is no IP address`},
		{"8 no domain", iface("DNS = 10.0.0.1, corp_.-x"), `DNS "corp_.-x" is neither an IP address nor a domain name`},
		{"8 no domain either", iface("DNS = ~."), `DNS "~." is neither`},
		{"8 server elsewhere", iface("DNS = fe80::1%eth0"), `is on an interface that is not in the jail`},
		{"Address empty", iface("Address ="), `vpn.conf:4: Address has no value`},
		{"Address short", iface("Address = 10.1/16"), `vpn.conf:4: Address "10.1/16": this is no IP address`},
		{"Address octal", iface("Address = 10.0.0.010/16"), `this is no IP address`},
		{"Address of nobody", iface("Address = 0.0.0.0/0"), `this is no address of an interface`},
		{"Address loopback", iface("Address = ::1"), `a loopback address cannot be the tunnel's`},
		{"Address multicast", iface("Address = 224.0.0.1/4"), `a multicast address cannot be the tunnel's`},
		{"Address netmask with holes", iface("Address = 10.0.0.1/255.0.255.0"), `neither a length nor a netmask`},
		{"MTU no number", iface("MTU = auto"), `vpn.conf:4: MTU "auto" is no number of bytes`},
		{"MTU too small", iface("MTU = 67"), `is no number of bytes`},
		{"MTU too small for IPv6", iface("Address = fd00::2\nMTU = 1279"), `vpn.conf:5: MTU 1279 is too small for the IPv6 Address fd00::2/128, which needs 1280`},
		{"no =", iface("PostUp"), `vpn.conf:4: PostUp has no value`},
		{"AllowedIPs +", peer("AllowedIPs = +10.0.0.0/8"), `vpn.conf:7: AllowedIPs "+10.0.0.0/8": + and - change the list`},
		{"AllowedIPs -", peer("AllowedIPs = -10.0.0.0/8"), `AllowedIPs "-10.0.0.0/8": + and -`},
	} {
		t.Run(tt.name, func(t *testing.T) { wantConfigError(t, tt.in, tt.wantErr) })
	}
}

// What is accepted with a warning that wg and wg-quick do not give, or for
// what they do not do.
func TestParseConfigDeviationWarnings(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"2 no brackets", peer("Endpoint = 2001:db8::1:51820"), `vpn.conf:7: Endpoint "2001:db8::1:51820": write an IPv6 address in brackets`},
		{"2 IPv4 in IPv6 form", peer("Endpoint = [::ffff:192.0.2.1]:51820"), `vpn.conf:7: Endpoint "[::ffff:192.0.2.1]:51820": this is an IPv4 address in IPv6 form: write it as 192.0.2.1`},
		{"port 0", peer("Endpoint = 192.0.2.1:0"), `vpn.conf:7: Endpoint "192.0.2.1:0": nobody answers on port 0`},
		{"6 hook", iface("PostUp = touch /pwned # %i"), `vpn.conf:4: PostUp would run a command: ignored unless --allow-hooks is given`},
		{"7 Table", iface("Table = off"), `vpn.conf:4: Table has no effect in a jail`},
		{"7 SaveConfig", iface("SaveConfig = FALSE"), `vpn.conf:4: SaveConfig has no effect in a jail`},
		{"9 four servers", iface("DNS = 1.1.1.1,1.0.0.1\nDNS = 9.9.9.9 8.8.8.8"), `vpn.conf:1: 4 DNS servers are given: glibc uses the first three`},
		{"9 many domains", iface("DNS = 1.1.1.1,a,b,c,d,e,f,g"), `vpn.conf:1: 7 search domains are given`},
		{"10 no default route", peer("AllowedIPs = 10.0.0.0/8, fd00::/8"), `vpn.conf:5: AllowedIPs has no default route: the jail reaches only 10.0.0.0/8, fd00::/8`},
		{"10 half a default route", peer("AllowedIPs = 0.0.0.0/1, 8000::/1"), `the jail reaches only 0.0.0.0/1, 8000::/1`},
		{"10 many networks", peer("AllowedIPs = 1.0.0.0/8, 2.0.0.0/8, 3.0.0.0/8, 4.0.0.0/8, 5.0.0.0/8, 6.0.0.0/8"), `4.0.0.0/8, and 2 more`},
		{"10 nothing", peer(""), `vpn.conf:5: no peer has AllowedIPs: the jail reaches nothing`},
		{"11 no DNS", iface(""), `vpn.conf:1: no DNS server is given: names will not resolve inside the jail`},
		{"11 search domains only", iface("DNS = corp.example"), `vpn.conf:1: DNS has search domains and no server: they are ignored`},
		{"loopback server", iface("DNS = 127.0.0.53"), `vpn.conf:4: DNS 127.0.0.53: in the jail this is the jail itself`},
		{"server out of reach", "[Interface]\nDNS = 1.1.1.1\n" + peer("AllowedIPs = 10.0.0.0/8"), `DNS server 1.1.1.1 is in no AllowedIPs`},
		{"host bits", peer("AllowedIPs = 10.0.0.1/8"), `vpn.conf:7: AllowedIPs 10.0.0.1/8 has host bits set: 10.0.0.0/8 is used`},
		{"no endpoint", peer("AllowedIPs = ::/0"), `vpn.conf:5: no peer has an Endpoint: the tunnel stays dark`},
		{"own key", peer("Endpoint = 192.0.2.1:1") + "[Peer]\nPublicKey = " + mustKey(testKey1).PublicKey().String(), `vpn.conf:9: this PublicKey belongs to the PrivateKey of this file`},
		{"contested network", peer("AllowedIPs = ::/0") + "[Peer]\nPublicKey = " + testKey3 + "\nAllowedIPs = ::/0", `vpn.conf:9: AllowedIPs ::/0 belongs to more than one peer`},
		{"address twice", iface("Address = 10.64.0.2/32"), `vpn.conf:4: Address 10.64.0.2/32 is there twice`},
		{"empty MTU", iface("MTU ="), `vpn.conf:4: MTU has no value: the line has no effect`},
		{"empty DNS", iface("DNS = ,"), `vpn.conf:4: DNS has no value`},
		{"empty hook", iface("PreUp = "), `vpn.conf:4: PreUp has no value`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig("vpn.conf", strings.NewReader(tt.in))
			if err != nil {
				t.Fatalf("ParseConfig: %v", err)
			}
			if !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.HasPrefix(w, "vpn.conf:") && strings.Contains(w, tt.want) }) {
				t.Errorf("got warnings\n%s\nwant one with %q", strings.Join(c.Warnings, "\n"), tt.want)
			}
		})
	}
}
