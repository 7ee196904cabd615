package main

import (
	"bytes"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// plainSwitches has the usage of root and the commands below it show an option
// without a value as --json; pflag shows it as --json[=true|false].
func plainSwitches(root *cobra.Command) {
	usage := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		out := cmd.OutOrStderr()
		var text bytes.Buffer
		cmd.SetOut(&text)
		err := usage(cmd)
		cmd.SetOut(out)
		if err != nil {
			return err
		}
		shown := text.String()
		for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
			shown = strings.Replace(shown, flagUsages(flags.FlagUsages()), flagUsages(plain(flags).FlagUsages()), 1)
		}
		_, err = out.Write([]byte(shown))
		return err
	})
}

// flagUsages is how cobra's usage has the text of a set of options.
func flagUsages(text string) string { return strings.TrimRight(text, " \n") }

// plain returns options that look like flags in a usage, for nothing else.
func plain(flags *pflag.FlagSet) *pflag.FlagSet {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		copied := *f
		if f.Value.Type() == "bool" {
			copied.Value, copied.NoOptDefVal = valueless{f.Value}, ""
			copied.Usage = "``" + f.Usage // the name of its value, which is none: see pflag.UnquoteUsage
		}
		shown.AddFlag(&copied)
	})
	return shown
}

// valueless is a switch that pflag does not know for one.
type valueless struct{ pflag.Value }

func (valueless) Type() string { return "" }
