package world

import (
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestWorldIsPrivate(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		if got := w.Host.Run(t, "sh", "-c", "ls -A /run; ls /sys/class/net; ls -d /etc/netns; echo $TMPDIR; cat /etc/resolv.conf; cat /proc/mounts; ps ax; env; ls -l /proc/self/fd || true"); !strings.Contains(got, "lo") {
			t.Errorf("got %q", got)
		}
		if err := os.WriteFile("/etc/wgjail-test", nil, 0o644); err != nil {
			t.Fatal(err)
		}
	})
}
