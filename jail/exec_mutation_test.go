package jail

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
)

// execWithout is Exec with one thing left out: a step by its name, or an entry
// of a list as "LIST: ENTRY". "" is Exec.
func execWithout(what string, opts ExecOptions) error {
	if what == "" {
		return Exec(opts)
	}
	list, entry, ok := strings.Cut(what, ": ")
	if ok {
		*execLists[list] = slices.DeleteFunc(slices.Clone(*execLists[list]), func(s string) bool { return s == entry })
		return Exec(opts)
	}
	opts.Env = os.Environ()
	e, err := prepareExec(opts)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		failed <- func() error {
			here, err := netnsx.Current()
			if err == nil {
				err = here.Enter() // locks the thread
			}
			for _, s := range e.steps() {
				if err == nil && s.name != what {
					err = s.do()
				}
			}
			if err != nil {
				return err
			}
			return execProgram(e.Argv, e.Env)
		}()
	}()
	return <-failed
}

// execLists are what Exec is told by.
var execLists = map[string]*[]string{
	"hidden in /run": &runHidden, "left in /run": &runIsolated, "variable": &sessionVariables, "temporary variable": &temporaryVariables,
}

// kinds are the programs that the trials are about.
var kinds = map[string]execRequest{
	"user":     {User: "7000:7000"},
	"root":     {},
	"isolated": {User: "7000:7000", Isolate: true},
	"trusted":  {User: "7000:7000", KeepCaps: true},
}

// A target is a world with everything that Exec keeps from a program.
type target struct {
	w      *world.World
	jail   *world.Node
	secret *os.File // which the caller has open
	other  int      // a process of the same user outside
}

// An execTrial is something that is so for programs of some kinds. It returns
// what is wrong.
type execTrial struct {
	name  string
	kinds string
	wrong func(*testing.T, *target, *insider) string
}

var execTrials = []execTrial{
	{"open files", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/7", p.Pid))
		if secret, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", x.secret.Fd())); link == secret {
			return "it has the caller's " + secret
		}
		return ""
	}},
	{"network namespace", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string {
		if !inNamespace(p.Pid, x.jail.ID()) {
			return "it is not in the jail"
		}
		return ""
	}},
	{"mount namespace", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", p.Pid))
		if callers, _, _ := strings.Cut(p.Output(), "\n"); err != nil || callers == theirs {
			return "it is the caller's"
		}
		return ""
	}},
	{"mounts", "user root isolated trusted", func(t *testing.T, x *target, _ *insider) string {
		if text, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(text) != hostsResolvConf {
			return fmt.Sprintf("the host's resolv.conf is %q now", text)
		}
		return ""
	}},
	{"file capabilities", "user root isolated", func(t *testing.T, x *target, p *insider) string { return p.ask(t, "run /run/lock/capable").Err }},
	{"names", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string {
		if text := p.ask(t, "read /etc/resolv.conf").Out; text != jailsResolvConf {
			return fmt.Sprintf("resolv.conf is %q", text)
		}
		return ""
	}},
	{"name services", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string { return p.reaches(t, nameServices) }},
	{"working directory", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string { return p.reaches(t, []string{"nscd/socket"}) }},
	{"devices", "user root isolated trusted", func(t *testing.T, x *target, p *insider) string {
		if names := p.ask(t, "list /sys/class/net").Out; names != "lo" {
			return "it sees " + names
		}
		return ""
	}},
	{"user", "user isolated trusted", func(t *testing.T, x *target, p *insider) string {
		if ids := p.ask(t, "ids").Out; ids != "7000 7000 7000 7000 []" {
			return "it is " + ids
		}
		return ""
	}},
	{"capabilities", "user root isolated", func(t *testing.T, x *target, p *insider) string {
		fields := status(t, p)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if strings.Trim(fields[set], "0") != "" {
				return set + " is " + fields[set]
			}
		}
		if fields["NoNewPrivs"] != "1" {
			return "it can get new privileges"
		}
		return ""
	}},
	{"kept capabilities", "trusted", func(t *testing.T, x *target, p *insider) string {
		if caps := status(t, p)["CapEff"]; strings.Trim(caps, "0") == "" {
			return "there are none"
		}
		return ""
	}},
	{"session", "isolated", func(t *testing.T, x *target, p *insider) string { return p.reaches(t, sessionSockets) }},
	{"variables", "isolated", func(t *testing.T, x *target, p *insider) string {
		env := strings.Split(p.ask(t, "env").Out, "\n")
		for _, name := range append(slices.Clone(sessionVariables), temporaryVariables...) {
			if v := getVariable(env, name); v != "" {
				return name + " is " + v
			}
		}
		return ""
	}},
	{"processes outside", "isolated", func(t *testing.T, x *target, p *insider) string {
		if p.ask(t, "list /proc/%d/root/", x.other).Err == "" {
			return "it can look into one"
		}
		return ""
	}},
	{"what is left", "isolated", func(t *testing.T, x *target, p *insider) string {
		for _, name := range runIsolated {
			if a := p.ask(t, "stat /run/%s", name); a.Err != "" {
				return a.Err
			}
		}
		return ""
	}},
}

const (
	hostsResolvConf = "nameserver 203.0.113.7\n"
	jailsResolvConf = "nameserver 10.64.0.1\n"
)

// What listens on the host.
var (
	nameServices = append(eachIn("/run/", runHidden), "/var/run/nscd/socket", "/var/lib/sss/pipes/nss")
	// A session's.
	sessionSockets = []string{"/run/user/7000/bus", "/run/docker.sock", "/tmp/.X11-unix/X0", "/tmp/tmux-7000/default"}
)

// eachIn returns a socket's path for each name below dir.
func eachIn(dir string, names []string) []string {
	var paths []string
	for _, name := range names {
		paths = append(paths, dir+name+"/socket")
	}
	return paths
}

// reaches says which of the sockets the program reaches.
func (p *insider) reaches(t *testing.T, paths []string) string {
	t.Helper()
	for _, path := range paths {
		if p.ask(t, "connect %s", path).Err == "" {
			return "it reaches " + path
		}
	}
	return ""
}

// newTarget fills a world.
func newTarget(t *testing.T, w *world.World) *target {
	t.Helper()
	x := &target{w: w, jail: newJailForExec(t, w), other: sleeper(t, w)}
	for dir, options := range map[string]string{"/var": "mode=755", "/tmp": "mode=1777", "/run/lock": "mode=1777"} {
		if err := unix.Mount("tmp", dir, "tmpfs", 0, options); err != nil {
			t.Fatal(err)
		}
	}
	put(t, "/etc/resolv.conf", hostsResolvConf)
	for _, name := range runIsolated {
		if err := os.MkdirAll("/run/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.Host.Run(t, "ip", "link", "add", "outer0", "type", "veth", "peer", "name", "outer1")
	for _, path := range append(slices.Clone(nameServices), sessionSockets...) {
		newDecoy(t, path)
	}
	makeCapable(t, "/run/lock/capable")
	x.secret, _ = pipe(t)
	return x
}

// enter starts a program of a kind.
func (x *target) enter(t *testing.T, kind, without string) *insider {
	t.Helper()
	r := kinds[kind]
	r.Without = without
	return enter(t, x.w, r, nil, func(cmd *exec.Cmd) {
		cmd.Dir = "/run"
		cmd.ExtraFiles = []*os.File{x.secret, x.secret, x.secret, x.secret, x.secret} // 3 to 7
		for _, name := range append(slices.Clone(sessionVariables), temporaryVariables...) {
			cmd.Env = append(cmd.Env, name+"=/tmp/x")
		}
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", fmt.Sprintf("readlink /proc/self/ns/mnt >&2; exec /proc/%d/exe", os.Getpid())}
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		if kind == "root" {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
		}
		if without == noNamespace {
			cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // or it would be the world's that changes
		}
	})
}

// failing returns what is wrong with programs of these kinds, without something,
// by trial and kind.
func (x *target) failing(t *testing.T, without string, kinds []string) map[string]string {
	t.Helper()
	wrong := map[string]string{}
	for _, kind := range kinds {
		p := x.enter(t, kind, without)
		if !p.begins() {
			wrong["start of "+kind] = p.Output()
			continue
		}
		for _, trial := range execTrials {
			if !slices.Contains(strings.Fields(trial.kinds), kind) {
				continue
			}
			if text := trial.wrong(t, x, p); text != "" {
				wrong[trial.name+" of "+kind] = text
			}
		}
		unix.Kill(p.Pid, unix.SIGKILL)
		p.Wait()
	}
	return wrong
}

// begins waits until the program answers and reports whether it does.
func (p *insider) begins() bool {
	_, err := fmt.Fprintln(p.in, "umask")
	if err == nil {
		_, err = p.out.ReadBytes('\n')
	}
	return err == nil
}

// steps returns the names of the steps for a kind.
func (x *target) steps(t *testing.T, kind string) (names []string) {
	t.Helper()
	r := kinds[kind]
	e, err := prepareExec(ExecOptions{Namespace: x.jail.Namespace, Name: "vpn", Argv: []string{"true"}, User: r.User, KeepCaps: r.KeepCaps, Isolate: r.Isolate})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range e.steps() {
		names = append(names, s.name)
	}
	return names
}

// mutations returns all that can be left out, with the kinds that have it.
func (x *target) mutations(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for kind := range kinds {
		for _, name := range x.steps(t, kind) {
			all[name] = append(all[name], kind)
		}
	}
	for list, entries := range execLists {
		for _, entry := range *entries {
			all[list+": "+entry] = []string{"isolated"}
			if list == "hidden in /run" {
				all[list+": "+entry] = []string{"user", "root"}
			}
		}
	}
	return all
}

// Without these steps the caller's mounts are changed, and the world's.
const (
	noNamespace = "make a mount namespace"
	shareMounts = "keep mounts in it"
)

// TestExecMutations: each step of Exec, and each entry of its lists, is left out,
// alone. Then a trial must fail. So nothing is done that nothing depends on.
func TestExecMutations(t *testing.T) {
	t.Run("most", func(t *testing.T) {
		world.Run(t, func(t *testing.T, w *world.World) {
			x := newTarget(t, w)
			requireLandlock(t)
			if wrong := x.failing(t, "", slices.Collect(maps.Keys(kinds))); len(wrong) > 0 {
				t.Fatalf("nothing is left out, but: %v", wrong)
			}
			for name, of := range x.mutations(t) {
				if name != shareMounts {
					x.mustMiss(t, name, of)
				}
			}
		})
	})
	t.Run("last", func(t *testing.T) {
		world.Run(t, func(t *testing.T, w *world.World) {
			newTarget(t, w).mustMiss(t, shareMounts, []string{"user"})
			for _, dir := range []string{"/sys", "/var/lib/sss", "/var/run", "/run", "/etc"} { // the world needs its own
				unix.Unmount(dir, unix.MNT_DETACH)
			}
		})
	})
}

// mustMiss leaves something out of programs of these kinds.
func (x *target) mustMiss(t *testing.T, name string, kinds []string) {
	t.Helper()
	wrong := x.failing(t, name, kinds)
	t.Logf("without %q: %v", name, wrong)
	if len(wrong) == 0 {
		t.Errorf("without %q nothing is different: why is it there?", name)
	}
}

// makeCapable makes a program at path that has a capability.
func makeCapable(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Clean(path), text, 0o755); err != nil {
		t.Fatal(err)
	}
	// struct vfs_cap_data of <linux/capability.h>: revision 2, effective;
	// permitted CAP_NET_RAW; nothing inheritable. It is little-endian.
	capability := []byte{1, 0, 0, 2, 0, 1 << (unix.CAP_NET_RAW - 8), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(path, "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
}
