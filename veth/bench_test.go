package veth

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// present is how many forwards there are already.
const present = 1000

// crowd is iptables in memory with that many forwards, and what a jail needs
// beside them.
func crowd(b *testing.B) (n names, have snapshot, one []chain) {
	b.Helper()
	n, have = namesOf("vpn"), parseSave(canaries)
	side := sideOf(netip.MustParseAddr("169.254.9.0"))
	n.note(n.fixed(side, []string{"eth0"}, have), have)
	for i := range uint16(present) {
		n.note(n.forward(benchForward(10000+i), side), have)
	}
	return n, have, n.forward(benchForward(9000), side)
}

func benchForward(port uint16) Forward {
	return Forward{ID: fmt.Sprintf("tcp-%d.1", port), Network: "tcp", First: port, Last: port, Target: port,
		Allow: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("10.0.0.0/8")}}
}

// BenchmarkSetup is what one more forward costs this process, beside the time that
// iptables takes.
func BenchmarkSetup(b *testing.B) {
	n, have, one := crowd(b)
	b.ReportAllocs()
	for b.Loop() {
		if n.setup(one, have) == "" {
			b.Fatal("nothing to do")
		}
	}
}

// BenchmarkCheck looks whether a thousand forwards are whole, as Watch does after
// each change.
func BenchmarkCheck(b *testing.B) {
	n, have, _ := crowd(b)
	side := sideOf(netip.MustParseAddr("169.254.9.0"))
	var want []chain
	for i := range uint16(present) {
		want = append(want, n.forward(benchForward(10000+i), side)...)
	}
	b.ReportAllocs()
	for b.Loop() {
		if lacks := n.check(want, have); len(lacks) > 0 {
			b.Fatal(lacks)
		}
	}
}

// BenchmarkForget is the removal of one of a thousand.
func BenchmarkForget(b *testing.B) {
	n, have, _ := crowd(b)
	ids := []string{benchForward(10500).ID}
	b.ReportAllocs()
	for b.Loop() {
		if n.forget(ids, have) == "" {
			b.Fatal("nothing to do")
		}
	}
}

// BenchmarkParseSave reads what iptables-save prints of a thousand forwards.
func BenchmarkParseSave(b *testing.B) {
	_, have, _ := crowd(b)
	text := (&fakeBook{have}).save()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if got := parseSave(text); len(got) != strings.Count(text, "*") {
			b.Fatalf("%d tables", len(got))
		}
	}
}
