package acme

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"maascert/certstore"
)

// answers are the answers of one order that are visible, and those that earlier runs left behind. What outlives this
// process is written down before it is made visible, and until it is gone.
type answers struct {
	note func([]certstore.Answer) error // nil: nothing is written down

	mu      sync.Mutex
	visible []answer
	left    []certstore.Answer // of earlier runs
}

type answer struct {
	proof
	asked  string // the name as it was asked for; a wildcard has its asterisk
	solver Solver
	at     time.Time
	hidden bool // it is written down, but nothing was done yet to make it visible
}

// answerAge is how long it is tried to take away what an earlier run left.
const answerAge = 7 * 24 * time.Hour

// add writes some answers down that are about to be made visible.
func (a *answers) add(some ...answer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.visible = append(a.visible, some...)
	if !slices.ContainsFunc(some, func(one answer) bool { return one.solver.lasts() }) {
		return nil
	}
	return a.write()
}

// show notes that an answer is being made visible.
func (a *answers) show(p proof) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.visible {
		if a.visible[i].proof == p {
			a.visible[i].hidden = false
		}
	}
}

// write writes down what may be visible and outlives this process.
func (a *answers) write() error {
	if a.note == nil {
		return nil
	}
	written := slices.Clone(a.left)
	for _, one := range a.visible {
		if one.solver.lasts() {
			written = append(written, certstore.Answer{
				Type: one.solver.Type(), Name: one.asked, Token: one.token, Thumbprint: one.thumbprint, At: one.at.UTC(),
			})
		}
	}
	return a.note(written)
}

// takeLeft takes over what earlier runs left, but for what is about to be made visible again.
func (a *answers) takeLeft(solve func(string) Solver, now time.Time, except []answer) []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	var old []answer
	for _, left := range a.left {
		one := answer{proof{strings.TrimPrefix(left.Name, "*."), left.Token, left.Thumbprint}, left.Name, solve(left.Name), left.At, false}
		again := slices.ContainsFunc(except, func(other answer) bool { return other.proof == one.proof })
		if !again && one.solver != nil && one.solver.Type() == left.Type && now.Sub(left.At) < answerAge {
			old = append(old, one)
		}
	}
	a.left = nil
	a.visible = append(a.visible, old...)
	return old
}

// retract takes some answers away, side by side but one after another at each place. What cannot be taken away stays
// written down, for the next run to try again.
func (a *answers) retract(ctx context.Context, some []answer) []error {
	if len(some) == 0 {
		return nil
	}
	var mu sync.Mutex
	var stay []proof
	var errs []error
	group := new(errgroup.Group)
	group.SetLimit(sideBySide)
	for _, together := range byPlace(ctx, some) {
		group.Go(func() error {
			for _, one := range together {
				if one.hidden {
					continue
				}
				if err := one.solver.retract(ctx, one.proof); err != nil {
					mu.Lock()
					stay = append(stay, one.proof)
					errs = append(errs, fmt.Errorf("what proves %s stays visible: %w", one.asked, err))
					mu.Unlock()
				}
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	lasting := false
	a.visible = slices.DeleteFunc(a.visible, func(one answer) bool {
		gone := !slices.Contains(stay, one.proof) && slices.ContainsFunc(some, func(other answer) bool { return other.proof == one.proof })
		lasting = lasting || gone && one.solver.lasts()
		return gone
	})
	if lasting {
		if err := a.write(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Retract takes away what earlier runs left visible, and returns what stays.
func (c *Client) Retract(ctx context.Context, left []certstore.Answer) (stays []certstore.Answer, err error) {
	names := make([]string, len(left))
	for i, one := range left {
		names[i] = one.Name
	}
	release, err := c.openSolvers(ctx, names, nil)
	if err != nil {
		return left, err
	}
	defer release()
	a := answers{left: left, note: func(written []certstore.Answer) error {
		stays = written
		return nil
	}}
	old := a.takeLeft(c.config.Solve, c.config.Now(), nil)
	if err := a.write(); err != nil {
		return left, err
	}
	return stays, errors.Join(a.retract(ctx, old)...)
}

// all are the answers that may be visible.
func (a *answers) all() []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.visible)
}

// byPlace groups answers: those of one group stand at one place.
func byPlace(ctx context.Context, some []answer) [][]answer {
	places := make([]string, len(some))
	group := new(errgroup.Group)
	group.SetLimit(sideBySide)
	for i, one := range some {
		group.Go(func() error {
			places[i] = one.solver.place(ctx, one.name)
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	var groups [][]answer
	at := map[string]int{}
	for i, one := range some {
		if n, ok := at[places[i]]; ok && places[i] != "" {
			groups[n] = append(groups[n], one)
			continue
		}
		at[places[i]] = len(groups)
		groups = append(groups, []answer{one})
	}
	return groups
}
