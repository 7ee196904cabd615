package world

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/machine"
	"github.com/wgjail/wgjail/internal/netnsx"
)

const (
	stageVar = "WGJAIL_WORLD_STAGE" // "1" or "2": what this process is
	testVar  = "WGJAIL_WORLD_TEST"  // the name of the one test to run
	ownerVar = "WGJAIL_WORLD_OWNER" // tells the processes of one test run from others
	allVar   = "WGJAIL_TEST_ALL"    // "1": a skip is a failure
)

// What a stage finds as inherited file descriptors.
const (
	lifelineFd = 3 // stage 1: readable when the test binary has died
	reportFd   = 4 // stage 1, passed on to stage 2 as 3
)

// inside is the test that this process was started for, if it is stage 2.
var inside struct {
	test   string
	report *os.File
}

// A World is the machine that a test has to itself.
type World struct {
	Host *Node // the network namespace the test runs in

	users int // made so far
}

// Run calls fn in a world of its own, while other tests run. The test passes,
// fails or is skipped as fn does. It calls t.Parallel. Worlds do not nest.
func Run(t *testing.T, fn func(t *testing.T, w *World)) {
	t.Helper()
	switch {
	case inside.test == t.Name():
		runInside(t, fn)
	case inside.test != "":
		t.Fatalf("world: %s asks for a world inside that of %s: worlds do not nest", t.Name(), inside.test)
	case os.Getenv(stageVar) != "":
		t.Fatal("world: TestMain must call world.Main")
	default:
		t.Parallel()
		RequireRoot(t)
		runOutside(t)
	}
}

func runInside(t *testing.T, fn func(*testing.T, *World)) {
	t.Cleanup(func() { // runs last: after the cleanups of fn
		word := "passed"
		if t.Skipped() {
			word = "skipped"
		}
		io.WriteString(inside.report, word)
		inside.report.Close()
	})
	ns, err := netnsx.Current()
	if err != nil {
		t.Fatalf("world: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	fn(t, &World{Host: newNode(t, "host", ns)})
}

// runOutside starts the world and turns its end into this test's.
func runOutside(t *testing.T) {
	t.Helper()
	report, err := startWorld(t)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Fatalf("failed in its world (%v)", exit)
	case errors.Is(err, os.ErrPermission):
		Skip(t, "cannot make namespaces here: %v", err)
	case err != nil:
		t.Fatalf("world: %v", err)
	case report == "skipped":
		Skip(t, "skipped in its world")
	case report != "passed":
		t.Fatalf("world: the test did not run to its end: it reported %q", report)
	}
}

// startWorld runs stage 1 to its end and returns what stage 2 reported.
func startWorld(t *testing.T) (report string, err error) {
	lifelineR, lifelineW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer lifelineW.Close() // kept open: the world dies when it closes
	defer lifelineR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer reportR.Close()

	cmd := exec.Command("/proc/self/exe", childFlags(t)...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageVar+"=1", testVar+"="+t.Name(), ownerVar+"="+owner())
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.ExtraFiles = []*os.File{lifelineR, reportW} // lifelineFd, reportFd
	cmd.WaitDelay = 10 * time.Second
	machine.Isolate(cmd)
	err = cmd.Start()
	reportW.Close()
	if err != nil {
		return "", err
	}
	err = cmd.Wait()
	word, readErr := io.ReadAll(reportR)
	return string(word), errors.Join(err, readErr)
}

func owner() string { return fmt.Sprint(os.Getpid()) }

// childFlags returns the arguments that make the test binary run t and nothing
// else: the flags of this process, less those that name files to write.
func childFlags(t *testing.T) []string {
	path := strings.Split(t.Name(), "/")
	for i, name := range path {
		path[i] = "^" + regexp.QuoteMeta(name) + "$"
	}
	args := []string{"-test.run=" + strings.Join(path, "/"), "-test.v", "-test.paniconexit0"}
	if end, ok := t.Deadline(); ok {
		// The child gives up first, so that its goroutine dump is seen.
		args = append(args, "-test.timeout="+max(time.Until(end)*9/10, time.Second).String())
	}
	keep := []string{"test.short", "test.fullpath", "test.gocoverdir"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") || slices.Contains(keep, f.Name) {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return append(args, flag.Args()...)
}

// RequireRoot skips the test if the process cannot make worlds.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root, to make namespaces that nothing outside them sees: run `sudo make test`")
	}
}

// Skip skips the test, or fails it if WGJAIL_TEST_ALL=1: a run that is meant to
// be complete must not be green because it skipped.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(allVar) == "1" {
		t.Fatalf("must not skip, because "+allVar+"=1: "+format, args...)
	}
	t.Skipf(format, args...)
}
