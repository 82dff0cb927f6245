package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// maxCutOffs bounds the runs in a row that may be killed before that counts as a failure: a crash loop must not eat the
// CA's rate limit.
const maxCutOffs = 3

// obtain orders what the plan says and makes it the version in use. It returns whether there is a new version.
func (p *pass) obtain(ctx context.Context, view View) bool {
	if view.State.Keys != nil { // since the guards were asked
		p.fail(StageGuard, view.State.Keys)
		return false
	}
	plan, began := view.Plan, p.Now()
	resume, begun := p.begin(ctx, plan)
	if !begun {
		return false
	}
	if resume != nil {
		order, err := p.ledger.Order(ctx)
		if err = view.State.judge(err, resume.Created); errors.Is(err, certstore.ErrKeyLost) {
			order.Key, err = "", nil // another one takes its place, if the CA still waits for one
		}
		if resume = order; err != nil {
			p.failed(ctx, StageObtain, err, false)
			return false
		}
	}
	issued, ordered, err := p.ask(ctx, view, resume)
	p.stageEnded()
	if issued != nil {
		p.result.Requests = issued.Requests
		for _, warning := range issued.Warnings {
			p.warn("%s", warning)
		}
	}
	if plan.fetchOnly {
		p.takeAnswersAway(ctx) // no name is proven any more
	}
	if errors.Is(err, acme.ErrNotIssued) {
		p.fail(StageSave, p.update(ctx, func(r *certstore.Record) { r.Order, r.Attempt, r.CutOff = nil, nil, 0 }))
		return false
	}
	if err != nil {
		if words := suspects(view.State, plan); words != "" && acme.IsRefusal(err) {
			p.warn("names that came from MAAS may be why the order failed: %s", words)
		}
		p.failed(ctx, StageObtain, err, ordered)
		return false
	}
	if err := p.isBetter(plan, issued.Bundle); err != nil {
		p.failed(ctx, StageObtain, err, true)
		return false
	}
	if err := p.keep(ctx, issued, plan); err != nil {
		p.failed(ctx, StageSave, err, false)
		return false
	}
	p.result.Obtained, p.result.Changed = true, true
	p.news("issued", "version", p.result.After.Version(), "until", printable.Time(issued.Bundle.Leaf().NotAfter), "requests", issued.Requests, "took", p.took(began))
	if err := p.publish(issued.Bundle); err != nil {
		// The next pass sees that it is missing and puts it there.
		p.warn("the public copy of the certificate cannot be written: %v", err)
	}
	return true
}

// ask has the CA issue what the plan says, within a time that leaves some of the certificate in use. ordered tells whether the CA was
// asked for a new order and took it.
func (p *pass) ask(ctx context.Context, view View, resume *certstore.Order) (issued *acme.Issued, ordered bool, err error) {
	plan, bounded := view.Plan, ctx // what is written down is not bounded by the order's time
	if most := view.State.orderTime(); most > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeoutCause(ctx, most, fmt.Errorf("the order took more than %v, a quarter of what is left of the certificate", most.Round(time.Second)))
		defer cancel()
	}
	watch := p.watchOrder(plan)
	issued, err = p.cert.Issuer.Obtain(bounded, acme.Request{
		Names: plan.Names, KeyType: plan.Wish.KeyType, Resume: resume, FetchOnly: plan.fetchOnly, LoseKeys: view.State.LoseKeys, Predecessor: p.result.After.State.Current,
		Save: func(order certstore.Order) error {
			ordered = ordered || resume == nil || order.URL != resume.URL
			return p.update(ctx, func(r *certstore.Record) { r.Order = &order })
		},
		Leftovers: view.State.Record.Answers,
		Progress:  watch.reached,
		Note: func(answers []certstore.Answer) error {
			return p.update(ctx, func(r *certstore.Record) { r.Answers = answers })
		},
	})
	watch.ended(issued, err)
	return issued, ordered, err
}

// errShorter says that a certificate which was to replace one because of its time ends before that one.
type errShorter struct{ until time.Time }

func (e *errShorter) Error() string {
	return fmt.Sprintf("the CA's certificate ends at %s, before the one in use", printable.Time(e.until))
}

// isBetter refuses a certificate that ends before the good one that it would replace, when nothing but time is the reason.
func (p *pass) isBetter(plan Plan, bundle *certstore.Bundle) error {
	state := p.result.After.State
	byTime := plan.Why == ARI || plan.Why == Lifetime || plan.Why == Emergency
	recalled := state.Window != nil && !state.Window.End.After(state.Now) // the CA wants the old one gone
	if !byTime || recalled || state.Current == nil || !bundle.Leaf().NotAfter.Before(state.leaf().NotAfter) {
		return nil
	}
	return hint.Add(&errShorter{bundle.Leaf().NotAfter}, "is the CA's clock right, or are its lifetimes shorter now? maascert renew --force takes such a certificate")
}

// begin writes the attempt down before it is made, and returns the order that an earlier one left. It tells whether the attempt
// may be made.
func (p *pass) begin(ctx context.Context, plan Plan) (resume *certstore.Order, begun bool) {
	var tooOften bool
	force := p.options.Force
	err := p.update(ctx, func(r *certstore.Record) {
		if r.Attempt != nil {
			r.CutOff++
		}
		if tooOften = r.Attempt != nil && r.CutOff >= maxCutOffs && !force; tooOften {
			p.countFailure(r, time.Time{}, false)
			r.CutOff = 0
			cut := *r.Attempt
			cut.Stage, cut.Error = string(StageObtain), fmt.Sprintf("%d runs in a row were killed", maxCutOffs)
			r.Remember(cut)
			r.Attempt = nil
			return
		}
		attempt := p.attempt("", nil)
		r.Attempt = &attempt
		p.publishWish(r, plan)
		r.Discovered = plan.Discovered
		resume = r.Order
	})
	switch {
	case err != nil:
		p.fail(StageSave, err)
	case tooOften:
		p.trouble(Trouble{Stage: StageObtain, NotNow: true, Err: hint.Add(fmt.Errorf("%d runs in a row were killed; the order is held back for a while", maxCutOffs),
			"find out what kills maascert: journalctl -u maascert; maascert renew --force tries at once")})
	}
	return resume, err == nil && !tooOften
}

// publishWish says which wish the deployment follows from now on, and what this host's is.
func (p *pass) publishWish(r *certstore.Record, plan Plan) {
	r.Wish, r.WishHash = &plan.Wish, plan.Wish.Hash()
	if r.WishByHost == nil {
		r.WishByHost = map[string]string{}
	}
	r.WishByHost[p.Node] = p.cert.Wish.Hash()
}

// countFailure counts a failed order and sets when the next may be made. A person's tries do not lengthen the daemon's
// ladder. refused tells whether the CA was reached.
func (p *pass) countFailure(r *certstore.Record, retryAfter time.Time, refused bool) {
	var life time.Duration
	if current := p.result.Before.State.Current; current != nil {
		life = lifetime(current.Bundle.Leaf())
	}
	if !p.options.ByHand || r.Failures == 0 {
		r.Failures++
	}
	now := p.Now().Round(0)
	r.FailedAt, r.Refused, r.FailedWith = now.UTC(), refused, p.cert.Means
	r.NextAttempt = now.Add(backOff(r.Failures, life, spread(p.Node, p.cert.Name))).UTC()
	if latest := now.Add(longestRetryAfter); retryAfter.After(latest) {
		retryAfter = latest
	}
	r.RetryAfter = retryAfter.UTC()
}

// spread is from -1 to 1 and always the same for a host and a certificate.
func spread(node, cert string) float64 {
	sum := sha256.Sum256([]byte(node + "/" + cert))
	return float64(binary.BigEndian.Uint32(sum[:4]))/math.MaxUint32*2 - 1
}

// failed writes down an order that failed, or a certificate that could not be saved. An order that was interrupted is no
// failure and is taken up by the next run; so is one whose CA could not be reached any more, or whose certificate found no
// room. One that the CA refused is over.
func (p *pass) failed(ctx context.Context, stage Stage, failure error, ordered bool) {
	interrupted, notNow := ctx.Err() != nil, acme.IsRateLimited(failure)
	after, _ := acme.RetryAfter(failure)
	var shorter *errShorter
	isShorter := errors.As(failure, &shorter)
	saving := p.update(ctx, func(r *certstore.Record) {
		r.CutOff = 0
		if !interrupted && (isShorter || acme.IsRefusal(failure)) {
			r.Order = nil
		}
		if r.Order == nil || r.Order.Key == "" {
			r.Attempt = nil
		} // else the certificate may have been issued: the next run takes it up, whatever made it due
		if interrupted {
			return
		}
		if !errors.Is(failure, certstore.ErrKeysAway) { // which says nothing of the CA; it is tried again when they can be had
			p.countFailure(r, after, ordered || acme.IsRefusal(failure))
		}
		if isShorter {
			// Sooner the CA would only issue another one that ends too early.
			r.NextAttempt = p.whenBetter(r.NextAttempt, shorter.until)
		}
		r.Remember(p.attempt(stage, failure))
	})
	if saving != nil {
		p.Log.Warn("writing down a failure", "cert", p.cert.Name, "error", saving)
	}
	if !after.IsZero() {
		failure = hint.Add(failure, "the CA wants to be asked again at %s; nothing is tried before", printable.Time(after))
	}
	p.trouble(Trouble{Stage: stage, Err: failure, NotNow: notNow})
}

// whenBetter returns when a certificate that lives as long as one that ends too early would end after the one in use, but
// within a day: the CA may be mended.
func (p *pass) whenBetter(next, until time.Time) time.Time {
	now := p.Now().Round(0)
	better := p.result.After.State.leaf().NotAfter.Add(-until.Sub(now))
	if latest := now.Add(day); better.After(latest) {
		better = latest
	}
	if better.After(next) {
		return better.UTC()
	}
	return next
}

// keep saves what was issued. Once the CA has issued, nothing may lose the key, so this goes on when the pass is
// interrupted.
func (p *pass) keep(ctx context.Context, issued *acme.Issued, plan Plan) error {
	ctx, cancel := p.grace.Context(ctx, saveTime)
	defer cancel()
	version, err := p.ledger.Add(ctx, certstore.Version{
		Origin: certstore.FromACME, Created: p.Now().Round(0), Directory: issued.Directory, Account: issued.Account, Profile: issued.Profile, Bundle: issued.Bundle,
	})
	if err != nil {
		return hint.Add(err, "make room; the order is kept, and the next run fetches the same certificate")
	}
	renewed := p.result.After.State
	renewed.Current, renewed.Root = &version, rootOf(version, p.cert.Trust, renewed.Record.Roots)
	err = p.update(ctx, func(r *certstore.Record) {
		r.Current, r.Order, r.Attempt, r.Roots, r.Discovered = version.Number, nil, nil, renewed.roots(), plan.adopted
		r.CutOff, r.Failures, r.Refused, r.FailedWith = 0, 0, false, ""
		r.NextAttempt, r.RetryAfter, r.HeldUntil, r.FailedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		r.Pinned, r.PinnedAt = 0, time.Time{}
		if old := r.Rehearsal; old != nil && (!old.Failed.IsZero() || !old.Skipped.IsZero()) { // what was rehearsed has been done
			r.Rehearsal = &certstore.Rehearsal{Tried: old.Tried, By: old.By, Configs: old.Configs}
		}
		r.Remember(p.attempt("", nil))
	})
	if err == nil {
		p.result.After.State.Current, p.result.After.State.Known = &version, p.ledger.Versions()
	}
	return err
}

// deploy brings a version to a target. seen is what its endpoints served when they were last looked at.
func (p *pass) deploy(ctx context.Context, target maasconfig.Target, version certstore.Version, seen []maasconfig.Endpoint) {
	name, key := target.Info().Name, p.key(target.Info())
	p.result.Deployed[name] = false
	want := p.Want(p.result.After, target, p.options.Accept)
	bundle, previous, err := p.bundles(ctx, target, version, seen)
	if err != nil {
		p.failAt(name, StageDeploy, err)
		return
	}
	record := p.ledger.Record()
	before := record.Deployments[key]
	if before.Version != version.Number {
		before = before.For(version.Number)
	}
	now := p.result.After.State
	now.Now, now.Record = p.Now().Round(0), record
	left, _ := now.tries(TargetState{Name: name, Key: key, Endpoints: seen})
	tried, watch := 0, &deployWatch{pass: p, target: name, version: version.Number}
	var told time.Time // for the first time, by this run
	outcome, err := maasconfig.Deploy(ctx, target, maasconfig.Deployment{
		Bundle: bundle, Previous: previous, Want: want, Trust: p.cert.Trust, Tries: left, Within: now.verifyTime(),
		Known: func(endpoints []maasconfig.Endpoint) { NameVersions(endpoints, p.result.After.State.Known) },
		Told: func() {
			if told.IsZero() {
				told = p.Now()
			}
			watch.wasTold()
		},
		Seen: watch.seen, Looked: watch.looked, Waiting: watch.waits,
		BeforeTry: func() error {
			err := p.update(ctx, func(r *certstore.Record) {
				d := before
				d.Tries, d.Told = before.Tries+tried+1, p.Now().UTC()
				p.setDeployment(r, key, countToday(d, before, tried+1))
			})
			if err == nil {
				tried++
				p.seen[name] = nil
				watch.beginsTry()
			}
			return err
		},
	})
	p.stageEnded()
	watch.ended(outcome, err)
	p.result.Changed = p.result.Changed || tried > 0
	if tried > 0 {
		p.result.Told[name] = outcome.Telling
		p.seen[name] = outcome.Endpoints
	}
	isFirst := !told.IsZero() && before.Told.IsZero() && before.RolledBack == 0
	// A clock that was set back meanwhile tells nothing.
	if took := p.Now().Sub(told); isFirst && took >= 0 && err == nil && maasconfig.Serving(outcome.Endpoints) {
		before.Took = &certstore.Took{Version: version.Number, MS: took.Milliseconds(), Endpoints: addressesOf(outcome.Endpoints)}
	}
	p.concludeDeploy(ctx, target, version, before, tried, outcome, err)
}

// addressesOf are those of endpoints, sorted.
func addressesOf(endpoints []maasconfig.Endpoint) (all []string) {
	for _, e := range endpoints {
		all = append(all, e.Address)
	}
	slices.Sort(all)
	return all
}

// countToday counts calls within a day, whatever they were for.
func countToday(d, before certstore.Deployment, tried int) certstore.Deployment {
	if d.Told.Sub(before.Day) >= day {
		d.Day, d.DayTries = d.Told, tried
	} else {
		d.DayTries = before.DayTries + tried
	}
	return d
}

// concludeDeploy writes down what a deployment came to.
func (p *pass) concludeDeploy(ctx context.Context, target maasconfig.Target, version certstore.Version, before certstore.Deployment, tried int, outcome maasconfig.Outcome, failure error) {
	info := target.Info()
	serving := failure == nil && maasconfig.Serving(outcome.Endpoints)
	interrupted := ctx.Err() != nil
	stage := StageDeploy
	var refusal *maasconfig.Refusal
	switch {
	case errors.As(failure, &refusal):
		stage = StageGuard
	case failure == nil && outcome.RolledBack:
		stage, failure = StageVerify, hint.Add(fmt.Errorf("no endpoint took the certificate (%s); the one before it was put back", maasconfig.Troubles(outcome.Endpoints)),
			"look into %s; %s", info.Logs, maasconfig.Remedy(outcome.Endpoints))
	}
	err := p.update(ctx, func(r *certstore.Record) {
		d := before
		d.Tries = before.Tries + outcome.Tries
		d = (TargetState{Endpoints: outcome.Endpoints}).rememberRegions(d, p.options.began)
		if tried > 0 {
			d.Told = p.Now().UTC()
			d = countToday(d, before, tried)
		}
		if serving {
			p.setDeployment(r, p.key(info), d)
			p.verified(r, p.key(info), version.Number, outcome.Endpoints)
			return
		}
		if d.Since.IsZero() {
			d.Since = p.Now().UTC()
		}
		if len(outcome.Endpoints) > 0 && !interrupted {
			d.Laggards = laggards(outcome.Endpoints)
		}
		if failure == nil {
			d.Failure = nil // it took the certificate; what its endpoints serve is seen
		}
		if outcome.RolledBack {
			// The count starts anew, so that the version is tried once more soon; after that it is held.
			d.RolledBack, d.Tries = d.RolledBack+1, 0
		}
		p.setDeployment(r, p.key(info), d)
		if failure != nil && stage != StageVerify && !interrupted {
			r.Fail(p.key(info), p.attemptAt(info.Name, StageDeploy, failure))
		}
	})
	p.fail(StageSave, err)
	p.result.Deployed[info.Name] = serving
	p.failAt(info.Name, stage, failure)
}

// bundles are a version's, with its key, and the one to put back.
func (p *pass) bundles(ctx context.Context, target maasconfig.Target, version certstore.Version, seen []maasconfig.Endpoint) (bundle, previous *certstore.Bundle, err error) {
	if bundle, err = version.Bundle.WithKey(ctx); err != nil {
		return nil, nil, err
	}
	previous, err = p.previous(ctx, target, version, seen)
	return bundle, previous, err
}

// previous finds the pair to put back should no endpoint take a version: the version of ours that is served, or else a backup
// of the pair that MAAS serves, which is kept as a version of its own. A revoked one is not put back. Where its key cannot be
// kept now nothing takes its place: a run that is killed would have lost it.
func (p *pass) previous(ctx context.Context, target maasconfig.Target, version certstore.Version, seen []maasconfig.Endpoint) (*certstore.Bundle, error) {
	if p.result.Before.State.isRevoked() {
		return nil, nil
	}
	known := p.ledger.Versions()
	for _, e := range seen {
		fingerprint := e.Fingerprint()
		if fingerprint == "" || fingerprint == version.Bundle.Fingerprint() {
			continue
		}
		if kept, ours := known[fingerprint]; ours {
			if served, err := p.ledger.Version(ctx, kept.Number); err == nil {
				if bundle, err := served.Bundle.WithKey(ctx); err == nil {
					return bundle, nil
				}
			}
		}
		backup, err := target.Backup(ctx)
		if err != nil {
			p.Log.Warn("the pair that is served cannot be backed up", "cert", p.cert.Name, "error", err)
			return nil, nil
		}
		if backup.Fingerprint() != fingerprint {
			continue
		}
		_, err = p.ledger.Add(ctx, certstore.Version{Origin: target.Info().Origin(), Created: p.Now(), Bundle: backup})
		switch {
		case errors.Is(err, certstore.ErrKeysAway):
			return nil, fmt.Errorf("keeping the pair that is served: %w", err)
		case err != nil:
			p.Log.Warn("keeping the pair that was served", "cert", p.cert.Name, "error", err)
		}
		return backup, nil
	}
	return nil, nil
}
