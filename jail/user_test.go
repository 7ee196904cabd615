package jail

import (
	"errors"
	"os/user"
	"reflect"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

const (
	testPasswd = `root:x:0:0:root:/root:/bin/bash
# a comment:x:5:5::/:/bin/sh
+::::::
broken:x:1:1
ann:x:1000:1000:Ann,,,:/home/ann:/bin/zsh
bob:x:1001:100::/home/bob:
4242:x:1002:1002::/home/number:/bin/sh
`
	testGroup = `root:x:0:
users:x:100:ann
audio:x:29:bob,ann
video:x:44:bob
ann:x:1000:
empty:x:77:
`
)

// others is a directory service that knows one more user.
func others(database, key string) string {
	switch database + " " + key {
	case "passwd carol", "passwd 5000":
		return "carol:*:5000:5001:Carol:/net/carol:/bin/ksh"
	case "group crew":
		return "crew:*:5002:carol"
	case "initgroups carol":
		return "carol                 5002 5003"
	}
	return ""
}

func TestFindUser(t *testing.T) {
	ann := account{uid: 1000, gid: 1000, groups: []uint32{1000, 100, 29}, name: "ann", home: "/home/ann", shell: "/bin/zsh", change: true}
	bob := account{uid: 1001, gid: 100, groups: []uint32{100, 29, 44}, name: "bob", home: "/home/bob", change: true}
	carol := account{uid: 5000, gid: 5001, groups: []uint32{5001, 5002, 5003}, name: "carol", home: "/net/carol", shell: "/bin/ksh", change: true}
	root := account{uid: 0, gid: 0, groups: []uint32{0}, name: "root", home: "/root", shell: "/bin/bash", change: true}
	with := func(a account, change func(*account)) account { change(&a); return a }

	tests := []struct {
		name, spec string
		euid       int
		env        string // blank-separated NAME=VALUE
		want       account
		wantErr    string
	}{
		{name: "root", want: account{}},
		{name: "root, named", spec: "root", want: root},
		{name: "not root", euid: 1000, want: account{uid: 1000}},
		{name: "not root, left over from sudo", euid: 1000, env: "SUDO_UID=1001 SUDO_GID=100", want: account{uid: 1000}},
		{name: "sudo", env: "SUDO_UID=1000 SUDO_GID=1000 SUDO_USER=ann", want: ann},
		{name: "sudo without a group", env: "SUDO_UID=1001", want: bob},
		{name: "sudo by root", env: "SUDO_UID=0 SUDO_GID=0 SUDO_USER=root", want: account{}},
		{name: "sudo with another group", env: "SUDO_UID=1000 SUDO_GID=77",
			want: with(ann, func(a *account) { a.gid, a.groups = 77, []uint32{77, 100, 29} })},
		{name: "sudo by an unlisted user", env: "SUDO_UID=7000 SUDO_GID=7000 SUDO_USER=zoe SUDO_HOME=/net/zoe",
			want: account{uid: 7000, gid: 7000, groups: []uint32{7000}, name: "zoe", home: "/net/zoe", change: true}},
		{name: "sudo by an unlisted user without a group", env: "SUDO_UID=7000", wantErr: "group of user 7000"},
		{name: "sudo, no number", env: "SUDO_UID=ann SUDO_GID=1000", wantErr: `SUDO_UID: "ann" is not`},
		{name: "sudo, no group number", env: "SUDO_UID=1000 SUDO_GID=x", wantErr: `SUDO_GID: "x" is not`},
		{name: "sudo, the number that means none", env: "SUDO_UID=4294967295 SUDO_GID=1", wantErr: "is not a user"},
		{name: "doas", env: "DOAS_USER=bob", want: bob},
		{name: "doas by root", env: "DOAS_USER=root", want: account{}},
		{name: "doas by nobody known", env: "DOAS_USER=zoe", wantErr: "DOAS_USER: user: unknown user zoe"},
		{name: "pkexec", env: "PKEXEC_UID=1000", want: ann},
		{name: "pkexec by nobody known", env: "PKEXEC_UID=7000", wantErr: "unknown userid 7000"},
		{name: "a name goes before sudo", spec: "bob", env: "SUDO_UID=1000 SUDO_GID=1000", want: bob},
		{name: "number", spec: "1000", want: ann},
		{name: "name that is a number", spec: "4242",
			want: account{uid: 1002, gid: 1002, groups: []uint32{1002}, name: "4242", home: "/home/number", shell: "/bin/sh", change: true}},
		{name: "unlisted number", spec: "7000", wantErr: "nothing says what its group is"},
		{name: "unlisted number and group", spec: "7000:7001", want: account{uid: 7000, gid: 7001, change: true}},
		{name: "name and group", spec: "ann:audio", want: with(ann, func(a *account) { a.gid, a.groups = 29, nil })},
		{name: "number and group", spec: "1000:44", want: with(ann, func(a *account) { a.gid, a.groups = 44, nil })},
		{name: "unknown group", spec: "ann:zoo", wantErr: "unknown group zoo"},
		{name: "no group", spec: "ann:", wantErr: "unknown group"},
		{name: "no user", spec: ":100", wantErr: "unknown user"},
		{name: "unknown", spec: "zoe", wantErr: `user "zoe": user: unknown user zoe`},
		{name: "too large", spec: "4294967296", wantErr: "is not a user"},
		{name: "negative", spec: "-1:5", wantErr: "unknown user -1"},
		{name: "comment", spec: "# a comment", wantErr: "unknown user"},
		{name: "NIS line", spec: "+", wantErr: "unknown user"},
		{name: "short line", spec: "broken", wantErr: "unknown user"},
		{name: "directory service", spec: "carol", want: carol},
		{name: "directory service by number", spec: "5000", want: carol},
		{name: "group of a directory service", spec: "ann:crew", want: with(ann, func(a *account) { a.gid, a.groups = 5002, nil })},
	}
	source := accountSource{testPasswd, testGroup, others}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			getenv := func(name string) string { return getVariable(strings.Fields(tt.env), name) }
			got, err := source.find(tt.spec, tt.euid, getenv)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got %+v, error %v, want an error with %q", got, err, tt.wantErr)
				}
				if hint.Of(err) == "" {
					t.Errorf("error %q has no hint", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestFindUserIdentity(t *testing.T) {
	_, err := accountSource{testPasswd, testGroup, nil}.find("zoe", 0, func(string) string { return "" })
	var unknown user.UnknownUserError
	if !errors.As(err, &unknown) {
		t.Errorf("got %v, want a user.UnknownUserError", err)
	}
}

// A name never becomes an option of another program.
func TestFindUserAsksForNoOption(t *testing.T) {
	source := accountSource{testPasswd, testGroup, func(database, key string) string {
		if strings.HasPrefix(key, "-") || key == "" {
			t.Errorf("asked %s for %q", database, key)
		}
		return ""
	}}
	for _, spec := range []string{"-h", "ann:-h", "ann:", ":", "-h:-h"} {
		if a, err := source.find(spec, 0, func(string) string { return "" }); err == nil {
			t.Errorf("%q: got %+v, want an error", spec, a)
		}
	}
}
