package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/wgjail/wgjail/internal/world"
)

// The scripts say what users read, word for word: help, and every error that
// they can meet without a jail. As root each runs in a world.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	if kernelBackend() { // it makes no difference to what they are about
		files = []string{"testdata/script/no_jail.txt", "testdata/script/version.txt"}
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			if os.Geteuid() != 0 {
				runScript(t, file)
				return
			}
			world.Run(t, func(t *testing.T, _ *world.World) { runScript(t, file) })
		})
	}
}

func runScript(t *testing.T, file string) {
	t.Helper()
	bin := publicCopy(t)
	testscript.Run(t, testscript.Params{
		Files:              []string{file},
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			// So that nobody can be there.
			return errors.Join(os.Chmod(filepath.Dir(env.WorkDir), 0o755), os.Chmod(env.WorkDir, 0o755))
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
			"nobody": func(ts *testscript.TestScript, neg bool, args []string) {
				if os.Geteuid() == 0 {
					args = append([]string{args[0], "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, args[1:]...)
				}
				status(ts, neg, args)
			},
		},
	})
}

// publicCopy returns a folder with wgjail in it, in which every user may look.
func publicCopy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "wgjail"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// status is a script's "status N COMMAND…": the command ends with exit status
// N. What it prints holds no secret, and what wgjail says of an error is in its
// own form.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	got := 0
	if exit != nil {
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	out, errs := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	for _, secret := range []string{"SECRET", "yAnz5TF"} { // of keys in the scripts
		if strings.Contains(out+errs, secret) {
			ts.Fatalf("a secret was printed")
		}
	}
	if !slices.Contains(args, "wgjail") || strings.HasPrefix(errs, "Wgjail makes") {
		return
	}
	for line := range strings.Lines(errs) {
		if !strings.HasPrefix(line, "wgjail: ") {
			ts.Fatalf("on standard error without its name: %s", line)
		}
	}
	if failed := strings.HasPrefix(errs, "wgjail: error: ") || strings.Contains(errs, "\nwgjail: error: "); failed != (want != 0) {
		ts.Fatalf("exit status %d, but an error was printed: %v", want, failed)
	}
}

// Every command has its place in the script of helps, and a sentence of its own.
func TestHelpIsComplete(t *testing.T) {
	text, err := os.ReadFile("testdata/script/help.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range (&program{}).rootCommand().Commands() {
		if cmd.Short == "" && !cmd.Hidden {
			t.Errorf("%s has no short help", cmd.Name())
		}
		if line := "status 0 wgjail " + cmd.Name() + " --help\n"; !cmd.Hidden && !strings.Contains(string(text), line) {
			t.Errorf("not in help.txt: %s", line)
		}
		if usage := cmd.UsageString(); strings.Contains(usage, "[=true") || !strings.Contains(usage, "--debug  ") {
			t.Errorf("%s shows switches in another way than --debug:\n%s", cmd.Name(), usage)
		}
	}
}
