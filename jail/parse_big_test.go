package jail

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
)

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
