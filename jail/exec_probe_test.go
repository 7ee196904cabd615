package jail

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
)

// What the test binary starts itself as, in variables of the environment.
const (
	execRequestVar = "WGJAIL_TEST_EXEC"  // an execRequest: it calls Exec
	probeVar       = "WGJAIL_TEST_PROBE" // not empty: it is the program that Exec runs
)

// An execRequest says what to call Exec with.
type execRequest struct {
	Name              string
	Argv              []string
	User              string
	KeepCaps, Isolate bool
	Landlock          int // not 0: do not call Exec, but shutInWith

	Without string // leave this out of what Exec does: see exec_mutation_test.go
}

// execHelper is what cmd/wgjail is: it calls Exec, and ends with its status.
func execHelper() {
	var r execRequest
	if err := json.Unmarshal([]byte(os.Getenv(execRequestVar)), &r); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Unsetenv(execRequestVar)
	ns, err := netnsx.OpenNamed(r.Name)
	if err == nil && r.Landlock != 0 {
		err = runShutIn(ns, r)
	} else if err == nil {
		err = execWithout(r.Without, ExecOptions{
			Namespace: ns, Name: r.Name, Argv: r.Argv, User: r.User, KeepCaps: r.KeepCaps, Isolate: r.Isolate,
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
	}
	fmt.Fprintf(os.Stderr, "error: %v\nhint: %s\n", err, hint.Of(err))
	os.Exit(ExitStatus(err))
}

// runShutIn becomes the program in a Landlock domain, and has nothing else
// done to it.
func runShutIn(ns *netnsx.Namespace, r execRequest) error {
	if err := ns.Enter(); err != nil { // locks the thread
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := shutInWith(r.Landlock); err != nil {
		return err
	}
	return execProgram(r.Argv, os.Environ())
}

// An answer is what the probe says to one question.
type answer struct{ Out, Err string }

// probe answers questions about what it sees and can do, one a line.
func probe() {
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		text, err := probeVerb(verb, arg)
		a := answer{Out: text}
		if err != nil {
			a.Err = err.Error()
		}
		out.Encode(a)
	}
	os.Exit(0)
}

func probeVerb(verb, arg string) (string, error) {
	switch verb {
	case "args":
		text, err := json.Marshal(os.Args)
		return string(text), err
	case "env":
		return strings.Join(os.Environ(), "\n"), nil
	case "cwd":
		return workingDirectory(), nil
	case "umask":
		return fmt.Sprintf("%04o", unix.Umask(0)), nil
	case "nice":
		n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		return fmt.Sprint(20 - n), err
	case "ids":
		groups, err := os.Getgroups()
		return fmt.Sprint(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid(), groups), err
	case "read":
		text, err := os.ReadFile(arg)
		return string(text), err
	case "list":
		return listNames(arg)
	case "stat":
		var st unix.Stat_t
		err := unix.Stat(arg, &st)
		return fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), err
	case "write":
		return "", os.WriteFile(arg, []byte("written\n"), 0o644)
	case "connect":
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: arg, Net: "unix"})
		if err == nil {
			c.Close()
		}
		return "", err
	case "setns":
		ns, err := netnsx.Open(arg)
		if err != nil {
			return "", err
		}
		defer ns.Close()
		return "", ns.Do(func() error { return nil })
	case "kill":
		var pid int
		fmt.Sscan(arg, &pid)
		return "", unix.Kill(pid, 0)
	case "run":
		text, err := exec.Command("sh", "-c", arg).CombinedOutput()
		return string(text), err
	}
	return "", errors.New("unknown question " + verb)
}

func listNames(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

// newJailForExec makes a namespace called vpn and the files that Exec needs.
func newJailForExec(t *testing.T, w *world.World) *world.Node {
	t.Helper()
	// As on a machine with systemd: what is mounted arrives elsewhere, unless
	// it is kept from it.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	put(t, "/etc/netns/vpn/resolv.conf", "nameserver 10.64.0.1\n")
	put(t, "/etc/netns/vpn/nsswitch.conf", "hosts: files dns\n")
	return w.Namespace(t, "vpn")
}

// put writes a file of the world, and makes its directory.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// execCommand returns the command that calls Exec for r.
func execCommand(t *testing.T, r execRequest) *exec.Cmd {
	t.Helper()
	if r.Name == "" {
		r.Name = "vpn"
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"wgjail"},
		Env: append(os.Environ(), execRequestVar+"="+string(text)),
	}
}

// An insider is a probe that runs in a jail.
type insider struct {
	*world.Process
	in  io.Writer
	out *bufio.Reader
}

// probePath is where the probe finds itself: the kernel's name of the running
// program works for any user and below any mask.
const probePath = "/proc/self/exe"

// enter starts a probe in the jail, with args after its name. change may alter
// the command that calls Exec.
func enter(t *testing.T, w *world.World, r execRequest, args []string, change func(*exec.Cmd)) *insider {
	t.Helper()
	if r.Argv != nil {
		t.Fatal("the program is the probe")
	}
	r.Argv = append([]string{probePath}, args...)
	cmd := execCommand(t, r)
	cmd.Env = append(cmd.Env, probeVar+"=1")
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	cmd.Stdin, cmd.Stdout = inR, outW
	if change != nil {
		change(cmd)
	}
	p := &insider{w.Host.Start(t, cmd), inW, bufio.NewReader(outR)}
	inR.Close()
	outW.Close()
	return p
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// ask returns the probe's answer.
func (p *insider) ask(t *testing.T, format string, args ...any) answer {
	t.Helper()
	question := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(p.in, question); err != nil {
		t.Fatalf("ask %q: %v", question, err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("ask %q: no answer: %v", question, err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatalf("ask %q: %v", question, err)
	}
	return a
}

// want is ask for an answer without an error.
func (p *insider) want(t *testing.T, format string, args ...any) string {
	t.Helper()
	a := p.ask(t, format, args...)
	if a.Err != "" {
		t.Fatalf("%s: %s", fmt.Sprintf(format, args...), a.Err)
	}
	return a.Out
}

// wantErr is ask for an error.
func (p *insider) wantErr(t *testing.T, want syscall.Errno, format string, args ...any) {
	t.Helper()
	if a := p.ask(t, format, args...); !strings.Contains(a.Err, want.Error()) {
		t.Errorf("%s: got %+v, want the error %q", fmt.Sprintf(format, args...), a, want)
	}
}
