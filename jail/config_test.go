package jail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

// forms are the ways in which a key could be printed.
func forms(secret Secret) []string {
	key := secret.Key()
	return []string{
		key.String()[:12],
		fmt.Sprintf("%x", key[:8]),
		fmt.Sprintf("%X", key[:8]),
		strings.Trim(fmt.Sprint(key[:4]), "[]"),
		strings.Trim(fmt.Sprintf("%#v", key[:4]), "[]byte{}"),
		fmt.Sprintf("%q", key[:8])[1:9],
	}
}

func TestConfigShowsNoKeys(t *testing.T) {
	c := mustParse(t, acceptExample)
	p := c.Peers[0]
	type holder struct{ Config Config }
	type hidden struct {
		config  Config
		pointer *Config
	}
	show := func(values ...any) (printed []string) {
		for _, v := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %[1]v", "% x", "%c", "%08b"} {
				printed = append(printed, fmt.Sprintf(verb, v))
			}
			printed = append(printed, fmt.Sprint(v), fmt.Errorf("x: %v", v).Error())
			var b bytes.Buffer
			slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
			slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
			if err := json.NewEncoder(&b).Encode(v); err != nil {
				t.Fatal(err)
			}
			printed = append(printed, b.String())
		}
		return printed
	}
	printed := show(c, *c, c.PrivateKey, &c.PrivateKey, p, &p, p.PresharedKey, c.Peers, []any{c}, []*Config{c}, hidden{*c, c}, &hidden{*c, c}, holder{*c}, &holder{*c}, map[string]Secret{"k": c.PrivateKey})
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "c", c, "d", *c, "k", c.PrivateKey, "p", p, "q", &p)
	for _, text := range append(printed, b.String()) {
		for _, key := range []Secret{c.PrivateKey, p.PresharedKey} {
			for _, form := range forms(key) {
				if strings.Contains(text, form) {
					t.Errorf("a key is in %.2000q", text)
				}
			}
		}
	}
	for _, want := range []string{"(hidden)", testKey2, "51820"} { // still of use
		if got := fmt.Sprintf("%+v", c); !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if got := b.String(); !strings.Contains(got, testKey2) || !strings.Contains(got, `"name":"vpn"`) {
		t.Errorf("slog shows %s", got)
	}
}

// Wherever a key, or a piece of it that is long enough to matter, stands in a
// file, no message shows it.
func TestParseConfigShowsNoKeys(t *testing.T) {
	t.Parallel()
	keys := []string{testKey1, testKey3, testKey4}
	var lines []string
	for _, k := range configKeys {
		lines = append(lines, k.name+" = %s", k.name+" %s", k.name+": %s", k.name+" = 10.0.0.1, %s", k.name+" = %s:51820", k.name+" = [%s]:1",
			k.name+" = 10.0.0.1/%s", k.name+" = %s/8", k.name+" = %s.example:99999", k.name+" = +%s", k.name+" = %s:0", k.name+" = \"%s\"", k.name+" = fe80::1%%%s", k.name[1:]+" = %s")
	}
	lines = append(lines, "%s", "%s =", "%s = x", "= %s", "PrivatKey = %s", "PrivateKey\u00a0= %s", "; %s", "[%s]", "[%s", "%s\x01", "\ufeff%s", "%s: x", "[Interface] %s", "Jc = %s", "a\rPrivateKey = %s")
	for _, whole := range keys {
		for _, piece := range pieces(whole) {
			for _, line := range lines {
				for _, in := range []string{iface(fmt.Sprintf(line, piece)), peer(fmt.Sprintf(line, piece)), fmt.Sprintf(line, piece)} {
					checkNothingShown(t, in, whole, piece)
				}
			}
		}
	}
}

// pieces cuts a key as slips of the mouse do.
func pieces(key string) (list []string) {
	for _, length := range []int{8, 12, 20, 32, 43, 44} {
		for at := 0; at+length <= len(key); at += 9 {
			list = append(list, key[at:at+length])
		}
	}
	return append(list, key+key, strings.ReplaceAll(key, "+", "-"), strings.ReplaceAll(key, "/", "_"), fmt.Sprintf("%x", mustKey(key)))
}

func checkNothingShown(t *testing.T, in, whole, piece string) {
	t.Helper()
	c, err := ParseConfig("vpn.conf", strings.NewReader(in))
	messages := ""
	if err != nil {
		messages = err.Error() + "\n" + hint.Of(err)
	} else {
		messages = strings.Join(c.Warnings, "\n")
	}
	for at := 0; at+6 <= len(piece); at++ {
		if strings.Contains(messages, piece[at:at+6]) {
			t.Fatalf("%q of the key is in the messages for %q: %q", piece[at:at+6], in, messages)
		}
	}
	if strings.Contains(messages, whole) {
		t.Fatalf("the key is in the messages for %q: %q", in, messages)
	}
}

func TestOpenConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(peer("AllowedIPs = 0.0.0.0/0\nEndpoint = a:1")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private := write("private.conf", 0o600)
	write("public.conf", 0o644)
	write("1234567890123456.conf", 0o600)
	if err := os.Mkdir(filepath.Join(dir, "dir.conf"), 0o700); err != nil {
		t.Fatal(err)
	}

	for _, arg := range []string{private, "private", "public", filepath.Join(dir, "public.conf")} {
		for _, strict := range []bool{false, true} {
			exposed := strings.Contains(arg, "public")
			c, err := openConfig([]string{filepath.Join(dir, "none"), dir}, arg, strict)
			if exposed && strict {
				wantHinted(t, err, nil, "public.conf: group or others may read it (mode 0644)", "chmod 600 "+dir)
				continue
			}
			if err != nil {
				t.Errorf("%s, strict %v: %v", arg, strict, err)
				continue
			}
			if want := strings.TrimSuffix(filepath.Base(arg), ".conf"); c.Name != want {
				t.Errorf("%s: got name %q, want %q", arg, c.Name, want)
			}
			if warned := len(c.Warnings) == 1 && strings.Contains(c.Warnings[0], "group or others may read it"); warned != exposed {
				t.Errorf("%s: got warnings %q", arg, c.Warnings)
			}
		}
	}

	t.Chdir(dir)
	for _, tt := range []struct {
		arg      string
		identity error
		wantErr  string
		wantHint string
	}{
		{"./none.conf", fs.ErrNotExist, "open ./none.conf: no such file", "check the path"},
		{"none.conf", fs.ErrNotExist, "open none.conf: no such file", "a bare name such as vpn stands for " + dir + "/etc/vpn.conf"},
		{"none", fs.ErrNotExist, "/none.conf: no such file", "as in ./none.conf"},
		{"./dir.conf", syscall.EISDIR, "read ./dir.conf: is a directory", "name a .conf file in it"},
		{dir + "/", syscall.EISDIR, "is a directory", "name a .conf file in it"},
		{"./private.conf/x.conf", syscall.ENOTDIR, "not a directory", ""},
		{"1234567890123456", nil, `"1234567890123456" cannot be the name of a jail`, "./vpn.conf"},
		{"./1234567890123456.conf", nil, `"1234567890123456" cannot be the name of a jail`, "1 to 15 characters"},
		{"a b", nil, `"a b" cannot be the name of a jail`, "./vpn.conf"},
		{"-x", nil, `"-x" cannot be the name of a jail`, "./vpn.conf"},
		{".x", nil, `".x" cannot be the name of a jail`, "./vpn.conf"},
		{"", nil, `"" cannot be the name of a jail`, "./vpn.conf"},
		{"lo", nil, `"lo" cannot be the name of a jail: the kernel uses it`, "./vpn.conf"},
	} {
		_, err := openConfig([]string{filepath.Join(dir, "etc")}, tt.arg, false)
		wantHinted(t, err, tt.identity, tt.wantErr, tt.wantHint)
	}
	_, err := openConfig([]string{filepath.Join(dir, "etc")}, "private", false)
	wantHinted(t, err, fs.ErrNotExist, "/etc/private.conf: no such file", "there is a private.conf here: give it as ./private.conf")

	_, err = openConfig([]string{"/a", "/b"}, "none", false)
	wantHinted(t, err, fs.ErrNotExist, "/b/none.conf: no such file", "a bare name stands for /a/none.conf or /b/none.conf; give any other")

	_, err = OpenConfig("no-such-jail", false)
	wantHinted(t, err, nil, "/etc/wireguard/no-such-jail.conf", "")
}

func wantHinted(t *testing.T, err, identity error, wantErr, wantHint string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want %q", wantErr)
		return
	}
	if identity != nil && !errors.Is(err, identity) {
		t.Errorf("%v is not %v", err, identity)
	}
	if !strings.Contains(err.Error(), wantErr) || !strings.Contains(hint.Of(err), wantHint) {
		t.Errorf("got error %q with hint %q, want %q with %q", err, hint.Of(err), wantErr, wantHint)
	}
}

func TestExplainOpenPermission(t *testing.T) {
	err := explainOpen(&fs.PathError{Op: "open", Path: "/x/vpn.conf", Err: syscall.EACCES}, []string{"/x"}, "vpn", "/x/vpn.conf")
	want := "run it with sudo"
	if os.Geteuid() == 0 {
		want = "even root may not read it"
	}
	wantHinted(t, err, fs.ErrPermission, "permission denied", want)
}
