package challenge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Hooks are programs that are run around answers: one that opens a firewall, for example, and one that closes it. They are run once for
// orders of this process that overlap. A run that was killed leaves the second one to the next order, so running either of them again has
// to do no harm. It is safe for concurrent use.
type Hooks struct {
	Before, After []string // argument lists; empty: nothing is run
	Runner        world.Runner

	mu    sync.Mutex
	users int
}

const (
	// hookTime bounds a program, and interruptedHookTime the second one of a run that was interrupted, which is to end at once.
	hookTime            = time.Minute
	interruptedHookTime = 700 * time.Millisecond
)

// Enter runs the first program, and leave the second one.
func (h *Hooks) Enter(ctx context.Context) (leave func() error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users == 0 {
		if err := h.run(ctx, "challenge.before", h.Before, hookTime); err != nil {
			return nil, errors.Join(err, h.after(ctx)) // whatever it has opened
		}
	}
	h.users++
	return sync.OnceValue(func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.users--; h.users > 0 {
			return nil
		}
		return h.after(ctx)
	}), nil
}

// after runs the second program. Whoever interrupts it wants it to end at once, and no door to stay open: it has a moment for that.
func (h *Hooks) after(ctx context.Context) error {
	running, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(interruptedHookTime, func() { cut(fmt.Errorf("interrupted: %w", context.Cause(ctx))) })
	})
	defer stop()
	return h.run(running, "challenge.after", h.After, hookTime)
}

func (h *Hooks) run(ctx context.Context, what string, args []string, most time.Duration) error {
	if len(args) == 0 {
		return nil
	}
	command := world.Command{Path: args[0], Args: args[1:], Timeout: most}
	result, err := h.Runner.Run(ctx, command)
	if err == nil && result.Exit != 0 {
		err = fmt.Errorf("exit %d: %s", result.Exit, printable.Phrase(string(append(result.Stdout, result.Stderr...))))
	}
	if err != nil {
		return hint.Add(fmt.Errorf("%s: %s: %w", what, printable.Phrase(command.String()), err), "run it by hand")
	}
	return nil
}
