package jail

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/wgjail/wgjail/internal/hint"
)

// tree makes a file system of lines: "path", "path/", "path -> target",
// "path = socket" or "path: content".
func tree(lines string) fstest.MapFS {
	m := fstest.MapFS{}
	for _, line := range strings.Fields(strings.ReplaceAll(lines, " -> ", "->")) {
		name, target, isLink := strings.Cut(line, "->")
		name, content, _ := strings.Cut(name, ":")
		name, special, _ := strings.Cut(name, "=")
		f := &fstest.MapFile{Data: []byte(content), Mode: 0o644}
		switch {
		case isLink:
			f.Data, f.Mode = []byte(target), fs.ModeSymlink|0o777
		case special == "socket":
			f.Mode = fs.ModeSocket | 0o666
		case strings.HasSuffix(name, "/"):
			name, f.Mode = strings.TrimSuffix(name, "/"), fs.ModeDir|0o755
		}
		m[name] = f
	}
	return m
}

const testRun = `docker.sock=socket utmp shm -> /dev/shm lock/ user/1000/bus=socket
	nscd/socket=socket dbus/system_bus_socket=socket avahi-daemon/socket=socket wgjail/vpn/jail.json
	systemd/journal/dev-log=socket systemd/resolve/io.systemd.Resolve=socket systemd/resolve.hook/x=socket systemd/notify=socket systemd/private=socket
	samba/smbd.pid samba/winbindd/pipe=socket udev/control=socket udev/data/c1 nscdx/a current-system -> /nix/store/x mdnsd=socket`

func TestMirrorPlan(t *testing.T) {
	tests := []struct {
		name string
		host string
		rule mirrorRule
		want string
	}{
		{"nothing there", "", mirrorRule{hide: runHidden}, ""},
		{"/run", testRun, mirrorRule{hide: runHidden}, `
			link current-system -> /nix/store/x
			bind docker.sock
			bind lock
			bind nscdx
			dir samba 0555 0:0
			bind samba/smbd.pid
			link shm -> /dev/shm
			dir systemd 0555 0:0
			bind systemd/journal
			bind systemd/notify
			bind systemd/private
			bind udev
			bind user
			bind utmp`},
		{"/run isolated", testRun, mirrorRule{hide: runHidden, only: runIsolated}, `
			link current-system -> /nix/store/x
			bind lock
			link shm -> /dev/shm
			dir systemd 0555 0:0
			bind systemd/journal
			bind systemd/notify
			dir udev 0555 0:0
			bind udev/data`},
		{"empty list", testRun, mirrorRule{only: []string{}}, ""},
		{"hidden goes before listed", "a/x a/y", mirrorRule{hide: []string{"a/x"}, only: []string{"a"}}, `
			dir a 0555 0:0
			bind a/y`},
		{"link and file where a hidden one would be below", "systemd -> elsewhere samba elsewhere/resolve/x",
			mirrorRule{hide: runHidden}, "bind elsewhere"},
		{"hidden link", "nscd -> elsewhere", mirrorRule{hide: runHidden}, ""},
		{"/etc", `passwd ssl/certs/a mtab -> /proc/self/mounts resolv.conf -> ../run/systemd/resolve/stub-resolv.conf
			nsswitch.conf:hosts:resolve hosts:host netns/vpn/resolv.conf:A netns/vpn/nsswitch.conf:B netns/other/resolv.conf:C`,
			mirrorRule{netns: "vpn", copied: []string{"resolv.conf", "nsswitch.conf"}}, `
			bind hosts
			link mtab -> /proc/self/mounts
			bind netns
			bind passwd
			bind ssl
			file resolv.conf "A"
			file nsswitch.conf "B"`},
		{"/etc with more files", `hosts:host ssl/certs/a netns/vpn/resolv.conf:A netns/vpn/hosts:mine netns/vpn/ssl/b netns/vpn/new:n
			netns/vpn/gai.conf -> hosts netns/vpn/gone -> nowhere netns/vpn/.new-123:part`,
			mirrorRule{netns: "vpn", copied: []string{"resolv.conf"}}, `
			bind netns
			file resolv.conf "A"
			bind gai.conf from netns/vpn/gai.conf
			bind hosts from netns/vpn/hosts
			bind new from netns/vpn/new
			bind ssl from netns/vpn/ssl`},
		{"resolv.conf is a link", "netns/vpn/resolv.conf -> ../common common:x netns/common:D",
			mirrorRule{netns: "vpn", copied: []string{"resolv.conf"}}, `
			bind common
			bind netns
			file resolv.conf "D"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			steps, err := tt.rule.plan(tree(tt.host))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range steps {
				got = append(got, s.String())
			}
			var want []string
			for line := range strings.Lines(tt.want) {
				if line = strings.TrimSpace(line); line != "" {
					want = append(want, line)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
}

// A directory is bound as a directory, all else as a file.
func TestMirrorPlanKinds(t *testing.T) {
	steps, err := mirrorRule{}.plan(tree("d/ f s=socket"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, s := range steps {
		got[s.path] = s.dir
	}
	if len(got) != 3 || !got["d"] || got["f"] || got["s"] {
		t.Errorf("directories: %v", got)
	}
}

// Without the jail's own file there is no plan: the host's must not show.
func TestMirrorPlanNeedsTheJailsFiles(t *testing.T) {
	rule := mirrorRule{netns: "vpn", copied: []string{"resolv.conf", "nsswitch.conf"}}
	for _, host := range []string{"", "netns/vpn/", "netns/vpn/resolv.conf:A", "netns/vpn/nsswitch.conf:A", "netns/vpn/nsswitch.conf:A netns/vpn/resolv.conf -> gone"} {
		steps, err := rule.plan(tree(host))
		if err == nil || !strings.Contains(err.Error(), "the jail's own ") || hint.Of(err) == "" {
			t.Errorf("%q: got %v, error %v", host, steps, err)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o755, 0o700, 0o777 | fs.ModeSticky, 0o750 | fs.ModeSetgid} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		want := fileOwner{mode: uint32(mode.Perm()), uid: os.Getuid(), gid: os.Getgid()}
		if mode&fs.ModeSticky != 0 {
			want.mode |= 0o1000
		}
		if mode&fs.ModeSetgid != 0 {
			want.mode |= 0o2000
		}
		if got := ownerOf(info); got != want {
			t.Errorf("%v: got %+v, want %+v", mode, got, want)
		}
	}
}

func TestSubmounts(t *testing.T) {
	const table = `22 27 0:21 / /proc rw - proc proc rw
23 27 0:22 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
33 23 0:30 / /sys/kernel/debug\040x\134y rw - debugfs none rw
34 27 0:31 / /sysx/y rw - tmpfs tmpfs rw
`
	const stacked = table + `40 23 0:40 / /sys rw - sysfs sysfs rw
41 40 0:41 / /sys/fs/bpf rw - bpf bpf rw
`
	tests := []struct {
		name, table string
		want        []string
		found       bool
	}{
		{"one", table, []string{"fs/cgroup", `kernel/debug x\y`}, true},
		{"covered by another", stacked, []string{"fs/bpf"}, true},
		{"none", "22 27 0:21 / /proc rw - proc proc rw\n1 0 8:1 / / rw - ext4 x rw\n", nil, false},
	}
	for _, tt := range tests {
		got, found := submounts(tt.table, "/sys")
		if !slices.Equal(got, tt.want) || found != tt.found {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, found, tt.want, tt.found)
		}
	}
}

func TestUnescapeMount(t *testing.T) {
	for text, want := range map[string]string{
		`/a`: "/a", `/a\040b`: "/a b", `\134`: `\`, `a\011\012`: "a\t\n", `a\`: `a\`, `a\04`: `a\04`, `a\999b`: `a\999b`,
	} {
		if got := unescapeMount(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
