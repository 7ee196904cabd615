package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// Colours are for terminals, and for those who want them.
func TestStatusColours(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		const coloured = "jail vpn        \x1b[32mup\x1b[0m\n"
		for _, c := range []struct {
			env  []string
			want bool
		}{{[]string{"TERM=xterm"}, true}, {[]string{"TERM=xterm", "NO_COLOR=1"}, false}, {[]string{"TERM=dumb"}, false}} {
			cmd := exec.Command("wgjail", "status")
			cmd.Env = append(cmd.Environ(), append([]string{"NO_COLOR="}, c.env...)...)
			term := startOnTerminal(t, l.Host, cmd)
			term.waitFor(t, "10.64.0.2/32")
			if got := strings.Contains(term.text(), coloured); got != c.want {
				t.Errorf("with %q it is coloured: %v, want %v:\n%q", c.env, got, c.want, term.text())
			}
			term.status()
		}
		if got := l.do(t, "status"); strings.Contains(got, "\x1b") {
			t.Errorf("in a pipe: %q", got)
		}
	})
}

// On a terminal --watch writes each page over the one before.
func TestStatusWatchOnTerminal(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		term := startOnTerminal(t, l.Host, exec.Command("wgjail", "status", "--watch"))
		term.waitFor(t, "\x1b[H\x1b[2J") // the screen is cleared once
		l.usable(t, "watched")
		term.waitFor(t, "/s), ") // the second page has rates
		term.waitFor(t, "\x1b[K\n")
		term.press(t, "\x03")
		if status := term.status(); status != 0 {
			t.Errorf("after Ctrl-C: status %d", status)
		}
		if n := strings.Count(term.text(), "\x1b[2J"); n != 1 {
			t.Errorf("the screen was cleared %d times", n)
		}
		if got := l.start(t, "status", "--watch"); true {
			got.WaitOutput(t, "/s), ")
			if strings.Contains(got.Output(), "\x1b") {
				t.Errorf("in a pipe: %q", got.Output())
			}
		}
	})
}

func TestRates(t *testing.T) {
	r := &rates{}
	page := func(bytes int64) string {
		r.begin()
		r.elapsed = 2 * time.Second
		return r.of("x", bytes)
	}
	for i, c := range []struct {
		bytes int64
		want  string
	}{{1000, ""}, {3000, " (1000 B/s)"}, {3000, " (0 B/s)"}, {7096, " (2.0 KiB/s)"}, {5, " (0 B/s)"}} {
		if got := page(c.bytes); got != c.want {
			t.Errorf("page %d: %q, want %q", i, got, c.want)
		}
	}
	if got := (*rates)(nil).of("x", 1); got != "" {
		t.Errorf("without rates: %q", got)
	}
}
