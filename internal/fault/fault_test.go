package fault_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/fault"
	"github.com/wgjail/wgjail/internal/world"
)

// victimVariable makes the test binary the program that faults happen to: it
// makes these folders.
const victimVariable = "WGJAIL_FAULT_VICTIM"

// refusedVariable makes it one that a Refusal happens to.
const refusedVariable = "WGJAIL_FAULT_REFUSED"

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
	if text := os.Getenv(refusedVariable); text != "" {
		if err := refused(text); err != nil {
			fmt.Println(err)
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

// A refused call fails, one with another argument does not, and children inherit
// that.
func TestRefuse(t *testing.T) {
	for _, tt := range []struct {
		refusal fault.Refusal
		works   string
	}{
		{fault.Refusal{Call: unix.SYS_MKDIRAT, Errno: unix.EROFS}, ""},
		{fault.Refusal{Call: unix.SYS_MKDIRAT, Arg: 2, Is: 0o700, Errno: unix.EROFS}, "755 "},
		{fault.Refusal{Call: unix.SYS_MKDIRAT, Arg: 2, Has: 0o055, Errno: unix.EROFS}, "700 "},
		{fault.Refusal{Call: unix.SYS_MKNODAT, Errno: unix.EROFS}, "700 755 "},
	} {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Dir = t.TempDir()
		text, err := json.Marshal(tt.refusal)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), refusedVariable+"="+string(text))
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != tt.works {
			t.Errorf("%+v: %q works (%v), want %q", tt.refusal, out, err, tt.works)
		}
	}
}

// refused makes folders in a child after a call is refused, and says which it
// could make.
func refused(text string) error {
	var r fault.Refusal
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	if err := fault.Refuse(r); err != nil {
		return err
	}
	cmd := exec.Command("python3", "-c", `
import os
os.umask(0)
for mode in 0o700, 0o755:
    try: os.mkdir("%o" % mode, mode, dir_fd=os.open(".", os.O_RDONLY)); print("%o" % mode, end=" ")
    except OSError as e: assert e.errno == 30, e`)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
