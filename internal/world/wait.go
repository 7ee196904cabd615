package world

import (
	"os"
	"testing"
	"time"
)

var (
	dialTimeout = AtMost(10 * time.Second)
	patience    = AtMost(30 * time.Second) // for what takes milliseconds on an idle machine
)

const pollStep = 20 * time.Millisecond

// AtMost returns how long a test may wait for what takes much less than d: d, or
// four times as long where the machine is emulated, in the guest of internal/vm.
func AtMost(d time.Duration) time.Duration {
	if os.Getenv("WGJAIL_TEST_KERNEL") == "1" {
		return 4 * d
	}
	return d
}

// Eventually calls fn until it returns nil, for what has no event to wait on. It
// fails the test with fn's last error if that takes longer than half a minute.
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
