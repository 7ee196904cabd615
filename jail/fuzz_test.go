package jail

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

// FuzzCheckName: what is accepted is one component of a path, an interface's
// name, and no option of any command.
func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"vpn", "us-nyc_01.x", "..", ".", "-n", "../x", "a b", "$(id)", "abcdefghijklmnop", "vpn\n", "vpn\x00", "lo", "all", "a/b", "ü", "%s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := CheckName(s)
		if err != nil {
			if hint.Of(err) == "" || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("%q: error %q, hint %q", s, err, hint.Of(err))
			}
			return
		}
		for _, path := range []string{stateDir(s), dnsDir(s)} {
			if filepath.Base(path) != s || strings.Count(path, "/") != 3 {
				t.Errorf("%q makes the path %s", s, path)
			}
		}
		if len(s) > 15 || strings.HasPrefix(s, "-") || strings.HasPrefix(s, ".") || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-") != "" {
			t.Errorf("%q was accepted", s)
		}
	})
}

// FuzzParseState: a state is refused or is that of its jail, and whatever it says
// can be shown.
func FuzzParseState(f *testing.F) {
	cfg := &Config{Name: "vpn", Addresses: []netip.Prefix{netip.MustParsePrefix("10.64.0.2/32"), netip.MustParsePrefix("fd64::2/128")},
		DNS: []netip.Addr{netip.MustParseAddr("10.64.0.1")}, Search: []string{"x.test"}}
	s := newState(cfg, Userspace)
	s.Peers = []peerState{{PublicKey: "x", Host: "vpn.test", Port: 1, AllowedIPs: []netip.Prefix{defaultIPv4}}}
	data, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, text := range []string{"", "null", "{}", "[]", `{"version":1,"name":"vpn"}`, `{"version":1,"name":"vpn","addresses":["","::/0"],"dns":[""],"routes":["1.2.3.4/33"],"peers":[{}]}`,
		`{"version":0,"name":"vpn"}`, `{"version":1,"name":"../x"}`, `{"version":1e99}`, `{"version":1,"name":"vpn","namespace":"x","hooks":{"PostUp":["rm"]}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState("vpn", data)
		if err != nil {
			if hint.Of(err) == "" {
				t.Errorf("%q: error %v without a hint", data, err)
			}
			return
		}
		if s.Version != stateVersion || s.Name != "vpn" {
			t.Errorf("%q was taken for version %d of %s", data, s.Version, s.Name)
		}
		// None of these may panic.
		s.peerStatus(nil)
		s.echoTargets()
		standIns(s.Addresses)
		usable(s.Routes)
		jailChains(s.Name, s.DNS, s.openPort(1))
		resolvConf(s.DNS, s.Search)
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", data, err)
		}
		if _, err := parseState("vpn", again); err != nil {
			t.Errorf("%q is written as %s, which is refused: %v", data, again, err)
		}
	})
}

// FuzzHolderPid: what stands in a held file is a process of its own or nobody: 0
// and negative numbers would mean whole groups to kill(2).
func FuzzHolderPid(f *testing.F) {
	for _, s := range []string{"", "1", "4711\ncommitted\n", "-1\n", "0\n", "+5\n", "99999999999999999999\n", "1e3", " 7\n", "7 \n", "\n7\n"} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "keeper")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		pid := holderPid(file)
		line, _, _ := bytes.Cut(data, []byte("\n"))
		if pid < 0 || pid > math.MaxInt32 || pid > 0 && len(bytes.Trim(line, "0123456789+ \t\r")) > 0 {
			t.Errorf("%q: process %d", data, pid)
		}
	})
}

// FuzzFindUser: whatever the environment and --user say, there is a user or an
// error, and nothing given by a caller who is not root counts.
func FuzzFindUser(f *testing.F) {
	f.Add("", "1000", "1000", "ann", "ann", "1000")
	f.Add("ann:audio", "", "", "", "", "")
	f.Add("7000:7000", "-1", "4294967295", "../x", "root\n", "0x10")
	f.Add("4294967296", "1000\x00", "", "a:b:c", "+", " 1000")
	f.Fuzz(func(t *testing.T, spec, sudoUID, sudoGID, sudoUser, doasUser, pkexecUID string) {
		env := map[string]string{"SUDO_UID": sudoUID, "SUDO_GID": sudoGID, "SUDO_USER": sudoUser, "DOAS_USER": doasUser, "PKEXEC_UID": pkexecUID}
		source := accountSource{passwd: testPasswd, group: testGroup}
		a, err := source.find(spec, 0, func(name string) string { return env[name] })
		if err != nil {
			if a.change {
				t.Errorf("both %+v and %v", a, err)
			}
			return
		}
		const nobody = 1<<32 - 1 // means "do not change" to setresuid(2)
		if a.uid == nobody || a.gid == nobody || slices.Contains(a.groups, nobody) {
			t.Errorf("%q, %q: %+v", spec, env, a)
		}
		if b, err := source.find("", 1000, func(name string) string { return env[name] }); err != nil || b.change || b.uid != 1000 {
			t.Errorf("a caller who is not root is %+v, %v", b, err)
		}
	})
}

// FuzzEnvironment: isolated programs have no variable that leads to the session,
// and keep all others.
func FuzzEnvironment(f *testing.F) {
	f.Add("DISPLAY=:0\nTMPDIR=/tmp/x\nA=b\nDISPLAY=:1\nHOME=/root", "/home/ann")
	f.Add("=\nTMUX\nTMUX=\nTMUX=x\n=TMUX=y\nTMP=/tmp/\nTMP=/tmp/1", "")
	f.Fuzz(func(t *testing.T, text, home string) {
		env := strings.Split(text, "\n")
		got := environment(env, account{home: home, name: "ann"}, true, true)
		for _, name := range append(slices.Clone(sessionVariables), temporaryVariables...) {
			v := getVariable(got, name)
			if v != "" && (slices.Contains(sessionVariables, name) || strings.HasPrefix(v, "/tmp/")) {
				t.Errorf("%q leaves %s=%s", env, name, v)
			}
		}
		ours := func(s string) bool {
			name, _, _ := strings.Cut(s, "=")
			return slices.Contains([]string{"HOME", "SHELL", "USER", "LOGNAME"}, name) || slices.Contains(sessionVariables, name) || slices.Contains(temporaryVariables, name)
		}
		want := slices.DeleteFunc(slices.Clone(env), ours)
		if rest := slices.DeleteFunc(slices.Clone(got), ours); !slices.Equal(rest, want) {
			t.Errorf("of %q is left %q", want, rest)
		}
	})
}
