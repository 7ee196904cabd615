package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Whatever the environment says, commands do what they do without it, or refuse
// and say why.
func TestHostileEnvironment(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		garbage := []string{"", "-1", "4294967295", "99999999999999999999", "0x10", "../../etc", "a\nb", "-n", "%s%n", "$(id)", strings.Repeat("x", 1<<16)}
		names := []string{"SUDO_UID", "SUDO_USER", "DOAS_USER", "PKEXEC_UID", "WGJAIL_JAIL"}
		others := []string{"SUDO_GID", hasteVariable, "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "HOME", "TMPDIR", "TERM", "NOTIFY_SOCKET", "LISTEN_FDS"}
		for _, value := range garbage {
			for i := range len(names) + 1 {
				cmd := exec.Command("wgjail", "exec", "--", "id", "-u")
				cmd.Env = os.Environ()
				if i < len(names) {
					cmd.Env = append(cmd.Env, names[i]+"="+value)
				} else {
					for _, name := range others {
						cmd.Env = append(cmd.Env, name+"="+value)
					}
				}
				r, err := runIn(l.Host, cmd)
				if err != nil {
					t.Fatal(err)
				}
				done := r.status == 0 && r.out == "0\n"
				refused := (r.status == 1 || r.status == 2) && r.out == "" && strings.HasPrefix(r.err, "wgjail: error: ")
				if !done && !refused || strings.Contains(r.err, "goroutine ") {
					t.Errorf("%.60q: %.500v", cmd.Env[len(cmd.Env)-1], r)
				}
			}
		}
	})
}

// What a symbolic link in wgjail's folder leads to is no jail, and is left alone.
func TestLinksInState(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		l.Host.Run(t, "sh", "-ec", `mkdir -p /run/target/forwards; cp -r /run/wgjail/vpn/. /run/target; echo mine >/run/target/file
			ln -s /run/target /run/wgjail/evil; ln -s /run/target /run/wgjail/vpn/forwards/evil; ln -s /run/target/file /run/wgjail/vpn/forwards/file`)
		look := func() string {
			return l.Host.Run(t, "sh", "-c", "ls -lR --time-style=+ /run/target; cat /run/target/file")
		}
		before := look()
		if names := l.statusList(t); len(names) != 1 || names[0].Name != "vpn" {
			t.Errorf("status lists %+v", names)
		}
		for _, args := range [][]string{{"exec", "evil", "--", "true"}, {"forward", "--jail", "evil", "8080"}, {"check", "evil"}, {"status", "evil"}} {
			if r := l.run(t, args...); r.status == 0 && args[0] != "status" {
				t.Errorf("wgjail %s: %+v", strings.Join(args, " "), r)
			}
		}
		l.run(t, "down", "evil")
		l.do(t, "down", "--all")
		if after := look(); after != before {
			t.Errorf("what the links lead to was\n%s\nand is\n%s", before, after)
		}
		if left := strings.Fields(l.Host.Run(t, "sh", "-c", "ls /run/wgjail || true")); slices.Contains(left, "vpn") {
			t.Errorf("in /run/wgjail is left %q", left)
		}
	})
}
