package maasconfig

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"sync"

	"maascert/certstore"
	"maascert/internal/world"
)

// Rehearsal is any target whose change is prepared and not made: it keeps the commands that would have run. From then on its
// endpoints look as if they served the bundle. What a guard refuses is noted, and the rest is rehearsed all the same, as if somebody
// had mended or accepted it.
type Rehearsal struct {
	Target

	mu       sync.Mutex
	accepted Accept  // what was refused and may be accepted
	refused  []error // what guards refused
	commands []world.Command
	writes   []string
	bundle   *certstore.Bundle
}

// Rehearse makes a harmless twin of a target.
func Rehearse(target Target) *Rehearsal { return &Rehearsal{Target: target} }

// Commands would have run.
func (r *Rehearsal) Commands() []world.Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commands
}

// Writes are the files that would have been replaced.
func (r *Rehearsal) Writes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

// Refused is what guards refused.
func (r *Rehearsal) Refused() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.refused)
}

// accepting is what the target is asked to get ready for, with all accepted that was refused so far.
func (r *Rehearsal) accepting(want Want) Want {
	r.mu.Lock()
	defer r.mu.Unlock()
	accept := Accept{}
	maps.Copy(accept, want.Accept)
	maps.Copy(accept, r.accepted)
	want.Accept = accept
	return want
}

// refuse notes what a guard refused, once, and tells whether that may be accepted.
func (r *Rehearsal) refuse(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.refused, func(known error) bool { return known.Error() == err.Error() }) {
		r.refused = append(r.refused, err)
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Code == "" || r.accepted[refusal.Code] {
		return false
	}
	if r.accepted == nil {
		r.accepted = Accept{}
	}
	r.accepted[refusal.Code] = true
	return true
}

// Guards are the target's, and note what they refuse. One without which the others make no sense goes on saying no.
func (r *Rehearsal) Guards(want Want) []Guard {
	guards := r.Target.Guards(r.accepting(want))
	for i, guard := range guards {
		if guard.Advice || guard.First {
			continue
		}
		guards[i].Ask = func(ctx context.Context) (string, error) {
			evidence, err := guard.Ask(ctx)
			for err != nil && r.refuse(err) { // what else would it say?
				again := r.Target.Guards(r.accepting(want))
				if i >= len(again) {
					break
				}
				evidence, err = again[i].Ask(ctx)
			}
			return evidence, ctx.Err()
		}
	}
	return guards
}

// Tidy leaves what killed runs left to a real run.
func (r *Rehearsal) Tidy(context.Context) error { return nil }

// Probe sees what is really served until the change would have been made.
func (r *Rehearsal) Probe(ctx context.Context) []Served {
	served := r.Target.Probe(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bundle != nil {
		for i := range served {
			served[i] = Served{Address: served[i].Address, Certs: append([]*x509.Certificate{r.bundle.Leaf()}, r.bundle.Chain()...), Pretended: true, Region: served[i].Region}
		}
	}
	return served
}

// Prepare prepares the real target's change; making it only remembers it, and there is nothing to wait for.
func (r *Rehearsal) Prepare(ctx context.Context, bundle *certstore.Bundle, want Want) (Change, error) {
	change, err := r.Target.Prepare(ctx, bundle, r.accepting(want))
	if err != nil {
		return Change{}, err
	}
	return Change{
		Commands: change.Commands, Writes: change.Writes,
		Make: func(context.Context) (Telling, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.commands, r.writes, r.bundle = append(r.commands, change.Commands...), append(r.writes, change.Writes...), bundle
			return Told, nil
		},
		Undo: func(context.Context, *certstore.Bundle) error { return nil },
	}, nil
}
