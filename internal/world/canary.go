package world

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Canary returns 16 bytes that occur nowhere else: letters and digits, so that
// they can travel in names and URLs as well.
func Canary() []byte { return []byte(rand.Text()[:16]) }

// Frames returns the frames kept so far, in the order they were seen. Their
// data is shared: it must not be changed.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Find returns the frames kept so far that contain the bytes of canary. Call
// Sync first, or use MustSee and MustNotSee.
func (c *Capture) Find(canary []byte) []Frame {
	return slices.DeleteFunc(c.Frames(), func(f Frame) bool { return !bytes.Contains(f.Raw, canary) })
}

// Except returns the frames kept so far that expected does not accept.
func (c *Capture) Except(expected func(Frame) bool) []Frame {
	return slices.DeleteFunc(c.Frames(), expected)
}

// MustSee waits until a frame with canary has crossed.
func (c *Capture) MustSee(t testing.TB, canary []byte) {
	t.Helper()
	Eventually(t, "a frame with the canary in "+c.node, func() error {
		c.Sync(t)
		if len(c.Find(canary)) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
}

// MustNotSee fails the test if a frame with canary has crossed. What may still
// be on its way is the caller's to wait for.
func (c *Capture) MustNotSee(t testing.TB, canary []byte) {
	t.Helper()
	c.Sync(t)
	if found := c.Find(canary); len(found) > 0 {
		t.Errorf("in clear in %s: %s", c.node, Lines(found))
	}
}

// Lines prints frames one below the other.
func Lines(frames []Frame) string {
	var b strings.Builder
	for _, f := range frames {
		b.WriteString("\n\t" + f.String())
	}
	return b.String()
}

// Control is the positive control of a test for absence: send must be seen here
// when it sends the canary that it is given, or the test would prove nothing.
func (c *Capture) Control(t testing.TB, what string, send func(canary []byte) error) {
	t.Helper()
	canary := Canary()
	if err := send(canary); err != nil {
		t.Fatalf("positive control: %s: %v", what, err)
	}
	c.MustSee(t, canary)
}
