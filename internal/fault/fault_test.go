package fault_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
)

// victimVariable makes the test binary the program that faults happen to: it
// makes these folders.
const victimVariable = "WGJAIL_FAULT_VICTIM"

func TestMain(m *testing.M) {
	if dirs := os.Getenv(victimVariable); dirs != "" {
		if err := fault.Install(); err != nil {
			fmt.Println(err)
			os.Exit(99)
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			if err := os.Mkdir(dir, 0o700); err != nil {
				fmt.Println(err)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Exactly one call fails, or none is made after a kill.
func TestFault(t *testing.T) {
	world.RequireRoot(t)
	for _, tt := range []struct {
		n     int
		kill  bool
		made  string // of the folders a, b and c
		says  string
		fault string
	}{
		{0, false, "abc", "", "nothing"},
		{1, false, "bc", "a: no space left on device\n", "mkdirat(a) fails"},
		{2, false, "ac", "b: no space left on device\n", "mkdirat(b) fails"},
		{4, false, "abc", "", "nothing"},
		{1, true, "", "", "mkdirat(a) kills"},
		{3, true, "ab", "", "mkdirat(c) kills"},
	} {
		dir := t.TempDir()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd := exec.Command(self, "victim")
		cmd.Dir, cmd.Stdout = dir, &out
		cmd.Env = append(os.Environ(), victimVariable+"=a:b:c")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f := &fault.Fault{N: tt.n, Kill: tt.kill}
		if err := f.Watch(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		f.Stop()
		made, _ := filepath.Glob(dir + "/*")
		for i := range made {
			made[i] = filepath.Base(made[i])
		}
		if got := strings.Join(made, ""); got != tt.made || (err != nil) != tt.kill {
			t.Errorf("%+v: it made %q and ended with %v", tt, got, err)
		}
		if !strings.HasSuffix(out.String(), tt.says) || !strings.HasSuffix(f.String(), tt.fault) {
			t.Errorf("%+v: it says %q, the fault %q", tt, out.String(), f)
		}
	}
}
