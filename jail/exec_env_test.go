package jail

import (
	"slices"
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	ann := account{name: "ann", home: "/home/ann", shell: "/bin/zsh"}
	const base = "PATH=/bin HOME=/root USER=root X= LOGNAME=root SUDO_UID=1000 SHELL=/bin/bash TERM=xterm"
	const session = " DISPLAY=:0 WAYLAND_DISPLAY=w SSH_AUTH_SOCK=/tmp/s TMUX=/tmp/t XDG_RUNTIME_DIR=/run/user/1 DBUS_SESSION_BUS_ADDRESS=unix:path=/x TMPDIR=/tmp/u/1 TMP=/var/tmp"
	tests := []struct {
		name             string
		env              string
		account          account
		changes, isolate bool
		want             string
	}{
		{"same user", base + session, ann, false, false, base + session},
		{"other user", base, ann, true, false,
			"PATH=/bin HOME=/home/ann USER=ann X= LOGNAME=ann SUDO_UID=1000 SHELL=/bin/zsh TERM=xterm"},
		{"nothing set", "X=1", ann, true, false, "X=1 HOME=/home/ann SHELL=/bin/zsh USER=ann LOGNAME=ann"},
		{"user without a name", base, account{uid: 7}, true, false, "PATH=/bin HOME=/ X= SUDO_UID=1000 SHELL=/bin/sh TERM=xterm"},
		{"twice", "HOME=/a USER=x HOME=/b USER=y", ann, true, false, "HOME=/home/ann USER=ann SHELL=/bin/zsh LOGNAME=ann"},
		{"similar names", "HOMEPAGE=a XHOME=b HOME=c", ann, true, false, "HOMEPAGE=a XHOME=b HOME=/home/ann SHELL=/bin/zsh USER=ann LOGNAME=ann"},
		{"isolated", base + session, ann, false, true, base + " TMP=/var/tmp"},
		{"isolated, all", strings.Join(sessionVariables, "=x ") + "=x A=b", ann, false, true, "A=b"},
		{"isolated, /tmp itself", "TMPDIR=/tmp TMP=/tmpfoo", ann, false, true, "TMPDIR=/tmp TMP=/tmpfoo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := strings.Fields(tt.env)
			before := slices.Clone(env)
			got := environment(env, tt.account, tt.changes, tt.isolate)
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
			if !slices.Equal(env, before) {
				t.Errorf("the caller's variables became %q", env)
			}
		})
	}
}
