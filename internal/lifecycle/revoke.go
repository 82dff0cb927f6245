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
	"maascert/internal/printable"
	"maascert/internal/world"
)

// AskRevocation writes down that the version in use is to be revoked. From then on every pass replaces it, and once every
// target serves another one the CA is told. With first the CA is told at once, whatever is served. Asked again while an
// earlier version has yet to be revoked, it is that one that is meant, now with this reason. It returns the version.
func (e *Engine) AskRevocation(ctx context.Context, cert Certificate, reason uint, first bool, wait time.Duration) (certstore.Version, error) {
	p := &pass{Engine: e, cert: cert, grace: new(world.Grace)}
	held, err := certstore.LockWithin(ctx, e.Store, cert.Name, wait)
	if err != nil {
		return certstore.Version{}, hint.Add(err, "wait for the other run, and try again")
	}
	defer held.Unlock()
	ctx = held.Context()
	if p.ledger, err = certstore.OpenLedger(ctx, held, cert.Name); err != nil {
		return certstore.Version{}, err
	}
	record := p.ledger.Record()
	number := record.Current
	if pending := record.PendingRevocation(); pending != nil {
		number = pending.Version
	}
	if number == 0 {
		return certstore.Version{}, errors.New("there is no certificate to revoke")
	}
	version, err := p.ledger.Version(ctx, number)
	if err != nil {
		return version, err
	}
	if version.Origin != certstore.FromACME {
		return version, fmt.Errorf("version %d did not come from an ACME CA", version.Number)
	}
	err = p.update(ctx, func(r *certstore.Record) {
		if asked := r.Revocation(number); asked != nil {
			asked.Reason, asked.Refused = reason, ""
			return
		}
		r.Revocations = append(r.Revocations, certstore.Revocation{
			Version: number, Reason: reason, Asked: e.Now().UTC(), Expires: version.Bundle.Leaf().NotAfter.UTC(),
		})
	})
	if err != nil || !first {
		return version, err
	}
	if err := p.revoke(ctx, version, reason); err != nil {
		return version, err
	}
	return version, nil
}

// revokeReplaced has the CA revoke what was to be replaced first, now that every target was seen to serve another version.
// It returns whether there was anything to do.
func (p *pass) revokeReplaced(ctx context.Context) bool {
	all := p.result.After.State.toRevoke()
	for _, wanted := range all {
		version, err := p.ledger.Version(ctx, wanted.Version)
		switch {
		case errors.Is(err, certstore.ErrNotFound):
			p.warn("version %d was not revoked: the store has it no more", wanted.Version)
			err = p.forget(ctx, wanted.Version)
		case err == nil && !version.Bundle.Leaf().NotAfter.After(p.Now()):
			p.warn("version %d was not revoked: it has expired", wanted.Version)
			err = p.forget(ctx, wanted.Version)
		case err == nil:
			if err = p.revoke(ctx, version, wanted.Reason); err == nil {
				p.result.Revoked, p.result.Changed = append(p.result.Revoked, wanted.Version), true
			}
		}
		if err != nil {
			err = fmt.Errorf("revoking version %d: %w", wanted.Version, err)
			p.recordFailure(ctx, StageRevoke, err)
			p.fail(StageRevoke, err)
		}
	}
	return len(all) > 0
}

// revoke has the CA revoke a version, and writes down what it said.
func (p *pass) revoke(ctx context.Context, version certstore.Version, reason uint) error {
	err := p.Revoke(ctx, version, reason)
	if acme.IsRefusal(err) {
		refused := p.update(ctx, func(r *certstore.Record) {
			if asked := r.Revocation(version.Number); asked != nil {
				asked.Refused = printable.Line(err.Error(), printable.Word)
			}
		})
		return errors.Join(hint.Add(err, "it is not asked again; with another reason: maascert revoke --reason R"), refused)
	}
	if err != nil {
		return err
	}
	return p.update(ctx, func(r *certstore.Record) {
		if asked := r.Revocation(version.Number); asked != nil {
			asked.Done = p.Now().UTC()
		}
		// Those that are done matter only while their version is kept: it must not come back.
		r.Revocations = slices.DeleteFunc(r.Revocations, func(one certstore.Revocation) bool {
			return !one.Done.IsZero() && one.Version != r.Current && !isListed(r.Versions, one.Version)
		})
	})
}

func isListed(versions map[string]certstore.VersionInfo, number int) bool {
	for _, known := range versions {
		if known.Number == number {
			return true
		}
	}
	return false
}

// forget drops a revocation that has become pointless.
func (p *pass) forget(ctx context.Context, version int) error {
	return p.update(ctx, func(r *certstore.Record) {
		r.Revocations = slices.DeleteFunc(r.Revocations, func(one certstore.Revocation) bool { return one.Version == version })
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

// A CA that could not be asked for its renewal information is asked again after outageAsk.
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
