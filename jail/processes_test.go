package jail

import (
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	tests := []struct{ args, want string }{
		{"sleep\x00100\x00", "sleep 100"},
		{"sh\x00-c\x00echo a\nb\x00", "sh -c echo a?b"},
		{"x\x00\x00y\x00", "x  y"},
		{"", "[name]"},
		{"\x00\x00", "[name]"},
		{"evil\x1b[2Jx\x07\x7f", "evil?[2Jx??"},
		{"caf\u00e9 \u65e5", "caf\u00e9 \u65e5"},
		{"right\u202eleft\u2028line", "right?left?line"},
		{"bad\xff\xfeutf", "bad??utf"},
		{"real\ufffdone", "real\ufffdone"},
		{strings.Repeat("é", 300), strings.Repeat("é", 256) + "…"},
		{strings.Repeat("x", 256), strings.Repeat("x", 256)},
	}
	for _, tt := range tests {
		if got := commandLine([]byte(tt.args), "name"); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.args, got, tt.want)
		}
	}
}
