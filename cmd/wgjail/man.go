package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the man pages, for packages. They are made from the same
// words as --help.
func (p *program) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Hidden: true, Args: oneArg("into which folder?"),
		Short: "write the man pages into a folder",
		RunE: func(cmd *cobra.Command, args []string) error {
			root := p.rootCommand()
			root.DisableAutoGenTag = true
			forMan(root)
			header := &doc.GenManHeader{Section: "8", Source: "wgjail " + version(), Manual: "wgjail"}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return doc.GenManTree(root, header, args[0])
		},
	}
}

// forMan turns the texts of cmd and of the commands below it into the Markdown
// that package doc expects. In help a line that is indented stands as it is,
// and so it must in a man page.
func forMan(cmd *cobra.Command) {
	if cmd.Long == "" && cmd.Short != "" {
		cmd.Long = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
	}
	lines := strings.Split(escapeMarkdown(cmd.Long), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, " ") {
			lines[i] = "    " + strings.ReplaceAll(line, `\`, "")
		}
	}
	cmd.Long = strings.Join(lines, "\n")
	for _, c := range cmd.Commands() {
		forMan(c)
	}
}

func escapeMarkdown(s string) string {
	return strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`).Replace(s)
}
