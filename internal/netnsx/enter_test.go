package netnsx_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// here returns the namespace that the calling thread is in.
func here() (netnsx.ID, error) {
	n, err := netnsx.Current()
	if err != nil {
		return netnsx.ID{}, err
	}
	return n.ID(), n.Close()
}

// checkHere wants the calling thread in the namespace id.
func checkHere(t *testing.T, id netnsx.ID) {
	t.Helper()
	if got, err := here(); err != nil || got != id {
		t.Errorf("this thread is in %v, %v; want %v", got, err, id)
	}
}

// tasksOutside returns the threads of this process that are not in home.
func tasksOutside(home netnsx.ID) []string {
	var outside []string
	files, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err == nil && (netnsx.ID{Dev: uint64(st.Dev), Ino: st.Ino}) != home {
			outside = append(outside, f)
		}
	}
	return outside
}

// checkHome wants every goroutine, and in the end every thread, in home.
func checkHome(t *testing.T, home netnsx.ID) {
	t.Helper()
	const goroutines = 400
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for range goroutines {
		wg.Go(func() {
			<-gate
			checkHere(t, home)
		})
	}
	close(gate)
	wg.Wait()
	// A thread takes a moment to die.
	world.Eventually(t, "all threads to be at home", func() error {
		if outside := tasksOutside(home); len(outside) > 0 {
			return fmt.Errorf("outside are %v", outside)
		}
		return nil
	})
}

// newNamespace makes a namespace without a name.
func newNamespace(t *testing.T) *netnsx.Namespace {
	t.Helper()
	n, err := netnsx.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestDoCallsInsideAndComesBack(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n, home := newNamespace(t), w.Host.ID()
		if n.ID() == home {
			t.Fatal("the new namespace is the old one")
		}
		for _, procs := range []int{1, 2, 16} {
			runtime.GOMAXPROCS(procs)
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					mine := errors.New("mine")
					err := n.Do(func() error {
						checkHere(t, n.ID())
						runtime.Gosched()
						checkHere(t, n.ID())
						return mine
					})
					if err != mine {
						t.Errorf("Do returned %v, want fn's error itself", err)
					}
				})
			}
			wg.Wait()
			checkHome(t, home)
		}
	})
}

// stranded makes the calling thread unable to change its namespace: it gives up
// its capabilities, which each thread has for itself.
func stranded() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&head, &none[0])
}

func TestDoThatCannotComeBackLosesItsThread(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n, home := newNamespace(t), w.Host.ID()
		for _, procs := range []int{1, 2, 16} {
			runtime.GOMAXPROCS(procs)
			var wg sync.WaitGroup
			lost := make(chan int, 50)
			for range cap(lost) {
				wg.Go(func() {
					err := n.Do(func() error {
						lost <- unix.Gettid()
						return stranded()
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			checkHome(t, home)
			close(lost)
			for tid := range lost {
				world.Eventually(t, "the end of a stranded thread", func() error { return gone(tid) })
			}
			if err := n.Do(func() error { return nil }); err != nil {
				t.Errorf("Do after failures: %v", err)
			}
		}
	})
}

// gone returns an error while the thread exists.
func gone(tid int) error {
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err == nil {
		return fmt.Errorf("thread %d is alive", tid)
	}
	return nil
}

func TestDoSurvivesGoexit(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n := newNamespace(t)
		err := n.Do(func() error {
			runtime.Goexit()
			return nil
		})
		if !errors.Is(err, netnsx.ErrGoexit) {
			t.Errorf("Do returned %v, want ErrGoexit", err)
		}
		checkHome(t, w.Host.ID())
	})
}

func TestDoInAClosedNamespaceCallsNothing(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n, err := netnsx.New()
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := n.Do(func() error { t.Error("fn was called"); return nil }); err == nil {
				t.Error("Do returned nil")
			}
		}
		checkHome(t, w.Host.ID())
	})
}

func TestDoNests(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		a, b := newNamespace(t), newNamespace(t)
		err := a.Do(func() error {
			err := b.Do(func() error {
				checkHere(t, b.ID())
				return nil
			})
			checkHere(t, a.ID())
			return err
		})
		if err != nil {
			t.Error(err)
		}
		checkHome(t, w.Host.ID())
	})
}

func TestEnterMovesOneThreadForGood(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n, home := newNamespace(t), w.Host.ID()
		const workers = 8
		var ready, wg sync.WaitGroup
		stop := make(chan struct{})
		ready.Add(workers)
		for range workers {
			wg.Go(func() {
				if err := n.Enter(); err != nil {
					t.Error(err)
				}
				checkHere(t, n.ID())
				var inner sync.WaitGroup
				inner.Go(func() { checkHere(t, home) }) // on another thread
				inner.Wait()
				ready.Done()
				<-stop
				checkHere(t, n.ID())
			})
		}
		ready.Wait()
		if outside := tasksOutside(home); len(outside) != workers {
			t.Errorf("threads %v are outside, want %d", outside, workers)
		}
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/ns/net", &st); err != nil || st.Ino != home.Ino {
			t.Errorf("the process is seen in net:[%d], %v", st.Ino, err)
		}
		close(stop)
		wg.Wait()
		checkHome(t, home)
	})
}

func TestEnterAClosedNamespace(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		n, err := netnsx.New()
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		done := make(chan error)
		go func() { done <- n.Enter() }()
		if err := <-done; err == nil {
			t.Error("Enter returned nil")
		}
		checkHome(t, w.Host.ID())
	})
}

func TestNewNamespaceEndsWithItsHandle(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		seen := map[netnsx.ID]bool{w.Host.ID(): true}
		var open []*netnsx.Namespace
		for range 10 {
			n := newNamespace(t)
			if seen[n.ID()] {
				t.Errorf("%v was there already", n.ID())
			}
			seen[n.ID()] = true
			open = append(open, n)
		}
		for _, n := range open {
			again, err := netnsx.Open(fmt.Sprintf("/proc/self/fd/%d", n.Fd()))
			if err != nil || again.ID() != n.ID() {
				t.Errorf("opened again it is %v, %v; want %v", again, err, n.ID())
			}
			again.Close()
		}
		checkHome(t, w.Host.ID())
	})
}
