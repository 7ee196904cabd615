package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// installUnits writes the units for an instance, and a service that is attached
// to it, and returns their paths.
func installUnits(t *testing.T) []string {
	t.Helper()
	install(t)
	dir := t.TempDir()
	wgjail(t, "systemd", "install", "--dir", dir)
	paths := []string{}
	for _, name := range unitNames() {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, strings.Replace(name, "@", "@vpn", 1))
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if len(paths) != 2 {
		t.Fatalf("units: %q", paths)
	}
	path := filepath.Join(dir, "app.service")
	text := "[Service]\nExecStart=/bin/sleep 1000\n" + wgjail(t, "systemd", "attach", "app", "--jail", "vpn", "--print")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return append(paths, path)
}

// wgjail calls the wgjail in PATH and returns what it prints.
func wgjail(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("wgjail", args...).CombinedOutput()
	t.Logf("wgjail %s\n%s", strings.Join(args, " "), out)
	if err != nil {
		t.Fatalf("wgjail %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// systemd finds nothing wrong with the units and the drop-in.
func TestSystemdVerifiesTheUnits(t *testing.T) {
	world.Run(t, func(t *testing.T, _ *world.World) {
		paths := installUnits(t)
		args := append([]string{"verify", "--man=no", "--recursive-errors=yes"}, paths...)
		if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v\n%s", err, out)
		}
		spoilt := filepath.Join(filepath.Dir(paths[0]), "spoilt.service")
		if err := os.WriteFile(spoilt, []byte("[Service]\nExecStart=/bin/true\nRestrictNamespaces=nets\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", spoilt).CombinedOutput(); err == nil && len(out) == 0 {
			t.Error("a wrong unit was found right")
		}
	})
}

// The units are as closed as their work lets them be, and have nothing that
// would hide /run/netns from others, or others from them.
func TestSystemdUnitsAreHardened(t *testing.T) {
	world.Run(t, func(t *testing.T, _ *world.World) {
		for i, most := range []float64{5.2, 5.8} { // wgjail-forward@, wgjail@; systemd 252 says 5.1 and 5.7
			path := installUnits(t)[i]
			out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", path).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			m := regexp.MustCompile(`Overall exposure level for .*: ([0-9.]+)`).FindSubmatch(out)
			if m == nil {
				t.Fatalf("no exposure level:\n%s", out)
			}
			if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
				t.Errorf("%s: exposure level %s, want at most %v", filepath.Base(path), m[1], most)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// What gives a service a mount namespace (systemd.exec(5)).
			view := regexp.MustCompile(`(?m)^(Protect(System|Home|Proc|KernelTunables|KernelModules|KernelLogs|ControlGroups|Clock)|Private\w+|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|Bind\w*Paths|TemporaryFileSystem|MountFlags|RootDirectory|DynamicUser|ProcSubset|NoExecPaths)=.*`)
			if found := view.FindAllString(string(text), -1); len(found) > 0 {
				t.Errorf("%s: %q", filepath.Base(path), found)
			}
		}
	})
}

// The drop-in covers what exec covers.
func TestServiceDropInCoversNameServices(t *testing.T) {
	world.Run(t, func(t *testing.T, _ *world.World) {
		install(t)
		text := wgjail(t, "systemd", "attach", "app", "--jail", "vpn", "--print")
		for _, line := range []string{
			"BindsTo=wgjail@vpn.service", "After=wgjail@vpn.service", "NetworkNamespacePath=/run/netns/vpn",
			"BindReadOnlyPaths=/etc/netns/vpn/resolv.conf:/etc/resolv.conf", "BindReadOnlyPaths=/etc/netns/vpn/nsswitch.conf:/etc/nsswitch.conf",
			"TemporaryFileSystem=/run/nscd:ro", "TemporaryFileSystem=/run/systemd/resolve:ro", "TemporaryFileSystem=/run/dbus:ro",
			"TemporaryFileSystem=/run/avahi-daemon:ro",
		} {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("not in the drop-in: %s", line)
			}
		}
	})
}
