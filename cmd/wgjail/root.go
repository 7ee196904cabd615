package main

import "github.com/spf13/cobra"

const rootLong = `Wgjail makes WireGuard jails: network namespaces whose only way out is a
WireGuard tunnel. It runs programs in them, and opens ports from the host and
its LAN into them.`

const rootExample = `  wgjail run vpn.conf -p 9091 -- transmission-daemon -f -a '*'
  wgjail up vpn.conf
  wgjail exec vpn -- curl https://example.com
  wgjail forward 8080
  wgjail status
  wgjail down vpn`

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "wgjail",
		Short:         "WireGuard jails, and ports into them",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(p.err)
			cmd.Help()
			return exitStatus(exitMisuse)
		},
	}
	root.PersistentFlags().BoolVar(&p.debug, "debug", false, "print each step")
	p.logFormat = logText
	root.PersistentFlags().Var(&p.logFormat, "log-format", "how to log: text or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageHint(cmd, misuse{err}) })
	root.SuggestionsMinimumDistance = 2
	root.SetHelpCommand(p.helpCommand(root))
	root.AddCommand(p.upCommand(), p.downCommand(), p.runCommand(), p.execCommand(), p.forwardCommand(), p.proxyCommand(),
		p.statusCommand(), p.checkCommand(), p.benchCommand(), p.demoCommand(), p.systemdCommand(), p.versionCommand(),
		p.keeperCommand(), p.worldCommand(), p.trialCommand(), p.insideCommand(), p.demoPageCommand(), p.manCommand(),
		p.benchInitCommand(), p.benchLabCommand())
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Short = "print a completion script for a shell"
			cmd.Args = unknownCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return usageHint(cmd, misused("for which shell?")) }
			for _, shell := range cmd.Commands() {
				if shell.Name() == "powershell" {
					cmd.RemoveCommand(shell)
				}
			}
		}
	}
	p.completeFlags(root)
	plainSwitches(root)
	return root
}

// helpCommand does what --help does.
func (p *program) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "explain a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, args)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := misused("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = misused("unknown command %q: did you mean %s?", args[0], near[0])
	}
	return usageHint(cmd, err)
}
