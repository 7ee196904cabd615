package main

import (
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
)

// In the foreground up stays as long as the jail, and the jail as long as up.
func TestUpInTheForeground(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			up := l.start(t, "up", "--foreground", l.conf, "-p", "8080")
			up.WaitOutput(t, "forwarding ")
			l.usable(t, "in the foreground")
			up.Signal(t, sig)
			if status := exitCode(up.Wait()); status != 0 {
				t.Errorf("after %v it ended with status %d", sig, status)
			}
			l.unchanged(t, before, sig.String())
		}
		up := l.start(t, "up", "--foreground", l.conf)
		up.WaitOutput(t, "is up")
		l.do(t, "down", "vpn")
		if status := exitCode(up.Wait()); status != 0 || !strings.Contains(up.Output(), "jail vpn was removed") {
			t.Errorf("after down it ended with status %d", status)
		}
		l.unchanged(t, before, "down")
	})
}

// A keeper that is killed is replaced under the programs inside, and the
// service manager is told how it is.
func TestForegroundReplacesTheKeeper(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		told := notifySocket(t)
		up := l.start(t, "up", "--foreground", l.conf)
		wantTold(t, told, "READY=1")
		wantTold(t, told, "WATCHDOG=1")
		l.usable(t, "in the foreground")
		namespace := l.in(t, "readlink /proc/self/ns/net")
		program := l.start(t, "exec", "vpn", "--", "sh", "-c", "echo inside; read line; readlink /proc/self/ns/net")
		program.WaitOutput(t, "inside")
		for range 2 {
			keeper := keeperPid(t)
			killKeeper(t)
			wantTold(t, told, "repaired")
			if now := keeperPid(t); now == keeper {
				t.Errorf("the keeper is still process %d", now)
			}
			l.usable(t, "with another keeper")
			if now := l.in(t, "readlink /proc/self/ns/net"); now != namespace {
				t.Errorf("the namespace was %s and is %s", namespace, now)
			}
		}
		up.WaitOutput(t, "has been repaired: ")
		up.Signal(t, syscall.SIGTERM)
		wantTold(t, told, "STOPPING=1")
		if status := exitCode(up.Wait()); status != 0 {
			t.Errorf("it ended with status %d", status)
		}
		program.Signal(t, syscall.SIGKILL)
		program.Wait()
		l.unchanged(t, before, "the end")
	})
}

// A jail that somebody has made before is kept, and no other is made.
func TestForegroundTakesOver(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		l.up(t)
		told := notifySocket(t)
		up := l.start(t, "up", "--foreground", l.conf)
		wantTold(t, told, "READY=1")
		killKeeper(t)
		wantTold(t, told, "repaired")
		l.usable(t, "with another keeper")
		up.Signal(t, syscall.SIGTERM)
		up.Wait()
		l.unchanged(t, before, "the end")
	})
}

// At boot the network may come after the service.
func TestForegroundWaitsForTheName(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		told := notifySocket(t)
		l.Client.Endpoint = "late.test:" + world.EndpointPort
		up := l.start(t, "up", "--foreground", l.Conf(t, "vpn"))
		wantTold(t, told, "waiting for the address of the endpoint: ")
		l.Sink.SetName("late.test", netip.MustParseAddr(world.EndpointsV4[0]))
		wantTold(t, told, "READY=1")
		l.usable(t, "late")
		up.Signal(t, syscall.SIGTERM)
		up.Wait()
	})
}

// notifySocket is a service manager's ear, for what is started from now on.
func notifySocket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { told.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return told
}

// wantTold waits until the service manager is told something with text in it.
func wantTold(t *testing.T, told *net.UnixConn, text string) {
	t.Helper()
	told.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		message := make([]byte, 4096)
		n, err := told.Read(message)
		if err != nil {
			t.Fatalf("the service manager was not told %q: %v", text, err)
		}
		t.Logf("told: %s", message[:n])
		if strings.Contains(string(message[:n]), text) {
			return
		}
	}
}
