package jail

import (
	"slices"
	"strings"
)

// sessionVariables lead to programs outside, and to sockets that Isolate
// hides. A program that finds none of them does without.
var sessionVariables = []string{
	"CONTAINER_HOST",
	"DBUS_SESSION_BUS_ADDRESS",
	"DBUS_SYSTEM_BUS_ADDRESS",
	"DESKTOP_STARTUP_ID",
	"DISPLAY",
	"DOCKER_HOST",
	"GPG_AGENT_INFO",
	"KITTY_LISTEN_ON",
	"NVIM",
	"PIPEWIRE_REMOTE",
	"PULSE_SERVER",
	"SESSION_MANAGER",
	"SSH_AGENT_PID",
	"SSH_AUTH_SOCK",
	"STY",
	"TMUX",
	"TMUX_PANE",
	"VSCODE_IPC_HOOK_CLI",
	"WAYLAND_DISPLAY",
	"WAYLAND_SOCKET",
	"XAUTHORITY",
	"XDG_RUNTIME_DIR",
}

// temporaryVariables name directories for temporary files.
var temporaryVariables = []string{"TEMP", "TEMPDIR", "TMP", "TMPDIR"}

// environment returns the program's variables, made of the caller's: those
// that describe the user are a's if the user changes, and under isolate those
// that lead outside are left out. All others are as they were.
func environment(env []string, a account, userChanges, isolate bool) []string {
	env = slices.Clone(env)
	if userChanges {
		home, shell := a.home, a.shell
		if home == "" {
			home = "/"
		}
		if shell == "" {
			shell = "/bin/sh" // passwd(5)
		}
		env = setVariable(env, "HOME", home)
		env = setVariable(env, "SHELL", shell)
		env = setVariable(env, "USER", a.name)
		env = setVariable(env, "LOGNAME", a.name)
	}
	if isolate {
		for _, name := range sessionVariables {
			env = setVariable(env, name, "")
		}
		for _, name := range temporaryVariables { // their directories are not there
			if strings.HasPrefix(getVariable(env, name), "/tmp/") {
				env = setVariable(env, name, "")
			}
		}
	}
	return env
}

// setVariable replaces the variable where it stands, or appends it. Without a
// value it takes it away.
func setVariable(env []string, name, value string) []string {
	prefix := name + "="
	at := slices.IndexFunc(env, func(s string) bool { return strings.HasPrefix(s, prefix) })
	if at >= 0 && value != "" {
		env[at] = prefix + value
		at++
	}
	if at < 0 {
		if value == "" {
			return env
		}
		return append(env, prefix+value)
	}
	rest := slices.DeleteFunc(env[at:], func(s string) bool { return strings.HasPrefix(s, prefix) })
	return env[:at+len(rest)]
}

// getVariable returns the value of the first variable called name, as getenv(3)
// does, or "".
func getVariable(env []string, name string) string {
	for _, s := range env {
		if value, ok := strings.CutPrefix(s, name+"="); ok {
			return value
		}
	}
	return ""
}
