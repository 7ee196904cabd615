package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Programs as they are in Debian find the same through a forward as they do in
// the jail.
func TestForwardForProgramsOfDebian(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		dir := t.TempDir()
		l.servePrograms(t, jail, dir)
		l.forward(t, "8080:80", "8730:873")
		for name, script := range map[string]string{
			"download":          `curl -sSf --noproxy '*' -m 60 http://$WEB/big | sha256sum`,
			"eight at a time":   `for i in 1 2 3 4 5 6 7 8; do curl -sSf --noproxy '*' -m 60 http://$WEB/big | sha256sum & done; wait`,
			"one connection":    `curl -sSf --noproxy '*' -m 60 -w '%{num_connects}\n' -o $OUT/a http://$WEB/big -o $OUT/b http://$WEB/small; cat $OUT/a $OUT/b | sha256sum`,
			"HTTP/1.0":          `curl -sSf --noproxy '*' -m 60 -0 http://$WEB/small`,
			"refused at length": `curl -sS --noproxy '*' -m 60 -H Expect: -w '%{http_code}\n' -o $OUT/a --data-binary @$DIR/www/big http://$WEB/small`,
			"slowly":            `curl -sSf --noproxy '*' -m 60 --limit-rate 8M http://$WEB/big | sha256sum`,
			"rsync, to":         `rsync -a rsync://$RSYNC/www/ $OUT/copy; cd $OUT/copy; sha256sum *`,
			"rsync, from":       `rm -rf $DIR/in/*; rsync -a $DIR/www/ rsync://$RSYNC/in/; cd $DIR/in; sha256sum *`,
		} {
			direct := l.asProgram(t, jail, dir, "127.0.0.1:80", "127.0.0.1:873", script)
			for _, host := range []string{world.HostLANV4, "[" + world.HostLANV6 + "]"} {
				if got := l.asProgram(t, l.LAN, dir, host+":8080", host+":8730", script); got != direct {
					t.Errorf("%s, through the forward at %s:\n%s, in the jail:\n%s", name, host, got, direct)
				}
			}
		}
	})
}

// asProgram runs a script in a node and returns what it prints.
func (l *lab) asProgram(t *testing.T, n *world.Node, dir, web, rsync, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "WEB="+web, "RSYNC="+rsync, "DIR="+dir, "OUT="+t.TempDir())
	r, err := runIn(n, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != 0 || r.out == "" {
		t.Errorf("%s in %s, with %s: status %d\n%s%s", script, n.Name, web, r.status, r.out, r.err)
	}
	return r.out
}

// servePrograms starts nginx at port 80 and rsync at port 873 of a node's
// loopback.
func (l *lab) servePrograms(t *testing.T, n *world.Node, dir string) {
	t.Helper()
	big := make([]byte, 8<<20)
	rand.Read(big)
	files := map[string]string{
		"www/big": string(big), "www/small": "hello\n", "in/old": "to be deleted\n",
		"nginx.conf": fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events {}
http {
  access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  client_max_body_size 1k;
  server { listen 127.0.0.1:80; root %[1]s/www; }
}
`, dir),
		"rsyncd.conf": fmt.Sprintf("use chroot = no\nuid = 0\ngid = 0\n[www]\npath = %[1]s/www\n[in]\npath = %[1]s/in\nread only = no\n", dir),
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("nginx", "-c", dir+"/nginx.conf", "-e", dir+"/error.log"),
		exec.Command("rsync", "--daemon", "--no-detach", "--config="+dir+"/rsyncd.conf", "--address=127.0.0.1"),
	} {
		p := n.Start(t, cmd)
		t.Cleanup(func() { p.Signal(t, syscall.SIGKILL); p.Wait() })
	}
	for _, port := range []int{80, 873} {
		world.Eventually(t, "a server", func() error { return listening(n, port) })
	}
}
