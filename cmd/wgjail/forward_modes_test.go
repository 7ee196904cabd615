package main

import (
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A forwardMode is a way of forwarding. What is true of all of them is tested
// with each.
type forwardMode struct {
	name string
	args []string // for up, run and forward
	// Clients that are not on the host's loopback reach the service by rules, and
	// are seen by it.
	rules, seen bool
}

var forwardModes = []forwardMode{
	{name: "relay", args: []string{"--mode", "relay"}},
	{name: "veth", args: []string{"--mode", "veth"}, rules: true, seen: true},
}

// eachMode calls test for each mode, in a world of its own.
func eachMode(t *testing.T, test func(t *testing.T, l *lab, m forwardMode)) {
	for _, m := range forwardModes {
		t.Run(m.name, func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) { test(t, newLab(t, w), m) })
		})
	}
}

// forward is lab.forward in the mode.
func (m forwardMode) forward(t *testing.T, l *lab, args ...string) *world.Process {
	t.Helper()
	return l.forward(t, append(m.args, args...)...)
}

// background starts wgjail forward in the background, in the mode.
func (m forwardMode) background(t *testing.T, l *lab, args ...string) {
	t.Helper()
	l.do(t, append(append([]string{"forward", "-d"}, m.args...), args...)...)
}
