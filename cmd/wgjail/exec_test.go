package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// withEnv returns a command on the host with these variables besides the usual.
func withEnv(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command("wgjail", args...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

func TestExecRunsAs(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		for path, line := range map[string]string{
			"/etc/passwd": "ann:x:1234:1235:Ann:/home/ann:/bin/bash\n",
			"/etc/group":  "ann:x:1235:\naudio:x:1236:bob,ann\nwheel:x:1237:bob\n",
		} {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(text, line...), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		const show = `echo $(id -u) $(id -g) $(id -G) $USER $HOME`
		root := "0 0 " + strings.TrimSpace(l.Host.Run(t, "id", "-G")) + " root /root\n"
		base := []string{"USER=root", "HOME=/root"}
		for _, tt := range []struct {
			env, flags []string
			want       string
		}{
			{nil, nil, root},
			{[]string{"SUDO_UID=1234", "SUDO_GID=1235", "SUDO_USER=ann"}, nil, "1234 1235 1235 1236 ann /home/ann\n"},
			{[]string{"SUDO_UID=0", "SUDO_GID=0", "SUDO_USER=root"}, nil, root},
			{[]string{"DOAS_USER=ann"}, nil, "1234 1235 1235 1236 ann /home/ann\n"},
			{[]string{"SUDO_UID=1234", "SUDO_GID=1235", "SUDO_USER=ann"}, []string{"--user", "root"}, "0 0 0 root /root\n"},
			{nil, []string{"--user", "ann"}, "1234 1235 1235 1236 ann /home/ann\n"},
			{nil, []string{"--user", "1234:77"}, "1234 77 77 ann /home/ann\n"},
			{nil, []string{"--user", "4321:77"}, "4321 77 77 /\n"},
		} {
			args := append(append([]string{"exec"}, tt.flags...), "vpn", "--", "sh", "-c", show)
			if r := l.runCmd(t, withEnv(append(base, tt.env...), args...)); r.status != 0 || r.out != tt.want {
				t.Errorf("with %q and %q it is %q, want %q", tt.env, tt.flags, r.out, tt.want)
			}
		}
		l.refused(t, 1, []string{`user "nosuch"`, "hint: "}, "exec", "--user", "nosuch", "vpn", "--", "true")
		r := l.runCmd(t, withEnv([]string{"SUDO_UID=x"}, "exec", "vpn", "--", "true"))
		if r.status != 1 || !strings.Contains(r.err, "SUDO_UID") {
			t.Errorf("with a bad SUDO_UID it ended with %+v", r)
		}
	})
}

// Neither root nor a user has a way out.
func TestExecShutsIn(t *testing.T) {
	eachCaller(t, func(t *testing.T, l *lab) {
		jail := l.up(t)
		l.hold(t) // it has all rights over the jail too
		inside := jail.ID().String() + "\n"
		for _, opts := range l.programs() {
			user := strings.Join(opts, " ")
			run := func(script string) result {
				return l.run(t, append(append([]string{"exec"}, opts...), "vpn", "--", "sh", "-c", script)...)
			}
			if r := run("readlink /proc/self/ns/net"); r.out != inside {
				t.Errorf("user %s is in %q", user, r.out)
			}
			if r := run("ls /sys/class/net"); r.out != "lo\nvpn\n" {
				t.Errorf("user %s sees the links %q", user, r.out)
			}
			status := run("cat /proc/self/status").out
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if !regexp.MustCompile(set + `:\t0+\n`).MatchString(status) {
					t.Errorf("user %s has a capability in %s:\n%s", user, set, status)
				}
			}
			if !strings.Contains(status, "NoNewPrivs:\t1\n") {
				t.Errorf("user %s can get new privileges", user)
			}
			ways := []string{
				fmt.Sprintf("nsenter --net=/proc/%d/ns/net true", os.Getpid()),
				"nsenter -t 1 -n true",
				"ip netns exec exit true",
				"ip link set vpn down",
				"ip route add 192.0.2.0/24 dev lo",
				"nft flush ruleset",
				"echo 1 >/proc/sys/net/ipv4/conf/all/forwarding",
				"mount -t tmpfs none /mnt",
				"rm -r /run/wgjail",
			}
			if l.user != nil { // programs are the same user as what wgjail does for the jail
				ways = append(ways, waysToKeeper(l.keeper(t))...)
			}
			for _, way := range ways {
				if r := run(way); r.status == 0 {
					t.Errorf("user %s can: %s", user, way)
				}
			}
			// A new user namespace gives power over a new network namespace only.
			if r := run("unshare -Urn ip -o link"); r.status == 0 && strings.Contains(r.out, "vpn") {
				t.Errorf("user %s got the links %q", user, r.out)
			}
			if r := run("unshare -Ur nsenter --net=/run/netns/exit true"); r.status == 0 {
				t.Errorf("user %s could enter another namespace", user)
			}
		}
		if s := l.status(t); s.State != "up" {
			t.Errorf("in the end the jail is %s: %q", s.State, s.Missing)
		}
		if out := l.do(t, "exec", "--keep-caps", "vpn", "--", "grep", "CapEff", "/proc/self/status"); strings.Contains(out, "\t0000000000000000\n") {
			t.Errorf("--keep-caps left %q", out)
		}
	})
}

// waysToKeeper would be ways to what wgjail does for the jail, with more rights
// than a program's, and to what it has written down.
func waysToKeeper(keeper int) []string {
	return []string{
		fmt.Sprintf("nsenter --net=/proc/%d/ns/net true", keeper),
		fmt.Sprintf("nsenter --user=/proc/%d/ns/user true", keeper),
		fmt.Sprintf("nsenter --mount=/proc/%d/ns/mnt true", keeper),
		fmt.Sprintf("head -c1 /proc/%d/environ", keeper),
		fmt.Sprintf("head -c1 /proc/%d/mem", keeper),
		fmt.Sprintf("readlink /proc/%d/fd/1", keeper),
		fmt.Sprintf("ls /proc/%d/root/run/wgjail", keeper),
		"ls $XDG_RUNTIME_DIR/wgjail | grep .",
		"touch $XDG_RUNTIME_DIR/wgjail/x",
		"ls /run/wireguard | grep .",
		"wgjail exec vpn -- true",
		"wgjail down vpn",
	}
}

// What the program gets is what it was given.
func TestExecHandsOver(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		t.Run("arguments", func(t *testing.T) {
			args := []string{"", "a b", "*", "$HOME", "--", "-x", "--help", "line\nline", `"quoted" 'twice'`, "ü\xff"}
			want := ""
			for _, arg := range args {
				want += "[" + arg + "]"
			}
			if out := l.do(t, append([]string{"exec", "vpn", "--", "printf", "[%s]"}, args...)...); out != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
		t.Run("environment and working directory", func(t *testing.T) {
			dir := t.TempDir()
			cmd := withEnv([]string{"FOO=bar baz", "EMPTY="}, "exec", "vpn", "--", "sh", "-c", `pwd; echo "$FOO.${EMPTY-unset}."; umask`)
			cmd.Dir = dir
			mask := l.Host.Run(t, "sh", "-c", "umask")
			if r := l.runCmd(t, cmd); r.out != dir+"\nbar baz..\n"+mask {
				t.Errorf("got %q", r.out)
			}
		})
		t.Run("standard input", func(t *testing.T) {
			cmd := exec.Command("wgjail", "exec", "vpn", "--", "cat")
			cmd.Stdin = strings.NewReader(strings.Repeat("0123456789\n", 20000))
			if r := l.runCmd(t, cmd); len(r.out) != 11*20000 {
				t.Errorf("%d bytes came through", len(r.out))
			}
		})
		t.Run("no descriptor above 2", func(t *testing.T) {
			s, err := l.Host.ListenPacket("udp4", "0.0.0.0:0")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			f, err := s.(*net.UDPConn).File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			// No pipeline: its pipe would be two more while ls looks.
			cmd := exec.Command("wgjail", "exec", "vpn", "--", "sh", "-c", "ls /proc/$$/fd; echo >&3; echo >&7")
			cmd.ExtraFiles = []*os.File{f, f, f, f, f} // 3 to 7
			r := l.runCmd(t, cmd)
			if r.out != "0\n1\n2\n" || strings.Count(r.err, "Bad file descriptor") != 2 {
				t.Errorf("got %q, %q", r.out, r.err)
			}
		})
		t.Run("process", func(t *testing.T) {
			p := l.start(t, "exec", "vpn", "--", "sh", "-c", `trap 'echo got TERM; exit 5' TERM; trap 'echo got INT' INT; echo "I am $$ of $PPID."; while :; do sleep 0.01; done`)
			p.WaitOutput(t, fmt.Sprintf("I am %d of %d.\n", p.Pid, os.Getpid()))
			p.Signal(t, syscall.SIGINT)
			p.WaitOutput(t, "got INT\n")
			p.Signal(t, syscall.SIGTERM)
			if status := exitCode(p.Wait()); status != 5 {
				t.Errorf("it ended with status %d", status)
			}
		})
		t.Run("terminal", func(t *testing.T) {
			term := startOnTerminal(t, l.Host, exec.Command("wgjail", "exec", "vpn", "--", "sh", "-c",
				`test -t 0 && test -t 1 && test -t 2 && stty size && echo here >/dev/tty; trap 'echo got INT; exit 6' INT; echo ready; read line`))
			term.waitFor(t, "33 77\nhere\nready\n")
			term.press(t, "\x03")
			term.waitFor(t, "got INT\n")
			if status := term.status(); status != 6 {
				t.Errorf("it ended with status %d", status)
			}
		})
	})
}

func TestExecStatus(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		plain := filepath.Join(t.TempDir(), "plain")
		if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			command []string
			status  int
			says    string
		}{
			{[]string{"true"}, 0, ""},
			{[]string{"sh", "-c", "exit 7"}, 7, ""},
			{[]string{"sh", "-c", "kill -KILL $$"}, -1, ""},
			{[]string{"no-such-program"}, 127, "wgjail: error: no-such-program: "},
			{[]string{"/no/such/program"}, 127, "wgjail: error: /no/such/program: "},
			{[]string{plain}, 126, "wgjail: error: " + plain + ": permission denied"},
			{[]string{"/etc"}, 126, "wgjail: error: /etc: is a directory"},
		} {
			r := l.run(t, append([]string{"exec", "vpn", "--"}, tt.command...)...)
			if r.status != tt.status || !strings.HasPrefix(r.err, tt.says) || tt.says == "" && r.err != "" {
				t.Errorf("%q ended with %+v, want status %d, %q", tt.command, r, tt.status, tt.says)
			}
		}
	})
}

func TestExecFindsTheJail(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		command := []string{"--", "readlink", "/proc/self/ns/net"}
		exec := func(args ...string) []string { return append(append([]string{"exec"}, args...), command...) }
		l.refused(t, 1, []string{"there is no jail", "hint: make one"}, exec()...)
		l.refused(t, 1, []string{"jail vpn is not up", "hint: make it"}, exec("vpn")...)
		l.refused(t, 2, []string{"cannot be the name of a jail", "hint: "}, exec("../vpn")...)
		vpn := l.up(t).ID().String() + "\n"
		if out := l.do(t, exec()...); out != vpn {
			t.Errorf("without a name it ran in %s", out)
		}
		l.do(t, "up", l.Conf(t, "work"))
		work := w.Open(t, "work").ID().String() + "\n"
		l.refused(t, 2, []string{"there are 2 jails (vpn, work)", "hint: name it, or set WGJAIL_JAIL"}, exec()...)
		if out := l.do(t, exec("work")...); out != work {
			t.Errorf("with the name work it ran in %s", out)
		}
		if r := l.runCmd(t, withEnv([]string{"WGJAIL_JAIL=work"}, exec()...)); r.out != work {
			t.Errorf("with $WGJAIL_JAIL it ended with %+v", r)
		}
		if r := l.runCmd(t, withEnv([]string{"WGJAIL_JAIL=work"}, exec("vpn")...)); r.out != vpn {
			t.Errorf("a name against $WGJAIL_JAIL ended with %+v", r)
		}
		l.refused(t, 2, []string{"hint: put it after --"}, "exec", "vpn")
		l.refused(t, 2, []string{"hint: put it after --"}, "exec", "vpn", "true")
		l.refused(t, 2, []string{"after --"}, "exec", "vpn", "--")
		l.refused(t, 2, []string{"too many arguments before --"}, "exec", "vpn", "work", "--", "true")
	})
}
