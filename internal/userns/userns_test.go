package userns_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/userns"
	"github.com/wgjail/wgjail/internal/world"
)

// rolePrefix begins the first argument of what Start starts: the rest says what
// it is to do.
const rolePrefix = "userns-role="

func TestMain(m *testing.M) {
	if role, ok := strings.CutPrefix(os.Args[0], rolePrefix); ok {
		os.Exit(play(role))
	}
	world.Main(m)
}

// play is what the process does that a test has started.
func play(role string) int {
	switch role {
	case "describe":
		fmt.Print(describe())
	case "wait": // until its standard input ends
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
	case "user": // an ordinary user who starts another one
		return asUser()
	}
	return 7
}

// describe says what a program finds of its surroundings.
func describe() string {
	dir, _ := os.Getwd()
	status, _ := os.ReadFile("/proc/self/status")
	var caps []string
	for line := range strings.Lines(string(status)) {
		for _, field := range []string{"Cap", "SigIgn", "SigBlk"} {
			if strings.HasPrefix(line, field) {
				caps = append(caps, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	maps, _ := os.ReadFile("/proc/self/uid_map")
	groups, _ := os.ReadFile("/proc/self/gid_map")
	return fmt.Sprintf("ids %d %d\ndir %s\nuid_map %s\ngid_map %s\n%s\nargs %q\nenv %q\n", os.Getuid(), os.Getgid(), dir,
		strings.Join(strings.Fields(string(maps)), " "), strings.Join(strings.Fields(string(groups)), " "), strings.Join(caps, "\n"), os.Args, os.Getenv("MINE"))
}

// output starts role with o and returns what it prints to its standard output.
func output(o userns.Options, role string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	o.Argv = append([]string{rolePrefix + role}, o.Argv...)
	o.Files = []int{0, int(w.Fd()), 2}
	pid, err := userns.Start(o)
	w.Close()
	if err != nil {
		return "", err
	}
	defer userns.Reap(pid)
	text, err := io.ReadAll(r)
	return string(text), err
}

// held starts a process that lives until close is called, and returns its number.
func held(o userns.Options) (pid int, close func(), err error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	o.Argv, o.Files = []string{rolePrefix + "wait"}, []int{int(inR.Fd()), int(outW.Fd()), 2}
	pid, err = userns.Start(o)
	inR.Close()
	outW.Close()
	if err != nil {
		return 0, nil, err
	}
	if _, err := outR.Read(make([]byte, 16)); err != nil {
		return 0, nil, err
	}
	return pid, func() { inW.Close(); userns.Reap(pid); outR.Close() }, nil
}

// want reports whether text is in got.
func want(got, text string) error {
	if !strings.Contains(got, text) {
		return fmt.Errorf("no %q in:\n%s", text, got)
	}
	return nil
}

// asUser is the test, run by an ordinary user.
func asUser() int {
	runtime.LockOSThread()
	for name, test := range map[string]func() error{"start": testStart, "errors": testErrors, "join": testJoin, "signals": testSignals, "death": testDeath} {
		if err := test(); err != nil {
			fmt.Printf("%s: %v\n", name, err)
			return 1
		}
	}
	return 0
}

// allCaps is the line of proc_pid_status(5) for all capabilities that this kernel has.
func allCaps() string {
	text, _ := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	last, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return fmt.Sprintf("CapAmb: %016x", uint64(2)<<last-1)
}

func testStart() error {
	out, err := output(userns.Options{User: userns.New, Mount: userns.New, Argv: []string{"a b", ""}, Env: []string{"MINE=yours"}}, "describe")
	dir, _ := os.Getwd()
	uid, gid := os.Getuid(), os.Getgid()
	return errors.Join(err,
		want(out, fmt.Sprintf("ids %d %d\ndir %s\nuid_map %[1]d %[1]d 1\ngid_map %[2]d %[2]d 1\n", uid, gid, dir)),
		want(out, allCaps()), want(out, `"a b" ""]`), want(out, `env "yours"`))
}

// What the kernel refuses is said, and nothing runs.
func testErrors() error {
	file, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	defer file.Close()
	for _, c := range []struct {
		o    userns.Options
		step userns.Step
		err  error
	}{
		{userns.Options{User: int(file.Fd()), Mount: userns.New}, userns.StepEnterUser, unix.EINVAL},
		{userns.Options{User: userns.New, Mount: int(file.Fd())}, userns.StepEnterMount, unix.EINVAL},
	} {
		_, err := output(c.o, "describe")
		var start *userns.StartError
		if !errors.As(err, &start) || start.Step != c.step || !errors.Is(err, c.err) {
			return fmt.Errorf("got %v, want %v: %v", err, c.step, c.err)
		}
	}
	return nil
}

// A second process joins the first one's namespaces, which are found by it.
func testJoin() error {
	pid, end, err := held(userns.Options{User: userns.New, Mount: userns.New})
	if err != nil {
		return err
	}
	defer end()
	s, err := userns.Of(pid)
	if err != nil {
		return err
	}
	defer s.Close()
	names, err := s.Names()
	if err != nil {
		return err
	}
	second, endSecond, err := held(userns.Options{User: int(s.User.Fd()), Mount: int(s.Mount.Fd())})
	if err != nil {
		return err
	}
	defer endSecond()
	other, err := userns.Of(second)
	if err != nil {
		return err
	}
	defer other.Close()
	if got, err := other.Names(); err != nil || got != names {
		return fmt.Errorf("it is in %v, %v, not in %v", got, err, names)
	}
	mark, wrong := "tmpfs-that-nobody-has", names
	for _, m := range strings.Fields("proc sysfs tmpfs run") { // one that the world has
		if f, err := userns.Find(names, m); err == nil {
			f.Close()
			mark = m
		}
	}
	if _, err := userns.Find(names, "nothing"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("without its mark it is found: %v", err)
	}
	wrong.User = "user:[1]"
	if _, err := userns.Find(wrong, mark); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("under another name it is found: %v", err)
	}
	wrong = names
	wrong.Mount = "mnt:[1]"
	f, err := userns.Find(wrong, mark)
	if err != nil || f.Mount != nil {
		return fmt.Errorf("with another mount namespace it is %v, %v", f, err)
	}
	f.Close()
	f, err = userns.Find(names, mark)
	if err != nil || f.Mount == nil {
		return fmt.Errorf("it is not found: %v, %v", f, err)
	}
	defer f.Close()
	out, err := output(userns.Options{User: int(f.User.Fd()), Mount: int(f.Mount.Fd())}, "describe")
	dir, _ := os.Getwd()
	return errors.Join(err, want(out, allCaps()), want(out, "\ndir "+dir+"\n"))
}

// Signals are as they are for this process: what is ignored stays ignored, what
// is handled is not, and nothing is blocked.
func testSignals() error {
	signal.Ignore(syscall.SIGHUP) // a Go program that begins with that leaves it so
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR2)
	defer signal.Stop(caught)
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	_, own, _ := strings.Cut(string(status), "SigIgn:\t") // more than that one if whoever started the test ignores more
	own, _, _ = strings.Cut(own, "\n")
	if !strings.HasSuffix(own, "1") {
		return fmt.Errorf("SIGHUP is not ignored: %s", own)
	}
	out, err := output(userns.Options{User: userns.New, Mount: userns.New}, "describe")
	return errors.Join(err, want(out, "SigBlk: 0000000000000000"), want(out, "SigIgn: "+own))
}

// It does not outlive the thread that has started it.
func testDeath() error {
	started := make(chan int)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and dies with it
		pid, _, err := held(userns.Options{User: userns.New, Mount: userns.New, Death: unix.SIGTERM})
		failed <- err
		started <- pid
	}()
	if err := <-failed; err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(<-started, &status, 0, nil); err != nil || !status.Signaled() || status.Signal() != unix.SIGTERM {
		return fmt.Errorf("it ended with %v, %v", status, err)
	}
	return nil
}

func TestAsOrdinaryUser(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		u := w.User(t, "ann")
		program := filepath.Join(u.Home, "program")
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// Its own folder may be closed to others.
		if err := errors.Join(os.Chmod(u.Home, 0o755), os.WriteFile(program, nil, 0o755), unix.Mount(self, program, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			cmd := u.Command(program)
			cmd.Args = []string{rolePrefix + "user"}
			var text strings.Builder
			cmd.Stdout, cmd.Stderr = &text, &text
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, &text)
			}
		}
	})
}
