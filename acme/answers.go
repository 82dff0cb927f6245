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

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/printable"
)

// answers are the answers of one order that are visible, and those that earlier runs left behind. What outlives this
// process is written down before it is made visible, and until it is gone.
type answers struct {
	note func([]certstore.Answer) error // nil: nothing is written down

	mu        sync.Mutex
	visible   []answer
	remaining []certstore.Answer // of earlier runs
}

type answer struct {
	challenge.Proof
	asked   string // the name as it was asked for; a wildcard has its asterisk
	solver  challenge.Solver
	at      time.Time
	pending bool // it is written down, but nothing was done yet to make it visible
}

// answerAge bounds the tries to take away an answer that an earlier run left.
const answerAge = 7 * 24 * time.Hour

// add writes some answers down that are about to be made visible.
func (a *answers) add(some ...answer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.visible = append(a.visible, some...)
	if !slices.ContainsFunc(some, func(one answer) bool { return one.solver.Lasts() }) {
		return nil
	}
	return a.write()
}

// show notes that an answer is being made visible.
func (a *answers) show(p challenge.Proof) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.visible {
		if a.visible[i].Proof == p {
			a.visible[i].pending = false
		}
	}
}

// write writes down what may be visible and outlives this process.
func (a *answers) write() error {
	if a.note == nil {
		return nil
	}
	written := slices.Clone(a.remaining)
	for _, one := range a.visible {
		if one.solver.Lasts() {
			written = append(written, certstore.Answer{
				Type: one.solver.Type(), Name: one.asked, Token: one.Token, Thumbprint: one.Thumbprint, Place: one.Place, At: one.at.UTC(),
			})
		}
	}
	return a.note(written)
}

// takeOver takes over what earlier runs left, but for what is about to be made visible again. What it has no way to take
// away now stays written down, with why; what it never will have one for is given up, which is told too.
func (a *answers) takeOver(ready func(challenge.Solver) error, solve func(string) challenge.Solver, now time.Time, except []answer) (old []answer, told []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var stays []certstore.Answer
	for _, left := range a.remaining {
		one := answer{
			Proof: challenge.Proof{Name: strings.TrimPrefix(left.Name, "*."), Token: left.Token, Thumbprint: left.Thumbprint, Place: left.Place},
			asked: left.Name, solver: solve(left.Name), at: left.At,
		}
		switch {
		case slices.ContainsFunc(except, func(other answer) bool { return other.Name == one.Name && other.Token == one.Token }):
		case now.Sub(left.At) > answerAge:
			told = append(told, fmt.Errorf("what proved %s since %s is given up: %s", left.Name, printable.Time(left.At), one.words(left.Type)))
		case one.solver == nil || one.solver.Type() != left.Type || !one.solver.Lasts():
			told = append(told, fmt.Errorf("%s is not proven by %s any more, so nothing takes away %s", left.Name, left.Type, one.words(left.Type)))
		default:
			if err := ready(one.solver); err != nil {
				stays, told = append(stays, left), append(told, fmt.Errorf("what proves %s stays visible: %w", left.Name, err))
				continue
			}
			old = append(old, one)
		}
	}
	a.remaining = stays
	a.visible = append(a.visible, old...)
	return old, told
}

// words tell a person what to look for.
func (a answer) words(challengeType string) string {
	if challengeType == "dns-01" {
		at := a.Place
		if at == "" {
			at = "_acme-challenge." + a.Name + "."
		}
		return fmt.Sprintf("the TXT record %s with %q", at, a.Digest())
	}
	return fmt.Sprintf("the file %s%s", challenge.Path, a.Token)
}

// retract takes some answers away, side by side but one after another at each place. What cannot be taken away stays
// written down, for the next run to try again.
func (a *answers) retract(ctx context.Context, some []answer) []error {
	if len(some) == 0 {
		return nil
	}
	var mu sync.Mutex
	var stay []challenge.Proof
	var errs []error
	group := new(errgroup.Group)
	group.SetLimit(sideBySide)
	for _, together := range byPlace(some) {
		group.Go(func() error {
			for _, one := range together {
				if one.pending {
					continue
				}
				if err := one.solver.Retract(ctx, one.Proof); err != nil {
					mu.Lock()
					stay = append(stay, one.Proof)
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
		gone := !slices.Contains(stay, one.Proof) && slices.ContainsFunc(some, func(other answer) bool { return other.Proof == one.Proof })
		lasting = lasting || gone && one.solver.Lasts()
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
	var opened ready
	defer opened.release()
	a := answers{remaining: left, note: func(written []certstore.Answer) error {
		stays = written
		return nil
	}}
	old, told := a.takeOver(func(s challenge.Solver) error { return opened.open(ctx, s, nil) }, c.config.Solve, c.config.Now(), nil)
	if err := a.write(); err != nil {
		return left, err
	}
	return stays, errors.Join(append(told, a.retract(ctx, old)...)...)
}

// all are the answers that may be visible.
func (a *answers) all() []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.visible)
}

// findPlaces finds out where answers are to stand: at none of the names that the certificate is for, whose own records
// stand there.
func findPlaces(ctx context.Context, some []answer, names []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide)
	for i := range some {
		group.Go(func() (err error) {
			some[i].Place, err = some[i].solver.Place(ctx, some[i].Name)
			if own := strings.TrimSuffix(some[i].Place, "."); err == nil && own != "" && (slices.Contains(names, own) || slices.Contains(names, "*."+own)) {
				err = fmt.Errorf("dns-01: _acme-challenge.%s leads to %s, a name of the certificate: its own records would be in danger", some[i].Name, own)
			}
			return err
		})
	}
	return group.Wait()
}

// byPlace groups answers: those of one group stand at one place.
func byPlace(some []answer) [][]answer {
	var groups [][]answer
	at := map[string]int{}
	for _, one := range some {
		if n, ok := at[one.Place]; ok && one.Place != "" {
			groups[n] = append(groups[n], one)
			continue
		}
		at[one.Place] = len(groups)
		groups = append(groups, []answer{one})
	}
	return groups
}
