package arrows

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// checkout returns the module's root folder.
func checkout(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("the module's root: %v", err)
	}
	return dir
}

func TestModuleKeepsTheRules(t *testing.T) {
	wrong, err := layout.Check(os.DirFS(checkout(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range wrong {
		t.Error(line)
	}
}

func TestSourceNamesNoMachinePath(t *testing.T) {
	dir := checkout(t)
	// Where people and their services keep checkouts, and where this one is.
	folders := []string{"/" + "work", "/" + "workspace", "/" + "builds", "/" + "Users", dir}
	if home, err := os.UserHomeDir(); err == nil && strings.HasPrefix(home, "/home/") {
		folders = append(folders, home)
	}
	found, err := MachinePaths(os.DirFS(dir), folders...)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range found {
		t.Error(line)
	}
}

// The checker itself: each sample is one file, and the one thing wrong with it.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	const own = `"github.com/wgjail/wgjail/`
	for _, tt := range []struct {
		name, file, text string
		want             string // "": nothing is wrong
	}{
		{"down the arrows", "jail/a.go", `import ` + own + `relay"`, ""},
		{"up the arrows", "relay/a.go", "import (\n\t" + own + "jail\"\n)", "relay/a.go:3: relay may not import jail"},
		{"sideways", "veth/a.go", `import ` + own + `relay"`, "veth/a.go:2: veth may not import relay"},
		{"relay and namespaces", "relay/a.go", `import ` + own + `internal/netnsx"`, "relay may not import internal/netnsx"},
		{"world in a test", "relay/a_test.go", `import ` + own + `internal/world"`, ""},
		{"world outside tests", "relay/a.go", `import ` + own + `internal/world"`, "relay may not import internal/world"},
		{"below itself", "jail/a.go", `import ` + own + `jail/dns"`, ""},
		{"same prefix, other folder", "relay/a.go", `import ` + own + `relayed"`, "relay may not import relayed"},
		{"folder below a rule", "relay/poll/a.go", `import ` + own + `jail"`, "relay/poll may not import jail"},
		{"folder without a rule", "util/a.go", ``, "util/a.go:1: no rule says what util may import"},

		{"library at home", "cmd/wgjail/a.go", `import "github.com/spf13/cobra"`, ""},
		{"library elsewhere", "jail/a.go", `import "github.com/spf13/pflag"`, "jail may not import github.com/spf13/pflag; its home: cmd/wgjail"},
		{"package of a library elsewhere", "veth/a.go", `import "golang.zx2c4.com/wireguard/wgctrl/wgtypes"`, "veth may not import golang.zx2c4.com/wireguard/wgctrl/wgtypes"},
		{"library that nobody has", "jail/a.go", `import "github.com/stretchr/testify/assert"`, "no rule gives github.com/stretchr/testify/assert a home"},
		{"test library in a test", "jail/a_test.go", `import "github.com/google/go-cmp/cmp"`, ""},
		{"test library outside", "jail/a.go", `import "github.com/google/go-cmp/cmp"`, "its home: _test"},
		{"testing outside tests", "internal/provider/a.go", `import "testing"`, "internal/provider may not import testing"},
		{"global logger", "jail/a.go", `import "log"`, "jail may not import log; its home: none"},
		{"passed-in logger", "jail/a.go", `import "log/slog"`, ""},

		{"thread locked at home", "internal/netnsx/a.go", "import \"runtime\"\nfunc f() { runtime.LockOSThread() }", ""},
		{"thread locked elsewhere", "jail/a.go", "import \"runtime\"\nfunc f() { runtime.LockOSThread() }", "jail/a.go:3: jail may not use runtime.LockOSThread"},
		{"other name of the same package", "jail/a.go", "import \"runtime\"\nfunc f() { runtime.Gosched() }", ""},
		{"setns under another name", "relay/a_test.go", "import u \"golang.org/x/sys/unix\"\nvar f = u.Setns", "relay may not use golang.org/x/sys/unix.Setns"},
		{"raw setns", "jail/a.go", "import \"golang.org/x/sys/unix\"\nvar n = unix.SYS_SETNS", "may not use golang.org/x/sys/unix.SYS_SETNS"},
		{"new network namespace for a test's child", "jail/a_test.go", "import \"syscall\"\nvar n = syscall.CLONE_NEWNET", ""},
		{"new network namespace", "jail/a.go", "import \"syscall\"\nvar n = syscall.CLONE_NEWNET", "jail may not use syscall.CLONE_NEWNET"},
		{"dot import", "jail/a.go", `import . "runtime"`, "runtime is imported with a dot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := fstest.MapFS{tt.file: {Data: []byte("package p\n" + tt.text + "\n")}}
			wrong, err := layout.Check(tree)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				if len(wrong) > 0 {
					t.Errorf("got %q, want nothing", wrong)
				}
				return
			}
			if len(wrong) != 1 || !strings.Contains(wrong[0], tt.want) {
				t.Errorf("got %q, want one line with %q", wrong, tt.want)
			}
		})
	}
}

func TestCheckSkipsWhatTheGoCommandSkips(t *testing.T) {
	bad := &fstest.MapFile{Data: []byte("package p\nimport \"log\"\n")}
	wrong, err := layout.Check(fstest.MapFS{
		"jail/testdata/a.go": bad, ".cache/a.go": bad, "_old/a.go": bad, "jail/a.txt": bad,
	})
	if err != nil || len(wrong) > 0 {
		t.Errorf("got %q, %v; want nothing", wrong, err)
	}
}

func TestCheckReportsFilesThatDoNotParse(t *testing.T) {
	_, err := layout.Check(fstest.MapFS{"jail/a.go": {Data: []byte("package p\nfunc {")}})
	if err == nil || !strings.Contains(err.Error(), "jail/a.go:2") {
		t.Errorf("got %v, want an error that names jail/a.go:2", err)
	}
}

func TestMachinePathsFindsThem(t *testing.T) {
	tree := fstest.MapFS{
		"a.go":     {Data: []byte("package a\nvar p = \"/mine/anna/vpn.conf\"\n")},
		"b.md":     {Data: []byte("/mine\n")},
		"c":        {Data: []byte("cd '/theirs/src' && make\n")},
		"fine.md":  {Data: []byte("~/mine/x https://example.com/mine/x $dir/mine/x /etc/mine /miner /theirs\n")},
		"bin":      {Data: []byte("\x7fELF\x00 /mine/anna/go\n")},
		".git/log": {Data: []byte("/mine/anna\n")},
	}
	got, err := MachinePaths(tree, "/mine", "/theirs/src")
	want := []string{"a.go:2: /mine/anna/vpn.conf", "b.md:1: /mine", "c:1: /theirs/src"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestDirectModules(t *testing.T) {
	got := DirectModules(`module example.com/m

go 1.26.0

require example.com/one v1.0.0

require (
	example.com/two v1.0.0
	example.com/three v1.0.0 // indirect
	// a comment
	example.com/four/v2 v2.0.0 // for tests
)

replace example.com/five => ../five

require example.com/six v1.0.0 // indirect
`)
	want := []string{"example.com/one", "example.com/two", "example.com/four/v2"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
