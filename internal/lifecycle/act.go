package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/maasconfig"
)

// maxCutOffs is how many runs in a row may be killed before that counts as a failure: a crash loop must not eat the
// CA's rate limit.
const maxCutOffs = 3

// obtain orders what the plan says and makes it the version in use. It returns whether there is a new version.
func (p *pass) obtain(ctx context.Context, view View) bool {
	plan := view.Plan
	resume, err := p.begin(ctx, plan)
	if err != nil {
		p.fail(StageSave, err)
		return false
	}
	if p.result.Err != nil {
		return false
	}
	issued, err := p.cert.Issuer.Obtain(ctx, acme.Request{
		Names: plan.Wish.Names, KeyType: plan.Wish.KeyType, Resume: resume, Predecessor: p.result.After.State.Current,
		Save: func(order certstore.Order) error {
			return p.update(ctx, func(r *certstore.Record) { r.Order = &order })
		},
		Left: view.State.Record.Answers,
		Note: func(answers []certstore.Answer) error {
			return p.update(ctx, func(r *certstore.Record) { r.Answers = answers })
		},
	})
	if issued != nil {
		p.result.Requests = issued.Requests
		for _, warning := range issued.Warnings {
			p.warn("%s", warning)
		}
	}
	if err != nil {
		p.failed(ctx, err)
		return false
	}
	if err := p.keep(ctx, issued); err != nil {
		p.fail(StageSave, err)
		return false
	}
	p.result.Obtained, p.result.Changed = true, true
	if err := p.publish(issued.Bundle); err != nil {
		// The next pass sees that it is missing and puts it there.
		p.Log.Warn("publishing the certificate", "cert", p.cert.Name, "error", err)
	}
	return true
}

// begin writes the attempt down before it is made, and returns the order that an earlier one left.
func (p *pass) begin(ctx context.Context, plan Plan) (resume *certstore.Order, err error) {
	var tooOften bool
	err = p.update(ctx, func(r *certstore.Record) {
		if r.Attempt != nil {
			r.CutOff++
		}
		if tooOften = r.Attempt != nil && r.CutOff >= maxCutOffs; tooOften {
			p.countFailure(r, time.Time{})
			r.CutOff = 0
			cut := *r.Attempt
			cut.Stage, cut.Error = string(StageObtain), fmt.Sprintf("%d runs in a row were killed", maxCutOffs)
			r.Remember(cut)
			r.Attempt = nil
			return
		}
		attempt := p.attempt("", nil)
		r.Attempt = &attempt
		hash := plan.Wish.Hash()
		r.Wish, r.WishHash = &plan.Wish, hash
		if r.Published == nil {
			r.Published = map[string]string{}
		}
		r.Published[p.Node] = p.cert.Wish.Hash()
		resume = r.Order
	})
	if err == nil && tooOften {
		p.result.NotNow = true
		p.fail(StageObtain, hint.Add(fmt.Errorf("%d runs in a row were killed; the order is held back for a while", maxCutOffs),
			"find out what kills maascert: journalctl -u maascert; maascert renew --force tries at once"))
	}
	return resume, err
}

// countFailure counts a failed order and sets when the next may be made.
func (p *pass) countFailure(r *certstore.Record, retryAfter time.Time) {
	var life time.Duration
	if current := p.result.Before.State.Current; current != nil {
		life = lifetime(current.Bundle.Leaf())
	}
	r.Failures++
	r.NextAttempt = p.Now().Add(backOff(r.Failures, life)).UTC()
	if latest := p.Now().Add(longestRetryAfter); retryAfter.After(latest) {
		retryAfter = latest
	}
	r.RetryAfter = retryAfter.UTC()
}

// failed writes a failed order down. An order that was interrupted is no failure and is taken up by the next run; so is
// one whose CA could not be reached any more. One that the CA refused is over.
func (p *pass) failed(ctx context.Context, failure error) {
	interrupted := ctx.Err() != nil
	after, _ := acme.RetryAfter(failure)
	saving := p.update(ctx, func(r *certstore.Record) {
		r.Attempt, r.CutOff = nil, 0
		if interrupted {
			return
		}
		if acme.IsRefusal(failure) {
			r.Order = nil
		}
		p.countFailure(r, after)
		r.Remember(p.attempt(StageObtain, failure))
	})
	if saving != nil {
		p.Log.Warn("writing down a failure", "cert", p.cert.Name, "error", saving)
	}
	p.result.NotNow = acme.IsRateLimited(failure)
	if !after.IsZero() {
		failure = hint.Add(failure, "the CA wants to be asked again at %s; nothing is tried before", after.UTC().Format(time.RFC3339))
	}
	p.fail(StageObtain, failure)
}

// keep saves what was issued. Once the CA has issued, nothing may lose the key, so this goes on when the pass is
// interrupted.
func (p *pass) keep(ctx context.Context, issued *acme.Issued) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	version, err := certstore.AddVersion(ctx, p.Store, p.cert.Name, certstore.Version{
		Origin: certstore.FromACME, Created: p.Now(), Directory: issued.Directory, Account: issued.Account, Profile: issued.Profile, Bundle: issued.Bundle,
	})
	if err != nil {
		return hint.Add(err, "make room; the order is kept, and the next run fetches the same certificate")
	}
	return p.update(ctx, func(r *certstore.Record) {
		r.Current, r.Order, r.Attempt = version.Number, nil, nil
		r.CutOff, r.Failures = 0, 0
		r.NextAttempt, r.RetryAfter, r.HeldUntil = time.Time{}, time.Time{}, time.Time{}
		r.Remember(p.attempt("", nil))
	})
}

// deploy brings a version to a target. seen is what its endpoints served when they were last looked at.
func (p *pass) deploy(ctx context.Context, target maasconfig.Target, version certstore.Version, seen []maasconfig.Endpoint) {
	name := target.Name()
	p.result.Deployed[name] = false
	want := p.Want(ctx, p.cert, p.result.After, name, p.options.Accept)
	previous := p.previous(ctx, target, version, seen)
	record, _, err := certstore.LoadRecord(ctx, p.Store, p.cert.Name)
	if err != nil {
		p.fail(StageLook, err)
		return
	}
	before := record.Deployments[name]
	if before.Version != version.Number {
		before = before.For(version.Number)
	}
	left := callsLeft(before, seen, version.Number, p.Now())
	before.Calls = maxCalls - left
	spent := 0
	outcome, err := target.Deploy(ctx, maasconfig.Deployment{
		Bundle: version.Bundle, Previous: previous, Earlier: want.Earlier, Ours: want.Ours, Accept: p.options.Accept, Calls: left,
		Spend: func() error {
			spent++
			return p.update(ctx, func(r *certstore.Record) {
				d := before
				d.Calls, d.Told = before.Calls+spent, p.Now().UTC()
				p.setDeployment(r, name, d)
			})
		},
	})
	p.result.Changed = p.result.Changed || spent > 0
	p.concludeDeploy(ctx, target, version, before, outcome, err)
}

// concludeDeploy writes down what a deployment came to.
func (p *pass) concludeDeploy(ctx context.Context, target maasconfig.Target, version certstore.Version, before certstore.Deployment, outcome maasconfig.Outcome, failure error) {
	name := target.Name()
	serving := failure == nil && maasconfig.Serving(outcome.Endpoints)
	interrupted := ctx.Err() != nil
	err := p.update(ctx, func(r *certstore.Record) {
		if serving {
			p.verified(r, name, version.Number)
			return
		}
		d := before
		d.Calls, d.Told = before.Calls+outcome.Calls, p.Now().UTC()
		if d.Since.IsZero() {
			d.Since = d.Told
		}
		if len(outcome.Endpoints) > 0 && !interrupted {
			d.Laggards = laggards(outcome.Endpoints)
		}
		if outcome.RolledBack {
			// The count starts anew, so that the version is tried once more later; twice is enough.
			d.RolledBack, d.Calls, d.Laggards = d.RolledBack+1, 0, nil
		}
		p.setDeployment(r, name, d)
		if failure != nil && !interrupted {
			r.Remember(p.attempt(StageDeploy, fmt.Errorf("%s: %w", name, failure)))
		}
	})
	p.fail(StageSave, err)
	p.result.Deployed[name] = serving
	if failure != nil {
		var refusal *maasconfig.Refusal
		stage := StageDeploy
		if errors.As(failure, &refusal) {
			stage = StageGuard
		}
		p.fail(stage, fmt.Errorf("%s: %w", name, failure))
		return
	}
	if outcome.RolledBack {
		p.fail(StageVerify, hint.Add(fmt.Errorf("%s: no endpoint took the certificate (%s); the one before it was put back",
			name, maasconfig.Troubles(outcome.Endpoints)), "look into MAAS's and nginx's log; %s", target.Remedy(ctx)))
	}
}

// previous is what to put back should no endpoint take a version: the version of ours that is served, or else a backup
// of the pair that MAAS serves, which is kept as a version of its own. A revoked one is not put back.
func (p *pass) previous(ctx context.Context, target maasconfig.Target, version certstore.Version, seen []maasconfig.Endpoint) *certstore.Bundle {
	if p.result.Before.State.isRevoked() {
		return nil
	}
	known, err := certstore.Fingerprints(ctx, p.Store, p.cert.Name)
	if err != nil {
		return nil
	}
	for _, e := range seen {
		fingerprint := e.Fingerprint()
		if fingerprint == "" || fingerprint == version.Bundle.Fingerprint() {
			continue
		}
		if number, ours := known[fingerprint]; ours {
			if served, err := certstore.LoadVersion(ctx, p.Store, p.cert.Name, number); err == nil {
				return served.Bundle
			}
		}
		backup, err := target.Backup(ctx)
		if err != nil {
			p.Log.Warn("the pair that MAAS serves cannot be backed up", "cert", p.cert.Name, "error", err)
			return nil
		}
		if backup.Fingerprint() != fingerprint {
			continue
		}
		_, err = certstore.AddVersion(ctx, p.Store, p.cert.Name, certstore.Version{Origin: certstore.FromMAAS, Created: p.Now(), Bundle: backup})
		if err != nil {
			p.Log.Warn("keeping the pair that MAAS served", "cert", p.cert.Name, "error", err)
		}
		return backup
	}
	return nil
}
