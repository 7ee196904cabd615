package jail

import (
	"os"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// TestMain runs the tests, or acts as what a test has started this binary as.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(execRequestVar) != "":
		execHelper()
	case os.Getenv(probeVar) != "":
		probe()
	}
	world.Main(m)
}
