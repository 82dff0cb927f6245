package notify

import (
	"context"
	"fmt"

	"maascert/internal/printable"
	"maascert/internal/section"
	"maascert/internal/world"
)

// ExecSection are the keys of a notifier of type exec.
type ExecSection struct {
	Keys    `yaml:",inline"`
	Command []string `yaml:"command,program"` // the program, and its arguments
}

// Check finds what is wrong.
func (s *ExecSection) Check(at section.Place) {
	s.check(at)
	if len(s.Command) == 0 || s.Command[0] == "" {
		at.Fault("command", "command is missing: the program that gets events, and its arguments, as one list")
	}
}

// Entrusted is the program.
func (s *ExecSection) Entrusted() []string { return s.Command[:min(1, len(s.Command))] }

// Make makes the notifier.
func (s *ExecSection) Make(parts Parts) Notifier {
	return &program{command: s.Command, runner: parts.Runner}
}

// program gets the event as JSON, one line on its standard input, and has taken it when it ends with 0. Its time is the channel's: then it
// is ended, with all that it started.
type program struct {
	command []string
	runner  world.Runner
}

func (p *program) Notify(ctx context.Context, event Event) error {
	text, err := event.Document()
	if err != nil {
		return &Refusal{err}
	}
	result, err := p.runner.Run(ctx, world.Command{Path: p.command[0], Args: p.command[1:], Stdin: text})
	switch {
	case err != nil:
		return err
	case result.Exit != 0:
		said := printable.Phrase(string(result.Stderr))
		if said != "" {
			said = ": " + said
		}
		return fmt.Errorf("%s: exit code %d%s", p.command[0], result.Exit, said)
	default:
		return nil
	}
}
