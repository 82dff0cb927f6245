package providers

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// program puts records by running a program, called as lego's provider exec calls it: "present FQDN VALUE" and "cleanup
// FQDN VALUE", or in the mode RAW "present -- NAME TOKEN KEY_AUTHORIZATION". Unlike lego's it is ended with the context,
// and gets none of our environment's secrets.
type program struct {
	path     string
	raw      bool
	patience time.Duration
	runner   world.Runner
}

// programTime bounds one call of the program.
const programTime = 2 * time.Minute

func newProgram(settings Settings, parts Parts) (challenge.Records, error) {
	p := &program{raw: settings["EXEC_MODE"] == "RAW", runner: parts.Runner}
	var err error
	if p.path, err = parts.Runner.LookPath(settings["EXEC_PATH"]); err != nil {
		return nil, hint.Add(fmt.Errorf("exec: %w", err), "set EXEC_PATH to the program that puts and removes TXT records")
	}
	if text := settings["EXEC_PROPAGATION_TIMEOUT"]; text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 0 {
			return nil, fmt.Errorf("exec: EXEC_PROPAGATION_TIMEOUT: %q is no number of seconds", text)
		}
		p.patience = time.Duration(seconds) * time.Second
	}
	return p, nil
}

func (p *program) Patience() time.Duration { return p.patience }

func (p *program) Put(ctx context.Context, txt challenge.TXT) error {
	return p.run(ctx, "present", txt)
}

func (p *program) Remove(ctx context.Context, txt challenge.TXT) error {
	return p.run(ctx, "cleanup", txt)
}

func (p *program) run(ctx context.Context, what string, txt challenge.TXT) error {
	args := []string{what, txt.FQDN, txt.Value}
	if p.raw {
		args = []string{what, "--", txt.Name, txt.Token, txt.KeyAuthorization}
	}
	result, err := p.runner.Run(ctx, world.Command{Path: p.path, Args: args, Timeout: programTime})
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if result.Exit != 0 {
		return fmt.Errorf("exec: %s %s: exit %d: %s", p.path, what, result.Exit, strings.TrimSpace(string(result.Stderr)+" "+string(result.Stdout)))
	}
	return nil
}
