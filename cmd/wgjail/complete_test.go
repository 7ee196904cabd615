package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A shell that is asked what could come next prints it, one word a line. The
// words before the cursor are its arguments.
var shells = map[string]string{
	"bash": `. /usr/share/bash-completion/bash_completion
. <(wgjail completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
__start_wgjail
printf '%s\n' "${COMPREPLY[@]}"`,
	// What the script would show zsh itself is printed: showing needs a terminal.
	"zsh": `compdef() { }
. <(wgjail completion zsh)
_describe() { local list=${@[(r)completions]}; print -l -- ${(P)list} }
words=("$@"); CURRENT=$#
_wgjail`,
	"fish": `wgjail completion fish | source
complete --do-complete "$argv"`,
}

// complete asks a shell on the host for what could stand at the end of words.
func (l *lab) complete(t *testing.T, shell string, words ...string) string {
	t.Helper()
	args := []string{"-c", shells[shell]}
	if shell != "fish" {
		args = append(args, shell)
	}
	return l.runCmd(t, exec.Command(shell, append(args, words...)...)).out
}

// The three shells offer the jails and the forwards that there are.
func TestShellsComplete(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t, "-p", "8080", "-p", "127.0.0.1:5353:53/udp")
		for shell := range shells {
			for _, c := range []struct {
				words []string
				want  string
			}{
				{[]string{"wgjail", "dow"}, "down"},
				{[]string{"wgjail", "down", ""}, "vpn"},
				{[]string{"wgjail", "status", "v"}, "vpn"},
				{[]string{"wgjail", "exec", ""}, "vpn"},
				{[]string{"wgjail", "forward", "--jail", ""}, "vpn"},
				{[]string{"wgjail", "forward", "--netns", ""}, "vpn"},
				{[]string{"wgjail", "forward", "--stop", ""}, "8080"},
				{[]string{"wgjail", "forward", "--stop", "127"}, "127.0.0.1:5353/udp"},
				{[]string{"wgjail", "up", "--backend", "k"}, "kernel"},
			} {
				if got := l.complete(t, shell, c.words...); !offers(got, c.want) {
					t.Errorf("%s, after %q: %q is not offered:\n%s", shell, c.words, c.want, got)
				}
			}
			if got := l.complete(t, shell, "wgjail", "down", "vpn", ""); offers(got, "vpn") {
				t.Errorf("%s offers a jail again that is on the line:\n%s", shell, got)
			}
			if got := l.complete(t, shell, "wgjail", "forward", ""); offers(got, "8080") {
				t.Errorf("%s offers a port that is taken:\n%s", shell, got)
			}
		}
		// Without root, as a shell is before sudo has begun.
		got := l.runCmd(t, exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "wgjail", "__complete", "down", "")).out
		if !offers(got, "vpn") {
			t.Errorf("not offered to a user: vpn:\n%s", got)
		}
	})
}

// offers reports whether word is a line of what a shell printed, alone or with
// a description after it: a tab and the description, or for zsh a colon.
func offers(printed, word string) bool {
	for line := range strings.Lines(printed) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "\t")
		if line == word || strings.HasPrefix(line, word+":") {
			return true
		}
	}
	return false
}
