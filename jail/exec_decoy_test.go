package jail

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// A decoy is a Unix socket of the host that must not be reached.
type decoy struct {
	path     string
	listener *net.UnixListener
	accepted atomic.Int32
	controls int32
}

// newDecoy listens at path, in a directory that anybody may enter.
func newDecoy(t *testing.T, path string) *decoy {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	d := &decoy{path: path, listener: l}
	go d.serve()
	return d
}

func (d *decoy) serve() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.accepted.Add(1)
		c.Close()
	}
}

// strangers connects from here, as the positive control, and returns how many
// others have connected: they were accepted before.
func (d *decoy) strangers(t *testing.T) int {
	t.Helper()
	c, err := net.DialTimeout("unix", d.path, 10*time.Second)
	if err != nil {
		t.Fatalf("the control does not reach the decoy: %v", err)
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatalf("the control at %s: %v", d.path, err)
	}
	d.controls++
	return int(d.accepted.Load() - d.controls)
}
