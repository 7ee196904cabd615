package world

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/machine"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// The cases of this package that are meant to fail run only when another test
// starts them: see outcome.
const caseVar = "WGJAIL_WORLD_TEST_CASE"

func TestMain(m *testing.M) { Main(m) }

func TestWorldIsPrivate(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		if links, err := net.Interfaces(); err != nil || len(links) != 1 || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("links are %v, %v; want lo, up", links, err)
		}
		if got := w.Host.Run(t, "ls", "/sys/class/net"); got != "lo\n" {
			t.Errorf("/sys/class/net has %q", got)
		}
		if got := w.Host.Run(t, "ls", "-A", "/run"); got != "lock\ntmp\nuser\n" {
			t.Errorf("/run has %q", got)
		}
		for _, path := range []string{"/etc/netns", "/etc/wireguard", "/run/netns"} {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v; want that it does not exist", path, err)
			}
		}
		if got := os.Getppid(); got != 1 {
			t.Errorf("the parent is process %d, want 1", got)
		}
		if !strings.HasPrefix(t.TempDir(), machine.TmpDir) {
			t.Errorf("TempDir is outside %s", machine.TmpDir)
		}
		tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		tun.Close()
	})
}

func TestChildrenInheritNothing(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		if got := w.Host.Run(t, "ls", "/proc/self/fd"); got != "0\n1\n2\n3\n" { // 3 is the directory
			t.Errorf("descriptors are %q", got)
		}
		for _, entry := range strings.Split(w.Host.Run(t, "env"), "\n") {
			if strings.HasPrefix(entry, stageVar) || strings.HasPrefix(entry, testVar) {
				t.Errorf("inherited %s", entry)
			}
		}
	})
}

// writeEtc changes files that matter and returns what the machine must not have.
func writeEtc(t *testing.T) {
	t.Helper()
	err := os.MkdirAll("/etc/netns/"+mark, 0o755)
	for _, name := range []string{"resolv.conf", "hosts", "nsswitch.conf", mark} {
		err = errors.Join(err, os.WriteFile("/etc/"+name, []byte(mark), 0o644))
	}
	err = errors.Join(err, os.Rename("/etc/"+mark, "/etc/resolv.conf"), os.WriteFile("/run/"+mark, nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

const mark = "wgjail-world-test"

func TestEtcDoesNotReachTheMachine(t *testing.T) {
	RequireRoot(t)
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	cmd, out := outcome(t, "etc")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if after, err := os.ReadFile("/etc/hosts"); err != nil || string(after) != string(hosts) {
		t.Errorf("/etc/hosts is %q, %v; it was %q", after, err, hosts)
	}
	for _, path := range []string{"/etc/netns/" + mark, "/etc/" + mark, "/run/" + mark} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is on the machine", path)
		}
	}
}

func TestEtcIsCopiedWhereThereIsNoOverlay(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		before, err := files()
		if err != nil {
			t.Fatal(err)
		}
		// Twice: /run is covered while it works, and nothing may stay there.
		for range 2 {
			if err := machine.CoverWithCopy("/etc"); err != nil {
				t.Fatal(err)
			}
		}
		after, err := files()
		if err != nil {
			t.Fatal(err)
		}
		if diff := Diff(strings.Join(before, "\n")+"\n", strings.Join(after, "\n")+"\n"); diff != "" {
			t.Errorf("the copy differs:\n%s", diff)
		}
		writeEtc(t)
	})
}

func TestCleanupsRunInTheWorld(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		t.Cleanup(func() {
			if _, err := os.Stat(netnsx.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", netnsx.Dir, err)
			}
		})
		w.Namespace(t, "a")
		w.Namespace(t, "b")
		t.Run("subtest", func(t *testing.T) { w.Namespace(t, "c") })
		if _, err := netnsx.OpenNamed("c"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("c outlived its test: %v", err)
		}
	})
}

func TestTable(t *testing.T) {
	for _, name := range []string{"plain", "with space", "a/b", "quoted [x] (y) |z", "plain", "ünïcode"} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T, w *World) { t.Log("ran " + t.Name()) })
		})
	}
}

// outcome runs one case of TestCase in a test binary of its own, as go test
// would, and returns its exit status and output.
func outcome(t *testing.T, name string, env ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestCase$/^"+name+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(append(os.Environ(), caseVar+"=1", allVar+"="), env...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// TestCase holds what TestOutcome and others look at from outside.
func TestCase(t *testing.T) {
	if os.Getenv(caseVar) == "" {
		t.Skip("run by other tests")
	}
	cases := map[string]func(*testing.T, *World){
		"pass":    func(t *testing.T, w *World) {},
		"fail":    func(t *testing.T, w *World) { t.Error("by intention") },
		"skip":    func(t *testing.T, w *World) { t.Skip("by intention") },
		"want":    func(t *testing.T, w *World) { Skip(t, "%s is missing", "gizmo") },
		"panic":   func(t *testing.T, w *World) { panic("by intention") },
		"exit":    func(t *testing.T, w *World) { os.Exit(0) },
		"kill":    func(t *testing.T, w *World) { syscall.Kill(os.Getpid(), syscall.SIGKILL) },
		"subtest": func(t *testing.T, w *World) { t.Run("sub", func(t *testing.T) { t.Error("by intention") }) },
		"cleanup": func(t *testing.T, w *World) { t.Cleanup(func() { t.Error("by intention") }) },
		"nest":    func(t *testing.T, w *World) { t.Run("in", func(t *testing.T) { Run(t, nil) }) },
		"etc":     func(t *testing.T, w *World) { writeEtc(t) },
		"signals": func(t *testing.T, w *World) { w.Host.Run(t, "sh", "-c", "trap 'exit 0' INT; kill -INT $$; exit 1") },
		"orphans": orphans,
		"hang":    hang,
	}
	for name, fn := range cases {
		t.Run(name, func(t *testing.T) { Run(t, fn) })
	}
}

func TestOutcome(t *testing.T) {
	RequireRoot(t)
	for _, tt := range []struct {
		name, env string
		ok        bool
		want      string // in the output
	}{
		{"pass", "", true, "--- PASS: TestCase/pass"},
		{"fail", "", false, "by intention"},
		{"skip", "", true, "--- SKIP: TestCase/skip"},
		{"want", "", true, "gizmo is missing"},
		{"want", allVar + "=1", false, "must not skip, because WGJAIL_TEST_ALL=1: gizmo is missing"},
		{"panic", "", false, "panic: by intention"},
		{"exit", "", false, "os.Exit(0) during test"},
		{"kill", "", false, "killed by signal: killed"},
		{"subtest", "", false, "by intention"},
		{"cleanup", "", false, "by intention"},
		{"nest", "", false, "worlds do not nest"},
	} {
		t.Run(tt.name+tt.env, func(t *testing.T) {
			t.Parallel()
			cmd, out := outcome(t, tt.name, tt.env)
			if err := cmd.Run(); (err == nil) != tt.ok {
				t.Errorf("it ended with %v", err)
			}
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("no %q in:\n%s", tt.want, out)
			}
		})
	}
}

// A test run in the background, by a shell without job control, is born with
// SIGINT ignored.
func TestSignalsAreTheDefault(t *testing.T) {
	RequireRoot(t)
	cmd, out := outcome(t, "signals")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[0] = self
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `trap "" INT HUP; exec "$0" "$@"`}, cmd.Args...)
	if err := cmd.Run(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestWithoutRoot(t *testing.T) {
	RequireRoot(t)
	for _, tt := range []struct {
		env string
		ok  bool
	}{{"", true}, {allVar + "=1", false}} {
		cmd, out := outcome(t, "pass", tt.env)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := cmd.Run(); (err == nil) != tt.ok || !strings.Contains(out.String(), "run `sudo make test`") {
			t.Errorf("with %q: %v:\n%s", tt.env, err, out)
		}
	}
}

// orphans leaves processes behind that do not want to die with their parent.
func orphans(t *testing.T, w *World) {
	w.Host.Run(t, "sh", "-c", "setsid sleep 12345 >/dev/null 2>&1 & setsid sh -c 'trap : TERM INT HUP; sleep 12345; sleep 12345' >/dev/null 2>&1 &")
}

func hang(t *testing.T, w *World) {
	orphans(t, w)
	fmt.Println("hanging")
	time.Sleep(time.Hour)
}

// worldProcesses returns the processes of the world of the test binary pid.
func worldProcesses(pid int) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		if env, err := os.ReadFile(f); err == nil && slices.Contains(strings.Split(string(env), "\x00"), fmt.Sprintf("%s=%d", ownerVar, pid)) {
			found = append(found, f)
		}
	}
	return found
}

func TestNothingOutlivesTheTest(t *testing.T) {
	RequireRoot(t)
	t.Parallel()
	cmd, out := outcome(t, "orphans")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if left := worldProcesses(cmd.Process.Pid); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func TestNothingOutlivesTheTestBinary(t *testing.T) {
	RequireRoot(t)
	t.Parallel()
	cmd, _ := outcome(t, "hang")
	cmd.Stdout = nil
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	printed := ""
	for buf := make([]byte, 4096); !strings.Contains(printed, "hanging"); {
		n, err := stdout.Read(buf)
		if printed += string(buf[:n]); err != nil {
			t.Fatalf("%v after:\n%s", err, printed)
		}
	}
	Eventually(t, "two stages and two orphans", func() error {
		if found := worldProcesses(cmd.Process.Pid); len(found) < 4 {
			return fmt.Errorf("there are %v", found)
		}
		return nil
	})
	cmd.Process.Kill()
	io.Copy(io.Discard, stdout) // ends when the last one that has it open has died
	cmd.Wait()
	Eventually(t, "the end of the world", func() error {
		if left := worldProcesses(cmd.Process.Pid); len(left) > 0 {
			return fmt.Errorf("processes are left: %v", left)
		}
		return nil
	})
}

func TestLeftoversAreFound(t *testing.T) {
	before := sightings{"link lo": true}
	after := sightings{"link lo": true, "link wg7": true, "process 4711": true}
	t.Setenv(allVar, "")
	if got := leftovers(before, after); !slices.Equal(got, []string{"process 4711"}) {
		t.Errorf("on a shared machine: %v", got)
	}
	t.Setenv(allVar, "1")
	if got := leftovers(before, after); !slices.Equal(got, []string{"link wg7", "process 4711"}) {
		t.Errorf("on a machine for tests: %v", got)
	}
	if !onMachine()["link lo"] {
		t.Error("lo was not seen")
	}
}
