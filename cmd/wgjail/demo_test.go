package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// newDemo prepares a world as small as the demo needs, a host with nothing but
// lo, and returns it with what must be there afterwards.
func newDemo(t *testing.T, w *world.World) (l *lab, before string) {
	t.Helper()
	install(t)
	return &lab{Lab: &world.Lab{Host: w.Host}, w: w}, w.Snapshot(t)
}

// mustBeGone wants nothing left of a demo.
func (l *lab) mustBeGone(t *testing.T, before, after string) {
	t.Helper()
	l.unchanged(t, before, after)
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "wgjail-demo-") {
			t.Errorf("after %s %s is left in %s", after, f.Name(), os.TempDir())
		}
	}
}

// demoProofs is what wgjail demo prints once all is proven.
const demoProofs = `
proven    the page was fetched through port %s of this host
proven    the page's program asked a server on the internet side, which saw it as 10\.64\.0\.2
proven    its request came out of the tunnel at the provider
proven    of \d+ packets on this host's interfaces, \d+ were WireGuard's and none showed the request
`

func TestDemoOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newDemo(t, w)
		r, err := runIn(l.Host, exec.Command("wgjail", "demo", "--once"))
		if err != nil {
			t.Fatal(err)
		}
		want := `^provider  a WireGuard server of its own, at 127\.0\.0\.1:\d+
jail      demo is up \(` + backend() + ` WireGuard, MTU \d+\); the file was the provider's, unchanged
page      a web server in the jail, on 127\.0\.0\.1:8080: not reachable from here
forward   wgjail forward 8080:8080
` + fmt.Sprintf(demoProofs, "8080") + `everything is removed
$`
		if r.status != 0 || r.err != "" || !regexp.MustCompile(want).MatchString(r.out) {
			t.Errorf("status %d, printed\n%s%swant\n%s", r.status, r.out, r.err, want)
		}
		l.mustBeGone(t, before, "demo --once")
	})
}

// The demo stays until Ctrl-C, with a page for everybody, beside other jails.
func TestDemo(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.do(t, "up", l.Conf(t, "demo"))
		settled(t, "demo")
		before := w.Snapshot(t)
		p := l.start(t, "demo")
		p.WaitOutput(t, "Ctrl-C ends it and removes everything\n")
		for _, text := range []string{"jail      demo2 is up", "http://127.0.0.1:8080/", "http://" + world.HostLANV4 + ":8080/", "wgjail exec demo2 -- ip address"} {
			if !strings.Contains(p.Output(), text) {
				t.Errorf("no %q in what was printed", text)
			}
		}
		page := l.LAN.Run(t, "curl", "--noproxy", "*", "-sSf", "-m", "20", "http://"+world.HostLANV4+":8080/")
		for _, text := range []string{"<dd>10.64.0.2</dd>", "demo2 lo", "You are looking into the jail"} {
			if !strings.Contains(page, text) {
				t.Errorf("no %q in the page", text)
			}
		}
		if names := l.statusList(t); len(names) != 2 || names[1].Name != "demo2" || names[1].State != "up" || len(names[1].Processes) != 1 {
			t.Errorf("status %+v", names)
		}
		p.Signal(t, syscall.SIGINT)
		if err := p.Wait(); err != nil || !strings.HasSuffix(p.Output(), "everything is removed\n") {
			t.Errorf("after Ctrl-C: %v", err)
		}
		l.unchanged(t, before, "the demo")
	})
}

// Wherever Ctrl-C comes, nothing is left.
func TestDemoInterrupted(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newDemo(t, w)
		moments := []struct {
			printed string
			signal  syscall.Signal
		}{
			{"", syscall.SIGINT}, {"provider  ", syscall.SIGINT}, {"provider  ", syscall.SIGHUP}, {"jail  ", syscall.SIGTERM},
			{"page  ", syscall.SIGINT}, {"forward  ", syscall.SIGINT}, {"proven  ", syscall.SIGINT}, {"look around", syscall.SIGTERM},
		}
		for _, c := range moments[:times(len(moments), 4)] {
			in, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("wgjail", "demo")
			cmd.Stdout = out
			p := l.Host.Start(t, cmd)
			out.Close()
			waitLine(in, c.printed, func() { p.Signal(t, c.signal) })
			in.Close()
			p.Wait()
			l.mustBeGone(t, before, fmt.Sprintf("%v at %q", c.signal, c.printed))
		}
	})
}

func TestDemoInterruptedAnywhere(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newDemo(t, w)
		waits := []time.Duration{60, 5, 20, 40, 80, 120, 160}
		for _, wait := range waits[:times(len(waits), 1)] {
			p := l.start(t, "demo")
			time.AfterFunc(wait*time.Millisecond, func() { p.Signal(t, syscall.SIGINT) })
			p.Wait()
			l.mustBeGone(t, before, fmt.Sprintf("Ctrl-C after %d ms", wait))
		}
	})
}

// waitLine calls do as soon as r has a line that begins with prefix, and reads
// on to the end.
func waitLine(r io.Reader, prefix string, do func()) {
	var text strings.Builder
	buf := make([]byte, 1)
	for done := false; ; {
		if !done && strings.Contains("\n"+text.String(), "\n"+prefix) {
			done = true
			do()
		}
		if _, err := r.Read(buf); err != nil {
			return
		}
		text.Write(buf)
	}
}

// A demo looks for a free port, unless it is told which.
func TestDemoPort(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l, before := newDemo(t, w)
		for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080"} {
			busy, err := l.Host.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			r, err := runIn(l.Host, exec.Command("wgjail", "demo", "--once"))
			found := regexp.MustCompile(fmt.Sprintf(demoProofs, `(\d+)`)).FindStringSubmatch(r.out)
			if err != nil || r.status != 0 || found == nil || found[1] == "8080" {
				t.Errorf("with %s in use: status %d (%v), printed\n%s%s", addr, r.status, err, r.out, r.err)
			}
			r, err = runIn(l.Host, exec.Command("wgjail", "demo", "--once", "--port", "8080"))
			if err != nil || r.status != 1 || !strings.Contains(r.err, "port 8080/tcp: address already in use") {
				t.Errorf("with %s in use and --port 8080: status %d (%v), printed\n%s%s", addr, r.status, err, r.out, r.err)
			}
			busy.Close()
			l.mustBeGone(t, before, "the demo with "+addr+" in use")
		}
		r, err := runIn(l.Host, exec.Command("wgjail", "demo", "--once", "--port", "9999"))
		if err != nil || r.status != 0 || !strings.Contains(r.out, "forward   wgjail forward 9999:8080\n") {
			t.Errorf("with --port 9999: status %d (%v), printed\n%s%s", r.status, err, r.out, r.err)
		}
		l.mustBeGone(t, before, "the demo on a port of choice")
	})
}
