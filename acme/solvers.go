package acme

import (
	"context"
	"crypto"
	"slices"

	"maascert/acme/challenge"
)

// solvers are the distinct ones that some names need.
func (c *Client) solvers(names []string) []challenge.Solver {
	var all []challenge.Solver
	for _, name := range names {
		if solver := c.config.Solve(name); !slices.Contains(all, solver) {
			all = append(all, solver)
		}
	}
	return all
}

// ready are solvers that were opened.
type ready struct {
	solvers  []challenge.Solver
	releases []func()
	hooks    []*challenge.Hooks
	warn     func(format string, args ...any) // of what could not be undone; nil: nobody is told
}

func (r *ready) open(ctx context.Context, solver challenge.Solver, account crypto.PublicKey) error {
	if slices.Contains(r.solvers, solver) {
		return nil
	}
	release, err := solver.Open(ctx, account)
	if err != nil {
		return err
	}
	r.solvers, r.releases = append(r.solvers, solver), append(r.releases, release)
	return nil
}

// enter runs the programs that go before the answers.
func (r *ready) enter(ctx context.Context, hooks *challenge.Hooks) error {
	if hooks == nil || slices.Contains(r.hooks, hooks) {
		return nil
	}
	leave, err := hooks.Enter(ctx)
	if err != nil {
		return err
	}
	r.hooks, r.releases = append(r.hooks, hooks), append(r.releases, func() {
		if err := leave(); err != nil && r.warn != nil {
			r.warn("%v", err)
		}
	})
	return nil
}

func (r *ready) release() {
	for _, f := range slices.Backward(r.releases) {
		f()
	}
	r.releases = nil
}

// openSolvers makes every solver ready that some names need, and runs what goes before them, unless nothing is to be changed.
func (c *Client) openSolvers(ctx context.Context, names []string, account crypto.PublicKey, changesNothing bool) (*ready, error) {
	r := &ready{}
	for _, name := range names {
		if changesNothing || c.config.Around == nil {
			break
		}
		if err := r.enter(ctx, c.config.Around(name)); err != nil {
			r.release()
			return nil, err
		}
	}
	for _, solver := range c.solvers(names) {
		if err := r.open(ctx, solver, account); err != nil {
			r.release()
			return nil, err
		}
	}
	return r, nil
}
