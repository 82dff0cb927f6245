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

func (r *ready) release() {
	for _, f := range slices.Backward(r.releases) {
		f()
	}
}

// openSolvers makes every solver ready that some names need.
func (c *Client) openSolvers(ctx context.Context, names []string, account crypto.PublicKey) (*ready, error) {
	r := &ready{}
	for _, solver := range c.solvers(names) {
		if err := r.open(ctx, solver, account); err != nil {
			r.release()
			return nil, err
		}
	}
	return r, nil
}
