package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"maascert/internal/hint"
)

func (a *app) completionCommand() *cobra.Command {
	return a.command(spec{
		name: "completion", short: "prints a shell's completion script", args: "bash|zsh|fish", values: oneOf("bash", "zsh", "fish"), group: aside,
		long: "For bash, which needs the package bash-completion: maascert completion bash > /etc/bash_completion.d/maascert",
		action: func(c *call) error {
			root := c.command.Root()
			if len(c.Args) != 1 {
				return hint.Add(errors.New("completion: name one shell"), "maascert completion bash|zsh|fish")
			}
			switch c.arg() {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			default:
				return hint.Add(fmt.Errorf("completion: there is no script for %q", c.arg()), "maascert completion bash|zsh|fish")
			}
		},
	})
}
