package jail

import (
	"strings"
	"testing"
)

func TestFingerprint(t *testing.T) {
	const text = "[Interface]\nPrivateKey = " + testKey1 + "\nAddress = 10.0.0.2\n[Peer]\nPublicKey = " + testKey2 +
		"\nPresharedKey = " + testKey3 + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.1:1\n"
	of := func(edit ...string) string {
		return fingerprint(mustParse(t, strings.NewReplacer(edit...).Replace(text)))
	}
	first := of()
	for name, same := range map[string]string{
		"again":        of(),
		"other spaces": of(" = ", "="),
		"a comment":    of("[Peer]", "# a comment\n[Peer]"),
		"a hook":       of("[Peer]", "PostUp = true\n[Peer]"),
	} {
		if same != first {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	seen := map[string]string{first: "the first"}
	for name, other := range map[string]string{
		"private key":   of(testKey1, testKey4),
		"public key":    of(testKey2, testKey4),
		"preshared key": of(testKey3, testKey4),
		"no preshared":  of("PresharedKey = "+testKey3+"\n", ""),
		"address":       of("10.0.0.2", "10.0.0.3"),
		"port":          of(":1\n", ":2\n"),
		"MTU":           of("[Peer]", "MTU = 1400\n[Peer]"),
	} {
		if twin := seen[other]; twin != "" {
			t.Errorf("%s: the same fingerprint as %s", name, twin)
		}
		seen[other] = name
	}
	if strings.Contains(first, testKey1[:8]) || len(first) != 64 {
		t.Errorf("fingerprint %q", first)
	}
}
