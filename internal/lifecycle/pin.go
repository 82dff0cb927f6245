package lifecycle

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// The reasons of a person's own changes, as attempts say them.
const (
	byDeploy   = "deploy"
	byImport   = "import"
	byRollback = "rollback"
)

// BringIn makes a bundle that came from elsewhere, in a version of which it gives the number and the time, the one in use, when clients
// would trust it and a target could take it. From then on it counts as what is wished: only time, a change of this host's
// configuration, or force replaces it. The next pass deploys it.
func (e *Engine) BringIn(ctx context.Context, cert Certificate, version certstore.Version, options Options) (certstore.Version, error) {
	why := byDeploy
	if version.Origin == certstore.FromElsewhere {
		why = byImport
	}
	return e.pin(ctx, cert, why, time.Time{}, options, func(ctx context.Context, p *pass) (certstore.Version, error) {
		bundle := version.Bundle
		version.Created = e.Now().Round(0)
		if version.Origin == certstore.FromElsewhere {
			if kept, err := p.outlives(ctx, bundle); err != nil {
				return kept, err
			}
		}
		if err := p.isUsable(ctx, bundle); err != nil {
			return version, err
		}
		if err := p.hasNames(ctx, bundle); err != nil {
			return version, err
		}
		return p.ledger.Add(ctx, version)
	})
}

// RollBack makes an earlier version the one in use, as BringIn does. Renewal by time is held for a while. Without a number it is the
// last one before the one in use that was ordered or brought in and can still be served.
func (e *Engine) RollBack(ctx context.Context, cert Certificate, number int, hold time.Duration, options Options) (certstore.Version, error) {
	return e.pin(ctx, cert, byRollback, e.Now().Add(hold), options, func(ctx context.Context, p *pass) (certstore.Version, error) {
		number, err := p.earlier(number)
		if err != nil {
			return certstore.Version{}, err
		}
		version, err := p.ledger.Version(ctx, number)
		if errors.Is(err, certstore.ErrNotFound) {
			return version, hint.Add(fmt.Errorf("there is no version %d", number), "maascert history lists those that are kept")
		}
		if err != nil {
			return version, err
		}
		return version, p.isUsable(ctx, version.Bundle)
	})
}

// errInUse says that a version is the one in use already, and that nothing has to change.
var errInUse = errors.New("it is in use already")

// outlives refuses to replace the version in use by what another client keeps, unless that ends later.
func (p *pass) outlives(ctx context.Context, bundle *certstore.Bundle) (certstore.Version, error) {
	number := p.ledger.Record().Current
	if number == 0 {
		return certstore.Version{}, nil
	}
	current, err := p.ledger.Version(ctx, number)
	switch {
	case err != nil: // it cannot be served either
		return certstore.Version{}, nil
	case current.Bundle.Fingerprint() == bundle.Fingerprint():
		return current, errInUse
	case current.Bundle.Leaf().NotAfter.Before(bundle.Leaf().NotAfter):
		return certstore.Version{}, nil
	}
	return current, hint.Add(fmt.Errorf("version %d, which is in use, does not end before it (%s)", number, printable.Time(current.Bundle.Leaf().NotAfter)),
		"maascert deploy brings in another one all the same")
}

// earlier finds the number of the version to go back to.
func (p *pass) earlier(number int) (int, error) {
	record := p.ledger.Record()
	switch {
	case number != 0 && number == record.Current:
		return 0, fmt.Errorf("version %d is in use already", number)
	case number != 0:
		return number, nil
	}
	for _, known := range p.ledger.Versions() {
		if known.Origin.IsOurs() && known.Number < record.Current && known.Number > number && known.NotAfter.After(p.Now()) && record.Revocation(known.Number) == nil {
			number = known.Number
		}
	}
	if number == 0 {
		return 0, hint.Add(errors.New("there is no earlier version that could be served"), "maascert history lists those that are kept; maascert rollback --to VERSION")
	}
	return number, nil
}

// hasNames refuses a bundle that has not all names of the configuration, unless somebody accepts that.
func (p *pass) hasNames(ctx context.Context, bundle *certstore.Bundle) error {
	var lost []string
	wished := p.cert.Wish.Names
	if d := p.ledger.Record().Discovered; d != nil && d.Rule == p.cert.Wish.Rule {
		wished = union(wished, d.Names)
	} else if p.cert.Namer != nil {
		wished = union(wished, p.cert.Namer.Find(ctx).Names)
	}
	for _, name := range wished {
		if !slices.Contains(certstore.CertificateNames(bundle.Leaf()), name) && bundle.Leaf().VerifyHostname(name) != nil {
			lost = append(lost, name)
		}
	}
	if len(lost) == 0 || p.options.Accept[maasconfig.NamesLost] {
		return nil
	}
	return hint.Add(fmt.Errorf("names of the configuration are not in it: %s", strings.Join(lost, ", ")), "if that is what you want: the same with --accept %s", maasconfig.NamesLost)
}

// HoldEnd is when a hold ends by itself: in the last tenth of a certificate's lifetime at the latest.
func HoldEnd(leaf *x509.Certificate, until time.Time) time.Time {
	return earlier(until, emergency(leaf))
}

// isUsable explains why a bundle must not become the version in use: clients would not take it, or no target would.
func (p *pass) isUsable(ctx context.Context, bundle *certstore.Bundle) error {
	leaf, now := bundle.Leaf(), p.Now()
	switch {
	case !leaf.NotAfter.After(now):
		return fmt.Errorf("it expired on %s", printable.Time(leaf.NotAfter))
	case leaf.NotBefore.After(now):
		return fmt.Errorf("it is not valid before %s", printable.Time(leaf.NotBefore))
	}
	if _, err := certstore.Verify(leaf, bundle.Chain(), p.cert.Trust.Pool(leaf, bundle.Chain()), now); err != nil {
		advice := "is its chain whole? Else set acme.issuer_root to the root that clients trust"
		if p.cert.Issuer == nil {
			advice = "is its chain whole? Else add the root that clients trust to the system's: update-ca-certificates"
		}
		return hint.Add(fmt.Errorf("clients would not trust it: %w", err), "%s", advice)
	}
	var refusals []error
	for _, target := range p.cert.Targets {
		want := p.Want(View{State: State{Record: p.ledger.Record(), Known: p.ledger.Versions()}}, target, p.options.Accept)
		want.Names, want.KeyType = certstore.CertificateNames(leaf), bundle.KeyType()
		if err := maasconfig.Ready(ctx, target, want); err != nil {
			refusals = append(refusals, fmt.Errorf("%s: %w", target.Info().Name, err))
		}
	}
	if len(refusals) > 0 && len(refusals) == len(p.cert.Targets) {
		return errors.Join(refusals...)
	}
	return nil
}

// pin makes a version that find returns the one in use, under the certificate's lock. An order that is under way is given up: what
// it brings would replace the version at once.
func (e *Engine) pin(ctx context.Context, cert Certificate, why string, held time.Time, options Options, find func(context.Context, *pass) (certstore.Version, error)) (certstore.Version, error) {
	p := &pass{Engine: e, cert: cert, options: options, grace: new(world.Grace)}
	lock, err := certstore.LockWithin(ctx, e.Store, cert.Name, options.Wait)
	if errors.Is(err, certstore.ErrLocked) {
		err = hint.Add(err, "wait for the other run, or: --wait 5m")
	}
	if err != nil {
		return certstore.Version{}, err
	}
	defer lock.Unlock()
	ctx = lock.Context()
	if p.ledger, err = certstore.OpenLedger(ctx, lock, cert.Name); err != nil {
		return certstore.Version{}, err
	}
	version, err := find(ctx, p)
	if errors.Is(err, errInUse) {
		return version, nil
	}
	if err != nil {
		return version, err
	}
	record := p.ledger.Record()
	if record.Revocation(version.Number) != nil {
		return version, fmt.Errorf("version %d is revoked, or to be revoked", version.Number)
	}
	wish := cert.Wish
	node, _, err := certstore.LoadNode(ctx, lock, e.Node)
	if err != nil {
		return version, err
	}
	return version, p.update(ctx, func(r *certstore.Record) {
		r.Current, r.Pinned, r.PinnedAt, r.HeldUntil = version.Number, version.Number, e.Now().Round(0).UTC(), held.Round(0).UTC()
		// A host that follows another one's wish goes on doing so, and one without a CA has none that could be ordered.
		own := wish.Hash()
		if isFollowed := r.Wish == nil || own == r.WishHash || cmp.Or(r.WishByHost[e.Node], node.Wishes[cert.Name]) != own; isFollowed && cert.Issuer != nil {
			r.Wish, r.WishHash = &wish, own
		}
		r.Order, r.Attempt, r.CutOff = nil, nil, 0
		if r.WishByHost == nil {
			r.WishByHost = map[string]string{}
		}
		r.WishByHost[e.Node] = cert.Wish.Hash()
		r.Remember(certstore.Attempt{At: e.Now().Round(0).UTC(), Node: e.Node, Why: why})
	})
}
