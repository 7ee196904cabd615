package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// Whatever makes up fail, it leaves the machine as it was, and what is not ours
// alone.
func TestFailedUpLeavesNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		script := func(text string) func(*testing.T) {
			return func(t *testing.T) { l.Host.Run(t, "sh", "-c", text) }
		}
		conf := func(old, new string) string {
			t.Helper()
			text := strings.Replace(l.Client.Config(), old, new, 1)
			path := filepath.Join(t.TempDir(), "vpn.conf")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		hooks := func(line string) []string { return []string{"--allow-hooks", conf("[Peer]", line+"\n[Peer]")} }
		for _, tt := range []struct {
			what     string
			spoil    func(*testing.T)
			args     []string
			says     []string
			mend     string
			backends string // if it is about one only
		}{
			{what: "bad configuration", args: []string{conf("Address = ", "Address = x")}, says: []string{"vpn.conf:3", "hint: "}},
			{what: "no file", args: []string{"/nowhere/vpn.conf"}, says: []string{"/nowhere/vpn.conf: no such file", "hint: "}},
			{what: "bad name", args: []string{l.Conf(t, "a b")}, says: []string{`"a b" cannot be the name of a jail`, "hint: "}},
			{what: "long name", args: []string{l.Conf(t, "abcdefghijklmnop")}, says: []string{"cannot be the name of a jail", "15 characters"}},
			{what: "unresolvable endpoint", args: []string{conf(l.Client.Endpoint, "nowhere.test:51820")},
				says: []string{"look up endpoint nowhere.test", "hint: "}},
			{what: "no resolver", spoil: script("echo nameserver 127.0.0.1 >/etc/resolv.conf"), args: []string{conf(l.Client.Endpoint, "vpn.test:51820")},
				says: []string{"look up endpoint vpn.test"}, mend: "echo nameserver " + world.InternetV4 + " >/etc/resolv.conf"},
			{what: "somebody's namespace", spoil: script("ip netns add vpn"), args: []string{l.conf},
				says: []string{"network namespace vpn exists and was not made by wgjail", "hint: "}, mend: "ip netns del vpn"},
			{what: "somebody's files", spoil: script("mkdir -p /etc/netns/vpn && echo hi >/etc/netns/vpn/hosts"), args: []string{l.conf},
				says: []string{"/etc/netns/vpn holds files that wgjail did not make", "hint: "}, mend: "rm -r /etc/netns"},
			{what: "somebody's WireGuard", spoil: l.listenUAPI, args: []string{l.conf},
				says: []string{"another WireGuard answers at", "hint: "}, mend: "rm -r /var/run/wireguard"},
			{what: "failing PreUp", args: hooks("PreUp = exit 3"), says: []string{"PreUp = exit 3: exit status 3"}},
			{what: "failing PostUp", args: hooks("PostUp = echo out; touch /run/tmp/was-there; false"), says: []string{"PostUp = ", "exit status 1"},
				mend: "rm /run/tmp/was-there"},
			{what: "no /dev/net/tun", spoil: script("mount -t tmpfs none /dev/net"), args: []string{l.conf},
				says: []string{"the device /dev/net/tun is needed"}, mend: "umount /dev/net", backends: "userspace"},
			{what: "no kernel WireGuard", args: []string{"--backend", "kernel", l.conf},
				says: []string{"this kernel has no WireGuard", "hint: "}, backends: "userspace"},
			{what: "port in use", spoil: l.listenUDP("0.0.0.0:40404"), args: []string{conf("[Peer]", "ListenPort = 40404\n[Peer]")},
				says: []string{"address already in use", "hint: another program has UDP port 40404"}},
			{what: "read-only /etc", spoil: script("mount -o remount,ro /etc"), args: []string{l.conf},
				says: []string{"read-only file system"}, mend: "mount -o remount,rw /etc"},
		} {
			t.Run(tt.what, func(t *testing.T) {
				if tt.backends != "" && tt.backends != backend() {
					return
				}
				if tt.spoil != nil {
					tt.spoil(t)
				}
				before := w.Snapshot(t)
				l.refused(t, 1, tt.says, append([]string{"up"}, tt.args...)...)
				l.unchanged(t, before, "the failure")
				l.do(t, "down", "vpn")
				l.unchanged(t, before, "down")
				if tt.mend != "" {
					l.Host.Run(t, "sh", "-c", tt.mend)
				}
			})
		}
		// None of them spoils the next.
		l.do(t, "up", l.conf)
		l.do(t, "down", "vpn")
	})
}

// listenUAPI is another WireGuard that is called vpn.
func (l *lab) listenUAPI(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll("/var/run/wireguard", 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := net.Listen("unix", "/var/run/wireguard/vpn.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
}

// listenUDP keeps a port of the host busy.
func (l *lab) listenUDP(addr string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		c, err := l.Host.ListenPacket("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

// A place for files that fills up at any moment: up fails, or not, and leaves
// nothing either way.
func TestUpWithoutRoomForFiles(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		for _, dir := range []string{"/run/wgjail", "/etc/netns"} {
			t.Run(dir, func(t *testing.T) {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				for files := 2; ; files++ { // the folder itself is one
					if files > 40 {
						t.Fatal("there is never room enough")
					}
					l.Host.Run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("nr_inodes=%d", files), "none", dir)
					before := w.Snapshot(t)
					r := l.run(t, "up", l.conf)
					if r.status == 0 {
						l.do(t, "down", "vpn")
					} else if r.status != 1 || !strings.Contains(r.err, "no space left on device") {
						t.Errorf("with room for %d files up ended with %+v", files, r)
					}
					l.unchanged(t, before, fmt.Sprintf("up with room for %d files", files))
					l.Host.Run(t, "umount", dir)
					if r.status == 0 {
						break
					}
				}
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// A signal ends up, and what it began is undone.
func TestUpInterrupted(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			for _, hook := range []string{"PreUp", "PostUp"} {
				path := l.write(t, "vpn", "Address = 10.64.0.2/32\n"+hook+" = echo in the hook; exec sleep 12345", "Endpoint = "+l.Client.Endpoint)
				up := l.start(t, "up", "--allow-hooks", path)
				up.WaitOutput(t, "in the hook\n")
				up.Signal(t, sig)
				if err := up.Wait(); err == nil {
					t.Errorf("after %v up ended with success", sig)
				}
				l.unchanged(t, before, fmt.Sprintf("%v in %s", sig, hook))
			}
		}
		// An endpoint that takes for ever to look up.
		silent, err := l.LAN.ListenPacket("udp4", world.LANV4+":53")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver "+world.LANV4+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		before = w.Snapshot(t)
		up := l.start(t, "up", l.write(t, "vpn", "Address = 10.64.0.2/32", "Endpoint = vpn.test:51820"))
		if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
		up.Signal(t, syscall.SIGINT)
		if err := up.Wait(); err == nil {
			t.Error("up ended with success")
		}
		l.unchanged(t, before, "SIGINT while the endpoint was looked up")
	})
}

// A forward that cannot be opened takes a new jail with it, but not one that
// others use.
func TestUpWithAForwardThatFails(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		busy, err := l.Host.Listen("tcp", "0.0.0.0:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
		before := w.Snapshot(t)
		l.refused(t, 1, []string{"port 8080/tcp: address already in use", "hint: "}, "up", l.conf, "-p", "8080")
		l.unchanged(t, before, "the failure")

		jail := l.up(t)
		c := connect(t, jail)
		l.refused(t, 1, []string{"port 8080/tcp: address already in use"}, "up", l.conf, "-p", "8080")
		c.goesOn(t, "an up whose forward failed")
		killKeeper(t)
		l.refused(t, 1, []string{"port 8080/tcp: address already in use"}, "up", l.conf, "-p", "8080")
		c.goesOn(t, "a repair whose forward failed")
	})
}

// A file that a user cannot read ends up before anything is tried.
func TestUpNeedsItsConfiguration(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		before := w.Snapshot(t)
		cmd := exec.Command("wgjail", "up", l.conf)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		r := l.runCmd(t, cmd)
		if r.status != 1 || !strings.Contains(r.err, l.conf+": permission denied") || !strings.Contains(r.err, "hint: run it with sudo") {
			t.Errorf("it ended with %+v", r)
		}
		l.unchanged(t, before, "the refusal")
	})
}
