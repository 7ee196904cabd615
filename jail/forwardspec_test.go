package jail

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

func TestParseForward(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		in        string
		want      ForwardSpec
		canonical string
	}{
		{"8080", ForwardSpec{First: 8080, Last: 8080, Target: 8080, Network: "tcp"}, "8080"},
		{"8080/tcp", ForwardSpec{First: 8080, Last: 8080, Target: 8080, Network: "tcp"}, "8080"},
		{"53/UDP", ForwardSpec{First: 53, Last: 53, Target: 53, Network: "udp"}, "53/udp"},
		{"8080:80", ForwardSpec{First: 8080, Last: 8080, Target: 80, Network: "tcp"}, "8080:80"},
		{"80:80", ForwardSpec{First: 80, Last: 80, Target: 80, Network: "tcp"}, "80"},
		{"1:65535/udp", ForwardSpec{First: 1, Last: 1, Target: 65535, Network: "udp"}, "1:65535/udp"},
		{"0080", ForwardSpec{First: 80, Last: 80, Target: 80, Network: "tcp"}, "80"},
		{"8000-8010", ForwardSpec{First: 8000, Last: 8010, Target: 8000, Network: "tcp"}, "8000-8010"},
		{"8000-8010:9000-9010", ForwardSpec{First: 8000, Last: 8010, Target: 9000, Network: "tcp"}, "8000-8010:9000-9010"},
		{"8000-8000:9000", ForwardSpec{First: 8000, Last: 8000, Target: 9000, Network: "tcp"}, "8000:9000"},
		{"1-65535", ForwardSpec{First: 1, Last: 65535, Target: 1, Network: "tcp"}, "1-65535"},
		{"127.0.0.1:8080", ForwardSpec{addr("127.0.0.1"), 8080, 8080, 8080, "tcp", false}, "127.0.0.1:8080"},
		{"127.0.0.1:8080:80", ForwardSpec{addr("127.0.0.1"), 8080, 8080, 80, "tcp", false}, "127.0.0.1:8080:80"},
		{"0.0.0.0:1-2:3-4/udp", ForwardSpec{addr("0.0.0.0"), 1, 2, 3, "udp", false}, "0.0.0.0:1-2:3-4/udp"},
		{"[::1]:8080:80/udp", ForwardSpec{addr("::1"), 8080, 8080, 80, "udp", false}, "[::1]:8080:80/udp"},
		{"[::]:8080", ForwardSpec{addr("::"), 8080, 8080, 8080, "tcp", false}, "[::]:8080"},
		{"[2001:DB8:0::1]:8080", ForwardSpec{addr("2001:db8::1"), 8080, 8080, 8080, "tcp", false}, "[2001:db8::1]:8080"},
		{"[fe80::1%eth0]:8080", ForwardSpec{addr("fe80::1%eth0"), 8080, 8080, 8080, "tcp", false}, "[fe80::1%eth0]:8080"},
		{"[127.0.0.1]:8080", ForwardSpec{addr("127.0.0.1"), 8080, 8080, 8080, "tcp", false}, "127.0.0.1:8080"},
		{"[::ffff:127.0.0.1]:8080", ForwardSpec{addr("127.0.0.1"), 8080, 8080, 8080, "tcp", false}, "127.0.0.1:8080"},
	} {
		got, err := ParseForward(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
		if s := got.String(); s != tt.canonical {
			t.Errorf("%s: got %s, want %s", tt.in, s, tt.canonical)
		}
	}
}

func TestParseForwardRejects(t *testing.T) {
	for _, tt := range []struct{ in, wantErr, wantHint string }{
		{"", "a port is missing", "write [ADDR:]PORT"},
		{"0", `"0" is no port`, "from 1 to 65535"},
		{"65536", `"65536" is no port`, "from 1 to 65535"},
		{"+80", `"+80" is no port`, "without sign or space"},
		{" 80", `" 80" is no port`, "without sign or space"},
		{"80 ", `"80 " is no port`, "without sign or space"},
		{"٨٠", `"٨٠" is no port`, "from 1 to 65535"},
		{"http", `"http" is no port`, "from 1 to 65535"},
		{"80-", "a port is missing", "write [ADDR:]"},
		{"-80", "a port is missing", "write [ADDR:]"},
		{"90-80", "the range 90-80 runs backwards", "write it as 80-90"},
		{"8000-8010:9000", "11 ports cannot lead to 1", "make both ranges equally long"},
		{"1-2:65535-65536", `"65536" is no port`, "from 1 to 65535"},
		{"8000:9000-9010", "1 ports cannot lead to 11", "equally long"},
		{"8080:", "a port is missing", "write [ADDR:]"},
		{":8080", `"" is no address`, "leave it out, with its colon"},
		{":8080:80", `"" is no address`, "leave it out, with its colon"},
		{"127.0.0.1::80", "a port is missing", "write [ADDR:]"},
		{"127.0.0.1", `"127.0.0.1" is no port`, "from 1 to 65535"},
		{"127.0.0.1:", "a port is missing", "write [ADDR:]"},
		{"127.1:80", `"127.1" is no address`, "give the IP address"},
		{"127.0.0.1.:80:80", `"127.0.0.1." is no address`, "give the IP address"},
		{"localhost:8080", "an address is needed, not a name", "use 127.0.0.1"},
		{"LocalHost:8080:80", "an address is needed, not a name", "use 127.0.0.1"},
		{"eth0:8080", `"eth0" is no address`, "no name"},
		{"*:8080", `"*" is no address`, "leave it out"},
		{"8080:localhost:80", `"8080" is no address`, "with --to"},
		{"8080:10.0.0.5:80", `"8080" is no address`, "with --to"},
		{"8080:web", `the target "web" is no port`, "with --to"},
		{"::1:8080", "there are too many colons", "[::1]:8080"},
		{"fe80::1:8080:80", "there are too many colons", "in brackets"},
		{"1:2:3:4", "there are too many colons", "in brackets"},
		{"[::1", "the bracket is not closed", "[::1]:8080"},
		{"[::1]", "no port follows", "[::1]:8080"},
		{"[::1]8080", "no port follows", "[::1]:8080"},
		{"[]:80", `"" is no IPv6 address`, "[::1]:8080"},
		{"[::1%eth0]:80", `"::1%eth0" is no IPv6 address`, "link-local"},
		{"[fe80::1%e]x]:80", "no port follows", "[::1]:8080"},
		{"[localhost]:80", `"localhost" is no IPv6 address`, "[::1]:8080"},
		{"80/sctp", `the protocol "sctp" is unknown`, "/tcp or /udp"},
		{"80/", `the protocol "" is unknown`, "/tcp or /udp"},
		{"80/tcp/udp", `the protocol "tcp/udp" is unknown`, "/tcp or /udp"},
		{"80,81", `"80,81" is no port`, "from 1 to 65535"},
	} {
		got, err := ParseForward(tt.in)
		if err == nil {
			t.Errorf("%q: got %+v, want error %q", tt.in, got, tt.wantErr)
			continue
		}
		if !strings.Contains(err.Error(), tt.wantErr) || !strings.HasPrefix(err.Error(), "forward ") {
			t.Errorf("%q: got error %q, want %q", tt.in, err, tt.wantErr)
		}
		if h := hint.Of(err); !strings.Contains(h, tt.wantHint) || strings.Contains(h, "%") && !strings.Contains(h, "%eth0") {
			t.Errorf("%q: got hint %q, want %q", tt.in, h, tt.wantHint)
		}
	}
}

// FuzzParseForward: what is accepted is in bounds and has one canonical form.
func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"8080", "127.0.0.1:8080:80/udp", "[::1]:1-2:3-4", "8000-8010:9000-9010", "[fe80::1%a]:1", "::1:8080", "80/TCP", "1-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseForward(s)
		if err != nil {
			if hint.Of(err) == "" {
				t.Errorf("%q: error %v without a hint", s, err)
			}
			return
		}
		if got.First == 0 || got.Last < got.First || got.Target == 0 || int(got.Target)+int(got.Last-got.First) > 65535 {
			t.Errorf("%q: got %+v", s, got)
		}
		again, err := ParseForward(got.String())
		if err != nil || again != got {
			t.Errorf("%q: %s gives %+v, %v, want %+v", s, got, again, err, got)
		}
	})
}
