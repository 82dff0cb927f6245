package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
)

// AskRevocation writes down that the version in use is to be revoked. From then on every pass replaces it, and once every
// target serves another one the CA is told. With first the CA is told at once, whatever is served. It returns the version.
func (e *Engine) AskRevocation(ctx context.Context, cert Certificate, reason uint, first bool, wait time.Duration) (certstore.Version, error) {
	p := &pass{Engine: e, cert: cert}
	ctx, unlock, err := certstore.LockWithin(ctx, e.Store, cert.Name, wait)
	if err != nil {
		return certstore.Version{}, hint.Add(err, "wait for the other run, and try again")
	}
	defer unlock()
	current, err := p.current(ctx)
	if err != nil {
		return certstore.Version{}, err
	}
	if current == nil {
		return certstore.Version{}, errors.New("there is no certificate to revoke")
	}
	if current.Origin != certstore.FromACME {
		return *current, fmt.Errorf("version %d did not come from an ACME CA", current.Number)
	}
	err = p.update(ctx, func(r *certstore.Record) {
		if asked := r.Revocation(current.Number); asked != nil {
			asked.Reason = reason
			return
		}
		r.Revocations = append(r.Revocations, certstore.Revocation{Version: current.Number, Reason: reason, Asked: e.Now().UTC()})
	})
	if err != nil || !first {
		return *current, err
	}
	return *current, p.revoke(ctx, certstore.Revocation{Version: current.Number, Reason: reason})
}

// revokeReplaced has the CA revoke what was to be replaced first, now that every target serves another version.
func (p *pass) revokeReplaced(ctx context.Context) {
	for _, r := range p.result.After.State.toRevoke() {
		if err := p.revoke(ctx, r); err != nil {
			p.fail(StageObtain, fmt.Errorf("revoking version %d: %w", r.Version, err))
			continue
		}
		p.result.Revoked = append(p.result.Revoked, r.Version)
		p.result.Changed = true
	}
}

// revoke has the CA revoke a version, and writes that down. A version that is kept no more cannot be revoked by us.
func (p *pass) revoke(ctx context.Context, wanted certstore.Revocation) error {
	version, err := certstore.LoadVersion(ctx, p.Store, p.cert.Name, wanted.Version)
	if err != nil && !errors.Is(err, certstore.ErrNotFound) {
		return err
	}
	if err == nil && version.Bundle.Leaf().NotAfter.After(p.Now()) {
		if err := p.Revoke(ctx, version, wanted.Reason); err != nil {
			return err
		}
	}
	return p.update(ctx, func(r *certstore.Record) {
		if asked := r.Revocation(wanted.Version); asked != nil {
			asked.Done = p.Now().UTC()
		}
		// Those that are done matter only while their version is in use.
		r.Revocations = slices.DeleteFunc(r.Revocations, func(one certstore.Revocation) bool {
			return !one.Done.IsZero() && one.Version != r.Current
		})
	})
}

// rememberWindow writes down what the CA said about the version that was just brought in, for when it cannot be asked.
func (p *pass) rememberWindow(ctx context.Context) {
	state := p.result.After.State
	if !p.result.Obtained || state.Window == nil || ctx.Err() != nil {
		return
	}
	w := state.Window
	p.fail(StageSave, p.update(ctx, func(r *certstore.Record) {
		r.Window = &certstore.Window{Version: r.Current, Start: w.Start.UTC(), End: w.End.UTC(), Explanation: w.Explanation}
	}))
}

// outageAsk is when to ask a CA again that could not be asked for its renewal information.
const outageAsk = time.Hour

// remembered is the window that the CA named last, for a version that it cannot be asked about now.
func remembered(w *certstore.Window, current *certstore.Version, now time.Time) *acme.Window {
	if w == nil || w.Version != current.Number {
		return nil
	}
	window, err := acme.NewWindow(current.Bundle.Leaf(), w.Start, w.End)
	if err != nil {
		return nil
	}
	window.Explanation, window.AskAgain = w.Explanation, now.Add(outageAsk)
	return &window
}
