package world

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/machine"
)

// resolvConf is the world's /etc/resolv.conf: the resolver of the lab.
const resolvConf = "nameserver " + InternetV4 + "\n"

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
		machine.CloseOnExec()
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

// stage1 is process 1 of the world.
func stage1() (code int) {
	init := machine.Init{Name: "world", Lifeline: os.NewFile(lifelineFd, "lifeline"), Resolv: resolvConf}
	os.Setenv(stageVar, "2")
	return init.Run(os.Args, os.Environ(), []uintptr{0, 1, 2, reportFd})
}
