package relay_test

import (
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

// talk has conns connections take turns, each of which asks and is answered with
// so many messages in a row.
func talk(p *relay.Pace, windows, conns, messages int) {
	for n := 0; n < windows*relay.PaceWindow; {
		for i := range conns {
			p.Event(i, 0)
			for range messages {
				p.Event(i, 1)
			}
			n += 1 + messages
		}
	}
}

// A worker hurries for few that wait for an answer, not for many, nor for
// messages that others follow, and goes with the times.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		name            string
		conns, messages int
		hurries         bool
	}{
		{"one", 1, 1, true},
		{"a few", relay.FewConns, 1, true},
		{"many", relay.FewConns + 1, 1, false},
		{"messages in a row", 1, 3, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p relay.Pace
			if !p.Hurries() {
				t.Error("it does not hurry at first")
			}
			for range 2 {
				talk(&p, 2, c.conns, c.messages)
				if p.Hurries() != c.hurries {
					t.Errorf("it hurries: %v", p.Hurries())
				}
				talk(&p, relay.RowsWindows, 1, 1)
				if !p.Hurries() {
					t.Error("it does not hurry again later")
				}
			}
		})
	}
}

// Messages in a row are not forgotten as soon as they travel together.
func TestPaceRemembersRows(t *testing.T) {
	var p relay.Pace
	talk(&p, 1, 1, 3)
	talk(&p, relay.RowsWindows-2, 1, 1)
	if p.Hurries() {
		t.Error("it hurries already")
	}
}

// Short connections one after the other are few at a time.
func TestPaceOfShortConnections(t *testing.T) {
	var p relay.Pace
	for range 10 * relay.PaceWindow {
		for i := range relay.FewConns {
			p.Begin(i)
			p.Event(i, 0)
			p.Event(i, 1)
			if !p.Hurries() {
				t.Fatal("it does not hurry")
			}
		}
	}
}

// A CPU that comes back late is not given away for a while, which is longer if
// that has just happened, and shorter again when it comes back soon.
func TestRest(t *testing.T) {
	const soon, late = 300 * time.Microsecond, 3 * time.Millisecond
	once, twice := relay.RestAfter(late), relay.RestAfter(late, late)
	if relay.RestAfter(soon) != 0 || once == 0 || twice <= once {
		t.Errorf("rests of %d, %d and %d", relay.RestAfter(soon), once, twice)
	}
	if n := relay.RestAfter(late, late, soon, soon, soon, soon, late); n >= twice {
		t.Errorf("a rest of %d after it came back soon, and of %d before", n, twice)
	}
	var often []time.Duration
	for range 100 {
		often = append(often, late)
	}
	if n := relay.RestAfter(often...); n > relay.MaxRest {
		t.Errorf("a rest of %d", n)
	}
}
