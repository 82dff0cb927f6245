package maasconfig

import (
	"context"
	"crypto/x509"
	"sync"

	"maascert/certstore"
	"maascert/internal/world"
)

// Rehearsal is any target whose change is prepared and not made: it keeps the commands that would have run. From then on its
// endpoints look as if they served the bundle.
type Rehearsal struct {
	Target

	mu       sync.Mutex
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
	change, err := r.Target.Prepare(ctx, bundle, want)
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
