package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wgjail/wgjail/jail"
)

// A completer answers the shell's question what could stand where the cursor
// is; cobra's scripts ask it.
type completer = cobra.CompletionFunc

// netnsDir is where ip-netns(8) names namespaces. Everybody may read it.
const netnsDir = "/run/netns"

// completeJails offers the jails that are not on the line yet, at most most of
// them.
func completeJails(most int) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.DeleteFunc(jailNames(), func(n string) bool { return slices.Contains(args, n) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// jailNames returns the jails there are. Shells complete as the user who types,
// sudo in front of it or not. A user is offered the own jails; and, since the list of root's
// cannot be read, the namespaces.
func jailNames() []string {
	names, err := jail.List()
	if os.Geteuid() == 0 {
		return names
	}
	own, _ := jail.ListOutside()
	if !errors.Is(err, os.ErrPermission) {
		return own
	}
	entries, _ := os.ReadDir(netnsDir)
	for _, e := range entries {
		if jail.CheckName(e.Name()) == nil && !slices.Contains(own, e.Name()) {
			own = append(own, e.Name())
		}
	}
	return own
}

// completeBeforeCommand offers what may stand before a "--", with first, and
// what a shell offers after it. cobra itself does not tell where the "--" was.
func (p *program) completeBeforeCommand(first completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if slices.Contains(p.args[:len(p.args)-1], "--") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return first(cmd, args, word)
	}
}

// completeConfigs offers one configuration file: the names of those in the
// folders for them and those here, or those below the folder that is begun.
func completeConfigs(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, _ := filepath.Glob("*.conf")
	for _, dir := range jail.ConfigDirs() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			name, isConf := strings.CutSuffix(e.Name(), ".conf")
			if isConf && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	found = slices.DeleteFunc(found, func(f string) bool { return !strings.HasPrefix(f, word) })
	if len(found) > 0 {
		return found, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"conf"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeForwards offers the running forwards, to stop them.
func (f *forwardFlags) completeForwards(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	if !f.stop {
		return nil, cobra.ShellCompDirectiveNoFileComp // a port, of the user's choice
	}
	place, err := f.place()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := forwardsInto(place)
	var specs []string
	for _, fw := range list {
		if fw.Reverse != f.reverse {
			continue
		}
		spec := strings.TrimPrefix(fw.Listen, "*:")
		if fw.Proto != "tcp" {
			spec += "/" + fw.Proto
		}
		specs = append(specs, spec+"\tinto "+fw.Target)
	}
	return specs, cobra.ShellCompDirectiveNoFileComp
}

// forwardsInto returns the running forwards into a place.
func forwardsInto(place jail.Place) ([]jail.ForwardStatus, error) {
	if place.Jail == "" {
		all, err := jail.ForwardsElsewhere()
		return slices.DeleteFunc(all, func(fw jail.ForwardStatus) bool { return fw.Netns != place.Path }), err
	}
	s, err := jail.ReadStatus(place.Jail)
	if err != nil {
		return nil, err
	}
	return s.Forwards, nil
}

// completeFlags lets the options of root's commands complete their values.
// Those that are not here take what cannot be known.
func (p *program) completeFlags(root *cobra.Command) {
	values := map[string]completer{
		"allow":   oneOf("any"),
		"backend": oneOf(string(jail.Auto), string(jail.Kernel), string(jail.Userspace)),
		"jail": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return completeJails(1)(nil, nil, "")
		},
		"log-format":    oneOf(string(logText), string(logJSON)),
		"mode":          oneOf(string(jail.ModeRelay), string(jail.ModeVeth)),
		"netns":         completeNamespaces,
		"provider-port": oneOf("natpmp", "pcp"),

		"proxy-protocol": oneOf("v1", "v2"),
		"source":         oneOf(string(jail.SourceJail), string(jail.SourceClient)),

		"user":  completeUsers,
		"users": completeFiles,
	}
	root.RegisterFlagCompletionFunc("log-format", values["log-format"]) // fails below root, which has it
	for _, cmd := range root.Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if complete, ok := values[f.Name]; ok {
				cmd.RegisterFlagCompletionFunc(f.Name, complete) // fails for one that has its own
			} else if f.Value.Type() != "bool" {
				cmd.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
			}
		})
		p.completeFlags(cmd)
	}
}

// completeUsers offers the users of this host.
func completeUsers(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	text, _ := os.ReadFile("/etc/passwd")
	var users []string
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(name, "#") {
			users = append(users, name)
		}
	}
	return users, cobra.ShellCompDirectiveNoFileComp
}

// completeFiles offers what the shell does by itself.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeNamespaces offers the names that ip-netns(8) knows, and files.
func completeNamespaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	entries, _ := os.ReadDir(netnsDir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, cobra.ShellCompDirectiveDefault
}

// oneOf offers words, and nothing else.
func oneOf(words ...string) completer {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
