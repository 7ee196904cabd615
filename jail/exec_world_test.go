package jail

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// addUsers gives the world a user ann with two more groups, called by sudo.
func addUsers(t *testing.T) {
	t.Helper()
	for path, text := range map[string]string{
		"/etc/passwd": "ann:x:4321:4322:Ann:/home/ann:/bin/ann-sh\n",
		"/etc/group":  "ann:x:4322:\nband:x:4323:ann\nclub:x:4324:bob,ann\nother:x:4325:bob\n",
	} {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		put(t, path, string(old)+text)
	}
}

func bySudo(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, "SUDO_UID=4321", "SUDO_GID=4322", "SUDO_USER=ann", "HOME=/root", "USER=root", "LOGNAME=root")
}

// status returns the fields of /proc/self/status of the probe's main thread.
func status(t *testing.T, p *insider) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(p.want(t, "read /proc/self/status")) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}

func TestExecUsers(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		addUsers(t)
		const none = "0000000000000000"
		tests := []struct {
			name   string
			r      execRequest
			change func(*exec.Cmd)
			ids    string // real and effective uid, gid; groups
			home   string
			caps   bool
		}{
			{name: "root", ids: "0 0 0 0 [0 4999]", home: os.Getenv("HOME")},
			{name: "sudo", change: bySudo, ids: "4321 4321 4322 4322 [4322 4323 4324]", home: "/home/ann"},
			{name: "sudo, root by name", r: execRequest{User: "root"}, change: bySudo, ids: "0 0 0 0 [0]", home: "/root"},
			{name: "name and group", r: execRequest{User: "ann:other"}, ids: "4321 4321 4325 4325 []", home: "/home/ann"},
			{name: "numbers", r: execRequest{User: "7000:7001"}, ids: "7000 7000 7001 7001 []", home: "/"},
			{name: "root with capabilities", r: execRequest{KeepCaps: true}, ids: "0 0 0 0 [0 4999]", home: os.Getenv("HOME"), caps: true},
			{name: "sudo with capabilities", r: execRequest{KeepCaps: true}, change: bySudo,
				ids: "4321 4321 4322 4322 [4322 4323 4324]", home: "/home/ann", caps: true},
			{name: "root with ambient capabilities", change: func(cmd *exec.Cmd) { cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN} },
				ids: "0 0 0 0 [0 4999]", home: os.Getenv("HOME")},
			{name: "isolated", r: execRequest{Isolate: true}, change: bySudo, ids: "4321 4321 4322 4322 [4322 4323 4324]", home: "/home/ann"},
		}
		own, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				p := enter(t, w, tt.r, nil, func(cmd *exec.Cmd) {
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{0, 4999}}}
					if tt.change != nil {
						tt.change(cmd)
					}
				})
				if got := p.want(t, "ids"); got != tt.ids {
					t.Errorf("ids %s, want %s", got, tt.ids)
				}
				if got := getVariable(strings.Split(p.want(t, "env"), "\n"), "HOME"); got != tt.home {
					t.Errorf("HOME is %q, want %q", got, tt.home)
				}
				fields := status(t, p)
				for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
					switch {
					case !tt.caps && fields[set] != none:
						t.Errorf("%s is %s", set, fields[set])
					case tt.caps && strings.HasPrefix(tt.name, "sudo") || tt.caps && set != "CapInh" && set != "CapAmb":
						if !strings.Contains(string(own), "CapPrm:\t"+fields[set]+"\n") {
							t.Errorf("%s is %s, not what the caller has:\n%s", set, fields[set], own)
						}
					}
				}
				if got, want := fields["NoNewPrivs"], map[bool]string{false: "1", true: "0"}[tt.caps]; got != want {
					t.Errorf("NoNewPrivs is %q, want %q", got, want)
				}
			})
		}
	})
}

// What a program inherits stays as it was.
func TestExecInheritance(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		addUsers(t)
		args := []string{"a b", "", "--", "-x", "$HOME", "new\nline", "\xff"}
		secret, _ := pipe(t)
		p := enter(t, w, execRequest{}, args, func(cmd *exec.Cmd) {
			bySudo(cmd)
			cmd.Dir = "/usr/bin"
			cmd.Env = append(cmd.Env, "ODD=a=b c", "EMPTY=", "SHELL=/bin/root-sh")
			// A shell sets what a Go program cannot set for its child.
			script := `umask 0077; ulimit -S -n 333; trap '' HUP INT; exec nice -n 5 /proc/` + fmt.Sprint(os.Getpid()) + `/exe`
			cmd.Path = "/bin/sh"
			cmd.Args = []string{"sh", "-c", script}
			cmd.ExtraFiles = []*os.File{secret, secret, secret, secret, secret} // 3 to 7
		})
		var got []string
		if err := json.Unmarshal([]byte(p.want(t, "args")), &got); err != nil {
			t.Fatal(err)
		}
		want := append([]string{probePath}, args...)
		want[len(want)-1] = "\ufffd" // in JSON
		if !slices.Equal(got, want) {
			t.Errorf("arguments %q, want %q", got, want)
		}
		if got := p.want(t, "cwd"); got != "/usr/bin" {
			t.Errorf("working directory %q", got)
		}
		if got := p.want(t, "umask"); got != "0077" {
			t.Errorf("umask %s", got)
		}
		if got := p.want(t, "nice"); got != "5" {
			t.Errorf("nice value %s", got)
		}
		p.want(t, "read /etc/resolv.conf") // whatever the umask, anybody can
		env := strings.Split(p.want(t, "env"), "\n")
		for name, want := range map[string]string{
			"ODD": "a=b c", "HOME": "/home/ann", "USER": "ann", "LOGNAME": "ann", "SHELL": "/bin/ann-sh", "SUDO_USER": "ann", "PATH": os.Getenv("PATH"),
		} {
			if got := getVariable(env, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if !slices.Contains(env, "EMPTY=") {
			t.Error("an empty variable is gone")
		}
		fields := status(t, p)
		if ign := fields["SigIgn"]; !strings.HasSuffix(ign, "03") { // HUP is 1, INT is 2
			t.Errorf("ignored signals %s", ign)
		}
		if blk := fields["SigBlk"]; strings.Trim(blk, "0") != "" {
			t.Errorf("blocked signals %s", blk)
		}
		// The probe's Go runtime raises the soft limit for itself, not for
		// what it starts.
		if got := strings.TrimSpace(p.want(t, "run ulimit -S -n")); got != "333" {
			t.Errorf("soft limit of open files %s", got)
		}
		for fd := 3; fd < 8; fd++ {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.Pid, fd))
			if secretLink, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", secret.Fd())); err == nil && link == secretLink {
				t.Errorf("descriptor %d was inherited", fd)
			}
		}
	})
}

func TestCloseOnExecEach(t *testing.T) {
	r, w := pipe(t)
	for _, f := range []*os.File{r, w} {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			t.Fatal(err)
		}
	}
	first, second := min(r.Fd(), w.Fd()), max(r.Fd(), w.Fd())
	if err := closeOnExecEach(int(second)); err != nil {
		t.Fatal(err)
	}
	for fd, want := range map[uintptr]int{first: 0, second: unix.FD_CLOEXEC} {
		if got, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || got != want {
			t.Errorf("descriptor %d: flags %d, error %v, want %d", fd, got, err, want)
		}
	}
}
