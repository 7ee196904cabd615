package netnsx_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
)

// prepare calls PrepareDir and undoes it with the test.
func prepare(t *testing.T) netnsx.DirState {
	t.Helper()
	did, err := netnsx.PrepareDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netnsx.RemoveDir(did); err != nil {
			t.Error(err)
		}
	})
	return did
}

// create makes a namespace that is closed with the test, and left in place.
func create(t *testing.T, name string) *netnsx.Namespace {
	t.Helper()
	n, err := netnsx.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := netnsx.Remove(name); err != nil {
		t.Error(err)
	}
}

// checkID wants the namespace called name to be id.
func checkID(t *testing.T, name string, id netnsx.ID) {
	t.Helper()
	n, err := netnsx.OpenNamed(name)
	if err != nil {
		t.Error(err)
		return
	}
	defer n.Close()
	if n.ID() != id {
		t.Errorf("%s is %v, want %v", name, n.ID(), id)
	}
}

func TestCreateAndRemove(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		before := w.Snapshot(t)
		did, err := netnsx.PrepareDir()
		if err != nil {
			t.Fatal(err)
		}
		n := create(t, "vpn")
		checkID(t, "vpn", n.ID())
		if out := w.Host.Run(t, "ip", "netns"); strings.TrimSpace(out) != "vpn" {
			t.Errorf("ip netns lists %q", out)
		}
		if out := w.Host.Run(t, "ip", "netns", "exec", "vpn", "readlink", "/proc/self/ns/net"); strings.TrimSpace(out) != n.ID().String() {
			t.Errorf("ip netns exec went to %s, want %v", out, n.ID())
		}
		remove(t, "vpn")
		remove(t, "vpn") // twice is as good as once
		if _, err := netnsx.OpenNamed("vpn"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), netnsx.Path("vpn")) {
			t.Errorf("OpenNamed: %v; want ErrNotExist with the path", err)
		}
		if err := n.Do(func() error { return nil }); err != nil {
			t.Errorf("the namespace ended with its name: %v", err)
		}
		if err := netnsx.RemoveDir(did); err != nil {
			t.Error(err)
		}
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}

func TestCreateWithoutPrepareDir(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		if _, err := netnsx.Create("vpn"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Create: %v; want ErrNotExist", err)
		}
	})
}

func TestNameTaken(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		w.Host.Run(t, "ip", "netns", "add", "vpn")
		n, err := netnsx.OpenNamed("vpn")
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		if _, err := netnsx.Create("vpn"); !errors.Is(err, os.ErrExist) {
			t.Errorf("Create: %v; want ErrExist", err)
		}
		checkID(t, "vpn", n.ID())
		remove(t, "vpn")
	})
}

func TestWhatIsNoNamespace(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		// The file without its mount: what a crash between the two leaves.
		if err := os.WriteFile(netnsx.Path("stale"), nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(netnsx.Path("uts"), nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("/proc/self/ns/uts", netnsx.Path("uts"), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"stale", "uts"} {
			if _, err := netnsx.OpenNamed(name); !errors.Is(err, netnsx.ErrNotNamespace) || !strings.Contains(err.Error(), name) {
				t.Errorf("OpenNamed: %v; want ErrNotNamespace with the path", err)
			}
			if _, err := netnsx.Create(name); !errors.Is(err, os.ErrExist) {
				t.Errorf("Create: %v; want ErrExist", err)
			}
			remove(t, name)
			create(t, name)
			remove(t, name)
		}
	})
}

func TestRemoveTakesAwayEveryMount(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		before := w.Snapshot(t)
		create(t, "vpn")
		for range 2 {
			if err := unix.Mount("/proc/self/ns/net", netnsx.Path("vpn"), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		checkID(t, "vpn", w.Host.ID())
		remove(t, "vpn")
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}

func TestCreateAtOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		for range 20 {
			var wg sync.WaitGroup
			var won atomic.Pointer[netnsx.Namespace]
			gate := make(chan struct{})
			for range 16 {
				wg.Go(func() {
					<-gate
					n, err := netnsx.Create("vpn")
					switch {
					case err == nil && !won.CompareAndSwap(nil, n):
						t.Error("two made the same name")
					case err != nil && !errors.Is(err, os.ErrExist):
						t.Error(err)
					}
				})
			}
			close(gate)
			wg.Wait()
			n := won.Load()
			if n == nil {
				t.Fatal("nobody made the name")
			}
			checkID(t, "vpn", n.ID())
			n.Close()
			remove(t, "vpn")
		}
		checkHome(t, w.Host.ID())
	})
}

// Each case is a machine's state before; PrepareDir and RemoveDir must leave it
// as it was.
func TestPrepareDirIsUndone(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		for _, tt := range []struct {
			name, setup, teardown string
			want                  netnsx.DirState
		}{
			{"nothing", "true", "true", netnsx.DirState{Made: true, Mounted: true}},
			{"a directory", "mkdir -m 700 /run/netns", "rmdir /run/netns", netnsx.DirState{Mounted: true}},
			{"a mount", "mkdir /run/netns; mount -t tmpfs x /run/netns", "umount /run/netns; rmdir /run/netns", netnsx.DirState{}},
			{"ip netns was here", "ip netns add x; ip netns del x", "umount /run/netns; rmdir /run/netns", netnsx.DirState{}},
			{"a hidden mount", "mkdir /run/netns; mount --bind /run/netns /run/netns; mount -t tmpfs x /run", "umount /run; umount /run/netns; rmdir /run/netns",
				netnsx.DirState{Made: true, Mounted: true}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				w.Host.Run(t, "sh", "-ec", tt.setup)
				before := w.Snapshot(t)
				did, err := netnsx.PrepareDir()
				if err != nil || did != tt.want {
					t.Errorf("PrepareDir did %+v, %v; want %+v", did, err, tt.want)
				}
				if again, err := netnsx.PrepareDir(); err != nil || again != (netnsx.DirState{}) {
					t.Errorf("the second PrepareDir did %+v, %v; want nothing", again, err)
				}
				// ip netns finds it as it would have made it.
				w.Host.Run(t, "ip", "netns", "add", "theirs")
				create(t, "ours")
				if err := netnsx.RemoveDir(did); err != nil {
					t.Error(err)
				}
				w.Host.Run(t, "ip", "netns", "exec", "ours", "true") // names were left, so all is left
				w.Host.Run(t, "ip", "netns", "del", "theirs")
				remove(t, "ours")
				for range 2 {
					if err := netnsx.RemoveDir(did); err != nil {
						t.Error(err)
					}
				}
				if diff := world.Diff(before, w.Snapshot(t)); diff != "" && tt.name != "a mount" { // which ip netns shares
					t.Errorf("left:\n%s", diff)
				}
				w.Host.Run(t, "sh", "-ec", tt.teardown)
			})
		}
	})
}

func TestPrepareDirAtOnce(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		before := w.Snapshot(t)
		for range 20 {
			var wg sync.WaitGroup
			var made, mounted atomic.Int32
			gate := make(chan struct{})
			for range 16 {
				wg.Go(func() {
					<-gate
					did, err := netnsx.PrepareDir()
					if err != nil {
						t.Error(err)
					}
					if did.Made {
						made.Add(1)
					}
					if did.Mounted {
						mounted.Add(1)
					}
				})
			}
			close(gate)
			wg.Wait()
			if made.Load() != 1 || mounted.Load() != 1 {
				t.Errorf("made %d times and mounted %d times", made.Load(), mounted.Load())
			}
			if err := netnsx.RemoveDir(netnsx.DirState{Made: true, Mounted: true}); err != nil {
				t.Error(err)
			}
		}
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}

func TestPrepareDirAgainstRemoveDir(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		before := w.Snapshot(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					did, err := netnsx.PrepareDir()
					if err := errors.Join(err, netnsx.RemoveDir(did)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}

func TestLockOfAnotherUserDelaysOnly(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		before := w.Snapshot(t)
		f, err := os.Open("/run")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		did, err := netnsx.PrepareDir()
		f.Close()
		if err := errors.Join(err, netnsx.RemoveDir(did)); err != nil || !did.Made || !did.Mounted {
			t.Errorf("PrepareDir did %+v, %v", did, err)
		}
		if diff := world.Diff(before, w.Snapshot(t)); diff != "" {
			t.Errorf("left:\n%s", diff)
		}
	})
}

func TestAttachGivesANameBack(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		n := create(t, "vpn")
		path := fmt.Sprintf("/proc/self/fd/%d", n.Fd())
		if _, err := netnsx.Attach("vpn", path); !errors.Is(err, os.ErrExist) {
			t.Errorf("Attach to a name that is taken: %v; want ErrExist", err)
		}
		remove(t, "vpn")
		again, err := netnsx.Attach("vpn", path)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		checkID(t, "vpn", n.ID())
		remove(t, "vpn")
		for _, path := range []string{"/run/missing", "/proc/self/ns/uts", "/etc/hosts"} {
			if _, err := netnsx.Attach("vpn", path); err == nil {
				t.Errorf("Attach(%s) returned nil", path)
			}
		}
		if _, err := os.Stat(netnsx.Path("vpn")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a failed Attach left the name: %v", err)
		}
	})
}

// Names made here are seen in mount namespaces that were made before, and keep
// nothing alive there after Remove.
func TestNamesAreShared(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		prepare(t)
		p := w.Host.Start(t, exec.Command("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", "echo ready; exec sleep 12345"))
		p.WaitOutput(t, "ready\n")
		there := func() (string, error) {
			return w.Host.Try(t, "nsenter", "-t", fmt.Sprint(p.Pid), "-m", "stat", "-fc", "%T", netnsx.Path("vpn"))
		}
		create(t, "vpn")
		if kind, err := there(); err != nil || strings.TrimSpace(kind) != "nsfs" {
			t.Errorf("elsewhere the name is %q, %v", kind, err)
		}
		remove(t, "vpn")
		if kind, err := there(); err == nil {
			t.Errorf("elsewhere the name is still %q", kind)
		}
		p.Signal(t, unix.SIGKILL)
		p.Wait()
	})
}
