package command

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"maascert/internal/hint"
)

// The program completes itself: asked with --generate-bash-completion it lists what may come next.
const bashCompletion = `_maascert() {
    local words=("${COMP_WORDS[@]:0:$COMP_CWORD}") current=${COMP_WORDS[COMP_CWORD]}
    case $current in -*) words+=("$current") ;; esac
    COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$current"))
}
complete -o default -F _maascert maascert
`

const zshCompletion = `#compdef maascert
_maascert() {
    local -a words_before found
    words_before=(${words[1,CURRENT-1]})
    [[ $words[CURRENT] == -* ]] && words_before+=($words[CURRENT])
    found=(${(f)"$($words_before --generate-bash-completion 2>/dev/null)"})
    compadd -- $found || _files
}
compdef _maascert maascert
`

func (a *app) completionCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "completion", Usage: "prints a shell's completion script", ArgsUsage: "bash|zsh|fish",
		Description: "For bash: maascert completion bash > /etc/bash_completion.d/maascert",
		Action: func(c *cli.Context) error {
			script := ""
			switch c.Args().First() {
			case "bash":
				script = bashCompletion
			case "zsh":
				script = zshCompletion
			case "fish":
				var err error
				if script, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
			default:
				return hint.Add(fmt.Errorf("completion: there is no script for %q", c.Args().First()), "maascert completion bash|zsh|fish")
			}
			_, err := fmt.Fprint(a.stdout, script)
			return err
		},
	})
}
