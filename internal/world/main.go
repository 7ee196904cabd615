package world

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Main runs the tests of a package that uses Run, and ends the process. TestMain
// calls it, and nothing else before it that starts goroutines or children. After
// the tests it looks for what they left on the machine, which is a failure.
func Main(m *testing.M) {
	switch os.Getenv(stageVar) {
	case "1":
		os.Exit(stage1())
	case "2":
		inside.test = os.Getenv(testVar)
		inside.report = os.NewFile(3, "report")
		closeOnExec()
		for _, name := range []string{stageVar, testVar} {
			os.Unsetenv(name) // what the test starts is not a stage
		}
		os.Exit(m.Run())
	}
	before := onMachine()
	code := m.Run()
	if left := leftovers(before, onMachine()); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: the tests left on this machine:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	os.Exit(code)
}

// closeOnExec keeps what this process inherited from being inherited further,
// whoever opened it: tests look at the descriptors of what they start.
func closeOnExec() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) != nil { // Linux before 5.11
		for fd := 3; fd < 256; fd++ {
			unix.CloseOnExec(fd)
		}
	}
}
