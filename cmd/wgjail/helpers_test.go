package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// A lab is world.Lab with wgjail installed on its host.
type lab struct {
	*world.Lab
	w    *world.World
	user *world.User // who calls wgjail; nil: root
	conf string      // the client's configuration: vpn.conf
}

// newLab builds a lab. On its host the test binary is in PATH as wgjail.
func newLab(t *testing.T, w *world.World) *lab {
	t.Helper()
	install(t)
	l := &lab{Lab: w.Lab(t), w: w}
	l.conf = l.Conf(t, "vpn")
	return l
}

// install puts the test binary into PATH as wgjail and as probe, where any user
// can run it, and takes away what tells wgjail who has called it.
func install(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wgjail", "probe"} {
		path := filepath.Join(dir, name)
		// The binary's own folder may be closed to other users.
		if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, nil, 0o755), unix.Mount(self, path, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, name := range []string{"SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_HOME", "DOAS_USER", "PKEXEC_UID", "WGJAIL_JAIL"} {
		t.Setenv(name, "") // so that it is put back
		os.Unsetenv(name)
	}
}

// kernelBackend reports whether the kernel's WireGuard is what wgjail uses here.
func kernelBackend() bool { return os.Getenv("WGJAIL_TEST_KERNEL") == "1" }

// backend is the name of what wgjail uses here.
func backend() string {
	if kernelBackend() {
		return "kernel"
	}
	return "userspace"
}

// times returns how often to repeat something: less where the machine is
// emulated.
func times(usual, emulated int) int {
	if kernelBackend() {
		return emulated
	}
	return usual
}

// A result is how a call of wgjail ended.
type result struct {
	status   int // -1: a signal ended it
	out, err string
}

// run calls wgjail on the host and returns how it ended.
func (l *lab) run(t *testing.T, args ...string) result {
	t.Helper()
	return l.runCmd(t, l.command(args...))
}

// runCmd runs cmd on the host. It fails the test if a secret of the lab appears
// in what is printed.
func (l *lab) runCmd(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	r, err := runIn(l.Host, cmd)
	t.Logf("host$ %s\n%.5000s%.5000s(status %d)", strings.Join(cmd.Args, " "), r.out, r.err, r.status)
	if err != nil {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	l.mustHaveNoSecret(t, "the output of "+strings.Join(cmd.Args, " "), r.out+r.err)
	return r
}

// runIn runs cmd in a node and returns how it ended. The error means that it
// did not run.
func runIn(n *world.Node, cmd *exec.Cmd) (result, error) {
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	cmd.WaitDelay = time.Minute // for those who keep its output open
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result{}, err
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}, nil
}

// do calls wgjail on the host and returns its standard output. It fails the
// test if the exit status is not 0.
func (l *lab) do(t *testing.T, args ...string) string {
	t.Helper()
	r := l.run(t, args...)
	if r.status != 0 {
		t.Fatalf("wgjail %s: exit status %d", strings.Join(args, " "), r.status)
	}
	return r.out
}

// refused calls wgjail on the host and wants this exit status and, in what it
// prints to standard error, each of these texts.
func (l *lab) refused(t *testing.T, status int, texts []string, args ...string) {
	t.Helper()
	r := l.run(t, args...)
	if r.status != status {
		t.Errorf("wgjail %s: exit status %d, want %d", strings.Join(args, " "), r.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("wgjail %s: no %q in:\n%s", strings.Join(args, " "), text, r.err)
		}
	}
}

// start starts wgjail on the host, in the background.
func (l *lab) start(t *testing.T, args ...string) *world.Process {
	t.Helper()
	return l.Host.Start(t, l.command(args...))
}

// up makes the jail vpn and returns its namespace.
func (l *lab) up(t *testing.T, args ...string) *world.Node {
	t.Helper()
	l.do(t, append([]string{"up", l.conf}, args...)...)
	return l.jail(t)
}

// in runs a shell command in the jail vpn, as root, and returns its standard
// output. It fails the test if the command does.
func (l *lab) in(t *testing.T, script string) string {
	t.Helper()
	return l.do(t, "exec", "vpn", "--", "sh", "-c", script)
}

// mustHaveNoSecret fails the test if one of the client's keys is in text.
func (l *lab) mustHaveNoSecret(t testing.TB, where, text string) {
	t.Helper()
	for what, secret := range l.secrets() {
		if strings.Contains(text, secret) {
			t.Errorf("the %s is in %s", what, where)
		}
	}
}

// secrets returns the client's keys in the forms in which they could appear.
func (l *lab) secrets() map[string]string {
	private, shared := l.Client.PrivateKey, l.Client.PresharedKey
	return map[string]string{
		"private key": private.String(), "private key in hexadecimal": fmt.Sprintf("%x", private[:]),
		"private key as bytes": string(private[:]),
		"preshared key":        shared.String(), "preshared key in hexadecimal": fmt.Sprintf("%x", shared[:]),
		"preshared key as bytes": string(shared[:]),
	}
}

// unchanged fails the test if the world is not as it was in the snapshot
// before. What is ending is waited for.
func (l *lab) unchanged(t *testing.T, before, after string) {
	t.Helper()
	var diff string
	for deadline := time.Now().Add(world.AtMost(5 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
		if diff = world.Diff(before, l.w.Snapshot(t)); diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %s the machine is not as before:\n%s", after, diff)
			return
		}
	}
}

// echo sends text from a node to an echo service and wants it back.
func echo(from *world.Node, network, addr, text string) error {
	c, err := from.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(world.AtMost(20 * time.Second)))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}
