package veth_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
	"github.com/wgjail/wgjail/veth"
)

// TestConnectionsEnd: TCP connections go on after Remove; Cut ends them, and so
// does Close: the client hears of it.
func TestConnectionsEnd(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4)
		service := serve(t, l.jail, "jail", "tcp", "[::]:8080")
		v := l.mustOpen(t)
		dial := func() net.Conn {
			c, err := l.lan.Dial("tcp", net.JoinHostPort(l.hostLAN4, "8080"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if _, err := talk(c, patience); err != nil {
				t.Fatal(err)
			}
			return c
		}
		add(t, v, tcp(8080), tcp(8081))
		a := dial()
		if err := v.Remove("tcp-8080"); err != nil {
			t.Fatal(err)
		}
		if _, err := talk(a, patience); err != nil {
			t.Errorf("after Remove: %v", err)
		}
		add(t, v, again(8080)) // by somebody who forwards the same port meanwhile
		b := dial()
		if n, err := v.Active(); n != 1 || err != nil {
			t.Errorf("%d connections of removed forwards go on, %v", n, err)
		}
		if err := v.Cut("tcp-8080"); err != nil {
			t.Fatal(err)
		}
		if _, err := talk(a, patience); !isReset(err) {
			t.Errorf("after Cut: %v", err)
		}
		if _, err := talk(b, patience); err != nil {
			t.Errorf("after Cut of another forward: %v", err)
		}
		// Another port that leads to the same one.
		add(t, v, veth.Forward{ID: "same", Network: "tcp", First: 90, Last: 90, Target: 8080})
		c, err := l.lan.Dial("tcp", net.JoinHostPort(l.hostLAN4, "8080"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := talk(c, patience); err != nil {
			t.Fatal(err)
		}
		must(t, v.Remove("same"), v.Cut("same"))
		if _, err := talk(c, patience); err != nil {
			t.Errorf("after Cut of a forward to the same port: %v", err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{b, c} {
			if _, err := talk(c, patience); !isReset(err) {
				t.Errorf("after Close: %v", err)
			}
		}
		world.Eventually(t, "the end of the service's connections", func() error {
			if n := service.open(); n != 0 {
				return fmt.Errorf("%d are open", n)
			}
			return nil
		})
	})
}

// TestActive: a connection that the service has ended is not waited for, though the
// host has not seen its end.
func TestActive(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w, tunnel4, tunnel6)
		service := serve(t, l.jail, "jail", "tcp", "[::]:8080")
		v := l.open(t)
		add(t, v, tcp(8080))
		for _, to := range []string{l.hostLAN4, l.hostLAN6} {
			c, err := l.lan.Dial("tcp", net.JoinHostPort(to, "8080"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := talk(c, patience); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := v.Inspect(); err != nil || r.Forwards["tcp-8080"].Active != 2 {
			t.Errorf("Inspect: %+v, %v", r, err)
		}
		must(t, v.Remove("tcp-8080"))
		if n, err := v.Active(); n != 2 || err != nil {
			t.Errorf("%d connections, %v", n, err)
		}
		l.jail.Run(t, "ip", "link", "set", "host0", "down")
		service.dropAll()
		if n, err := v.Active(); n != 0 || err != nil {
			t.Errorf("%d connections that the service has ended, %v", n, err)
		}
	})
}

// again is another forward of the same port.
func again(port uint16) veth.Forward {
	f := tcp(port)
	f.ID += ".again"
	return f
}
