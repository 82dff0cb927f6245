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

// Revoking is what a person wants to be revoked.
type Revoking struct {
	Version int // its number; 0: the one in use
	Agreed  int // number of the one that somebody agreed to; 0: whichever it is
	Reason  uint
	First   bool          // at once, whatever is served
	Wait    time.Duration // for a lock that another run holds
}

// Revocable is what would be revoked: the version that a person names, or the one of which that was asked and is not done yet, or the one in
// use; and whether it is an earlier one that is just revoked. The error says why that may not be.
func (e *Engine) Revocable(ctx context.Context, cert Certificate, wanted Revoking) (version certstore.Version, isEarlier bool, err error) {
	ledger, err := certstore.OpenLedger(ctx, e.Store, cert.Name)
	if err != nil {
		return version, false, err
	}
	return e.revocable(ctx, ledger, cert, wanted)
}

func (e *Engine) revocable(ctx context.Context, ledger *certstore.Ledger, cert Certificate, wanted Revoking) (version certstore.Version, isEarlier bool, err error) {
	record := ledger.Record()
	number := record.Current
	if pending := record.PendingRevocation(); pending != nil {
		number = pending.Version
	}
	if wanted.Version != 0 {
		number = wanted.Version
	}
	if number == 0 {
		return version, false, errors.New("there is no certificate to revoke")
	}
	if version, err = ledger.Version(ctx, number); err != nil {
		return version, false, hint.Add(err, "maascert history lists those that are kept")
	}
	if version.Directory == "" {
		return version, false, fmt.Errorf("version %d did not come from an ACME CA", version.Number)
	}
	isEarlier = wanted.Version != 0 && number != record.Current
	if isEarlier && !wanted.First {
		err = e.unserved(ctx, cert, version)
	}
	return version, isEarlier, err
}

// AskRevocation writes down that a version is to be revoked. The one in use is replaced by every pass from then on, and once every
// target serves another one the CA is told; an earlier one, which no endpoint serves, is revoked at once. With First the CA is told at
// once, whatever is served. Asked again while an earlier version has yet to be revoked, it is that one that is meant, now with this
// reason. It returns the version, and whether it is revoked.
func (e *Engine) AskRevocation(ctx context.Context, cert Certificate, wanted Revoking) (_ certstore.Version, isDone bool, err error) {
	p := &pass{Engine: e, cert: cert, grace: new(world.Grace)}
	held, err := certstore.LockWithin(ctx, e.Store, cert.Name, wanted.Wait)
	if err != nil {
		return certstore.Version{}, false, hint.Add(err, "wait for the other run, and try again")
	}
	defer held.Unlock()
	ctx = held.Context()
	if p.ledger, err = certstore.OpenLedger(ctx, held, cert.Name); err != nil {
		return certstore.Version{}, false, err
	}
	version, isEarlier, err := e.revocable(ctx, p.ledger, cert, wanted)
	if err != nil {
		return version, false, err
	}
	number, reason := version.Number, wanted.Reason
	if wanted.Agreed != 0 && number != wanted.Agreed {
		return version, false, hint.Add(fmt.Errorf("another run made version %d the one in use meanwhile; nothing was done", number), "look again: maascert status")
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
	if err != nil || !wanted.First && !isEarlier {
		return version, false, err
	}
	err = p.revoke(ctx, version, reason)
	return version, err == nil, err
}

// unserved tells why a version may not be revoked yet: an endpoint serves it, or may.
func (e *Engine) unserved(ctx context.Context, cert Certificate, version certstore.Version) error {
	view, err := e.Look(ctx, cert)
	if err != nil {
		return err
	}
	const allTheSame = "maascert revoke --first revokes it all the same"
	if view.State.isServedElsewhere(version.Number) {
		return hint.Add(fmt.Errorf("another host's own target was last seen to serve version %d", version.Number), "have that host make a pass; %s", allTheSame)
	}
	for _, target := range view.State.Targets {
		if target.Unsure != nil {
			return hint.Add(fmt.Errorf("regions that cannot be found may serve version %d: %w", version.Number, target.Unsure), allTheSame)
		}
		for _, endpoint := range target.Endpoints {
			switch {
			case endpoint.Fingerprint() == version.Bundle.Fingerprint():
				return hint.Add(fmt.Errorf("%s serves version %d", endpoint.Address, version.Number), "maascert renew brings the one in use there; %s", allTheSame)
			case len(endpoint.Certs) == 0:
				return hint.Add(fmt.Errorf("%s, which shows no certificate now, may serve version %d again", endpoint.Address, version.Number), "is it up? %s", allTheSame)
			}
		}
	}
	return nil
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
