package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/jail"
)

// serveEcho echoes to all who connect to a port of the jail.
func serveEcho(t *testing.T, inside *world.Node, addr string) {
	t.Helper()
	at, err := inside.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { at.Close() })
	go func() {
		for {
			c, err := at.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

// say sends each connection a line and wants it back, all at once.
func say(t *testing.T, all []net.Conn, line string) {
	t.Helper()
	var answered sync.WaitGroup
	for i, c := range all {
		answered.Go(func() {
			text := fmt.Sprintf("%s to %d", line, i)
			c.SetDeadline(time.Now().Add(world.AtMost(time.Minute)))
			got := make([]byte, len(text))
			if _, err := io.WriteString(c, text); err != nil {
				t.Errorf("connection %d: %v", i, err)
			} else if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
				t.Errorf("connection %d: %q, %v", i, got, err)
			}
		})
	}
	answered.Wait()
}

// holds returns how many descriptors and threads a process has.
func holds(t *testing.T, pid int) (descriptors, threads int) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds), len(tasks)
}

// Thousands of connections are open while the tunnel comes and goes, and its
// keeper with it. All of them go on, those through the tunnel too, and nothing
// of them is left.
func TestLoadIsHeld(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		inside := l.upHasty(t)
		serveEcho(t, inside, "127.0.0.1:8080")
		l.do(t, "forward", "-d", "8080")
		s, err := jail.ReadStatus("vpn")
		if err != nil {
			t.Fatal(err)
		}
		forward := s.Forwards[0].PID
		through := connect(t, inside)
		through.goesOn(t, "up")
		dial := func() net.Conn {
			c, err := l.LAN.Dial("tcp", world.HostLANV4+":8080")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first := dial()
		say(t, []net.Conn{first}, "hello")
		idle, idleThreads := holds(t, forward)
		all := []net.Conn{}
		for range times(4000, 400) {
			all = append(all, dial())
		}
		say(t, all, "before")
		for flap := range times(50, 10) {
			l.Provider.Blackhole(true)
			if flap%25 == 0 { // its handshakes take seconds
				killKeeper(t)
				l.quiet(t, "up", l.conf)
			}
			through.says(t)
			for i := flap; i < len(all); i += 100 { // some are busy
				say(t, all[i:i+1], "meanwhile")
			}
			l.Provider.Blackhole(false)
			through.hears(t, fmt.Sprintf("flap %d", flap)) // what was said in the dark
		}
		say(t, all, "after")
		through.goesOn(t, "all of that")
		fds, threads := holds(t, forward)
		if fds < 2*len(all) || threads > idleThreads+16 {
			t.Errorf("the forward has %d descriptors and %d threads for %d connections, had %d threads for one", fds, threads, len(all), idleThreads)
		}
		t.Logf("%d connections: %d descriptors, %d threads; one: %d, %d", len(all), fds, threads, idle, idleThreads)
		for _, c := range all {
			c.Close()
		}
		world.Eventually(t, "the forward to let go", func() error {
			fds, now := holds(t, forward)
			if fds > idle || now > threads {
				return fmt.Errorf("it has %d descriptors and %d threads, had %d with one connection, %d with all", fds, now, idle, threads)
			}
			return nil
		})
		say(t, []net.Conn{first}, "goodbye")
		first.Close()
	})
}
