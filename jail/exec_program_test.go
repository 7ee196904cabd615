package jail

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

func TestProgramPaths(t *testing.T) {
	tests := []struct {
		name, env string
		want      []string
	}{
		{"ls", "PATH=/a:/b", []string{"/a/ls", "/b/ls"}},
		{"ls", "PATH=:/b:", []string{"./ls", "/b/ls", "./ls"}},
		{"ls", "X=1", []string{"/bin/ls", "/usr/bin/ls"}},
		{"./ls", "PATH=/a", []string{"./ls"}},
		{"/x/ls", "PATH=/a", []string{"/x/ls"}},
		{"d/ls", "PATH=/a", []string{"d/ls"}},
		{"", "PATH=/a", nil},
	}
	for _, tt := range tests {
		if got := programPaths(tt.name, []string{tt.env}); !slices.Equal(got, tt.want) {
			t.Errorf("%q with %s: got %q, want %q", tt.name, tt.env, got, tt.want)
		}
	}
}

// TestExecProgramErrors holds the cases in which nothing is executed, so that
// the process is still here.
func TestExecProgramErrors(t *testing.T) {
	dir := t.TempDir()
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"a/plain":  {"not executable", 0o644},
		"a/nomark": {"echo no first line", 0o755},
		"a/noloop": {"#!/nonexistent/interpreter\n", 0o755},
		"b/other":  {"not executable", 0o644},
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=" + dir + "/none:" + dir + "/a/plain:" + dir + "/a:" + dir + "/b"}
	tests := []struct {
		name     string
		status   int
		identity error
		text     string
		hinted   bool
	}{
		{"nosuchprogram", 127, osexec.ErrNotFound, "nosuchprogram: executable file not found in $PATH", true},
		{"", 127, osexec.ErrNotFound, "", true},
		{dir + "/none", 127, os.ErrNotExist, "/none: file does not exist", false},
		{dir + "/a/plain/x", 127, os.ErrNotExist, "does not exist", false},
		{dir + "/a/plain", 126, os.ErrPermission, "permission denied", false},
		{"plain", 126, os.ErrPermission, "plain: permission denied", false},
		{"other", 126, os.ErrPermission, "permission denied", false},
		{dir + "/a", 126, syscall.EISDIR, "is a directory", false},
		{"nomark", 126, syscall.ENOEXEC, "exec format error", true},
		{"noloop", 126, nil, "interpreter is not there", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := execProgram([]string{tt.name}, env)
			if got := ExitStatus(err); got != tt.status {
				t.Errorf("status %d, want %d (%v)", got, tt.status, err)
			}
			if tt.identity != nil && !errors.Is(err, tt.identity) {
				t.Errorf("got %v, want a %v", err, tt.identity)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, want %q in it", err, tt.text)
			}
			if (hint.Of(err) != "") != tt.hinted {
				t.Errorf("hint %q, want one: %v", hint.Of(err), tt.hinted)
			}
		})
	}
}

// What is wrong with the jail must not pass for a program that is not there.
func TestExitStatusOfOtherErrors(t *testing.T) {
	for _, err := range []error{os.ErrNotExist, fmt.Errorf("enter: %w", os.ErrPermission), ErrNotUp} {
		if got := ExitStatus(err); got != 1 {
			t.Errorf("%v: status %d, want 1", err, got)
		}
	}
}
