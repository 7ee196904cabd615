package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// sshd starts an SSH server behind the tunnel, for the key in the file that is
// returned. It lets root in, whose home is in the test's own folder.
func sshd(t *testing.T, l *lab) (key string) {
	t.Helper()
	home := t.TempDir()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	users := strings.Replace(string(passwd), ":/root:", ":"+home+":", 1)
	if err := os.WriteFile("/etc/passwd", []byte(users), 0o644); err != nil {
		t.Fatal(err)
	}
	l.Host.Run(t, "sh", "-ec", `
		cd `+home+`
		mkdir -m 700 .ssh
		ssh-keygen -q -t ed25519 -N '' -f key
		cp key.pub .ssh/authorized_keys
		dropbearkey -t ed25519 -f host`)
	l.Exit.Start(t, exec.Command("dropbear", "-F", "-E", "-s", "-r", filepath.Join(home, "host"), "-p", "22", "-P", filepath.Join(home, "pid")))
	world.Eventually(t, "the SSH server", func() error { return listening(l.Exit, 22) })
	return filepath.Join(home, "key")
}

// ssh gets through by way of a helper that speaks SOCKS5, and by one that speaks
// HTTP.
func TestProxyForSSH(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, _ := proxyLab(t, w)
		key := sshd(t, l)
		for _, helper := range []string{"nc -X 5 -x 127.0.0.1:1080 %h %p", "nc -X connect -x 127.0.0.1:8118 %h %p"} {
			r, err := runIn(l.Host, exec.Command("ssh", "-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
				"-o", "ProxyCommand="+helper, "root@web.test", "echo $SSH_CONNECTION"))
			if err != nil {
				t.Fatal(err)
			}
			if from, _, _ := strings.Cut(r.out, " "); r.status != 0 || from != "10.64.0.2" && from != "fd64::2" {
				t.Errorf("%s: status %d, the server saw %q: %s", helper, r.status, r.out, r.err)
			}
		}
	})
}

// A browser shows a page from behind the tunnel, and asks nobody else for its
// name.
func TestProxyForChromium(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, _ := proxyLab(t, w)
		name := strings.ToLower(string(world.Canary())) + ".test"
		l.Provider.SetName(name, addrList(inJail)...)
		asked := func(name string) bool {
			return slices.ContainsFunc(l.Sink.Queries(), func(q provider.Query) bool { return q.Name == name })
		}
		l.Host.Try(t, "getent", "ahosts", "control.test")
		if !asked("control.test") {
			t.Fatal("positive control: the host's server was not asked")
		}
		for _, server := range []string{"socks5://127.0.0.1:1080", "http://127.0.0.1:8118"} {
			r, err := runIn(l.Host, exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
				"--user-data-dir="+t.TempDir(), "--proxy-server="+server, "--proxy-bypass-list=<-loopback>", "--dump-dom", "http://"+name+"/"))
			if err != nil {
				t.Fatal(err)
			}
			if r.status != 0 || !strings.Contains(r.out, "10.64.0.2") && !strings.Contains(r.out, "fd64::2") {
				t.Errorf("%s: status %d, it shows %q: %s", server, r.status, r.out, r.err)
			}
		}
		if asked(name) {
			t.Errorf("the host's server was asked for %s", name)
		}
	})
}
