package world

import (
	"testing"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	patience    = 30 * time.Second // for what takes milliseconds on an idle machine
	pollStep    = 20 * time.Millisecond
)

// Eventually calls fn until it returns nil, for what has no event to wait on. It
// fails the test with fn's last error if that takes half a minute.
func Eventually(t testing.TB, what string, fn func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		time.Sleep(pollStep)
	}
}
