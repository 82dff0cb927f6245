package maasconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// Deploy makes a target serve a bundle and looks at every endpoint until each serves it or the time is up. When no endpoint's
// answer changes for a while, the change is made once more, for the laggards. When every endpoint was seen to refuse the
// bundle, the previous pair is put back. On an error the old one is still served, or the endpoints of the outcome tell where
// not.
func Deploy(ctx context.Context, target Target, d Deployment) (Outcome, error) {
	var outcome Outcome
	change, err := prepare(ctx, target, d)
	if err != nil {
		return outcome, err
	}
	if d.Within > 0 {
		change.Within = min(d.Within, change.Within)
	}
	before := d.look(ctx, target)
	outcome, failure := try(ctx, target, change, d)
	later := failure != nil && outcome.earlier > 0
	if later && ctx.Err() == nil {
		// It took the bundle before that, and may serve nothing now.
		outcome.Endpoints = d.look(ctx, target)
	}
	if failure != nil && (!later || ctx.Err() != nil) || Serving(outcome.Endpoints) {
		return outcome, failure
	}
	nobody := failure
	if nobody == nil {
		nobody = deaf(change, before, outcome)
	}
	if !everyoneRefused(outcome.Endpoints) || d.Previous == nil || !d.Previous.Leaf().NotAfter.After(d.Trust.Time()) {
		return outcome, nobody
	}
	// It was served before, whoever trusted it: there is nothing to test.
	outcome.Endpoints = nil
	if err := change.Undo(ctx, d.Previous); err != nil {
		return outcome, errors.Join(failure, fmt.Errorf("putting the previous certificate back: %w", err))
	}
	outcome.RolledBack = true
	outcome.Endpoints = d.look(ctx, target)
	if nobody != nil {
		nobody = hint.Add(fmt.Errorf("%w; the one before it was put back", nobody), "%s", hint.Of(nobody))
	}
	return outcome, nobody
}

// look sees what the endpoints of a target serve now.
func (d Deployment) look(ctx context.Context, target Target) []Endpoint {
	endpoints := Judged(target.Probe(ctx), d.Bundle, d.Trust)
	if d.Known != nil {
		d.Known(endpoints)
	}
	return endpoints
}

// prepare asks what can be asked about the bundle before anything is changed.
func prepare(ctx context.Context, target Target, d Deployment) (Change, error) {
	leaf := d.Bundle.Leaf()
	switch {
	case isStaging(leaf) && !d.Trust.IsRehearsal():
		return Change{}, fmt.Errorf("the certificate is a test certificate (%s)", leaf.Issuer)
	case !leaf.NotAfter.After(d.Trust.Time()):
		return Change{}, fmt.Errorf("the certificate expired at %s", printable.Time(leaf.NotAfter))
	}
	if _, err := certstore.Verify(leaf, d.Bundle.Chain(), d.Trust.Pool(leaf, d.Bundle.Chain()), d.Trust.Time()); err != nil {
		return Change{}, hint.Add(fmt.Errorf("clients would not trust the certificate: %w", err), "set acme.issuer_root to the root that clients trust")
	}
	want := d.Want
	want.Names, want.KeyType = certstore.CertificateNames(leaf), d.Bundle.KeyType()
	if err := Ready(ctx, target, want); err != nil {
		return Change{}, err
	}
	change, err := target.Prepare(ctx, d.Bundle, want)
	if err != nil {
		return Change{}, err
	}
	if err := selfTest(d.Bundle, d.Trust); err != nil {
		return Change{}, fmt.Errorf("a handshake with the certificate: %w", err)
	}
	return change, nil
}

// try makes the change, and once more for laggards, until every endpoint serves the bundle, no try is left, or the time is
// up.
func try(ctx context.Context, target Target, change Change, d Deployment) (outcome Outcome, err error) {
	var deadline time.Time
	for outcome.Tries < d.Tries && (deadline.IsZero() || time.Until(deadline) > 0) {
		if err := d.BeforeTry(); err != nil {
			return outcome, err
		}
		outcome.Endpoints, outcome.earlier = nil, outcome.Tries
		telling, err := change.Make(ctx)
		if outcome.Tries == 0 {
			outcome.Telling = telling // a second try that fails takes nothing back
		}
		if telling == Told {
			outcome.Tries++
			if d.Told != nil {
				d.Told()
			}
		}
		if err != nil {
			return outcome, err
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(change.Within)
		}
		quiet := time.Duration(0)
		if outcome.Tries < d.Tries {
			quiet = min(silence, change.Within/2)
		}
		if outcome.Endpoints, err = verify(ctx, target, change, d, deadline, quiet); err != nil || Serving(outcome.Endpoints) {
			return outcome, err
		}
	}
	return outcome, nil
}

// silence is how long no endpoint's answer changes before the change is made again: a region may take two minutes (MAAS fact
// 2.4), and telling it again meanwhile helps nothing.
const silence = 150 * time.Second

// deaf says so when the change was made twice and nothing changed anywhere: then it is not this certificate.
func deaf(change Change, before []Endpoint, outcome Outcome) error {
	if change.Deaf == nil || outcome.Tries < 2 || len(before) != len(outcome.Endpoints) {
		return nil
	}
	for i, e := range outcome.Endpoints {
		if e.IsServing() || e.State == Unknown || e.Observed() != before[i].Observed() {
			return nil
		}
	}
	return hint.Add(fmt.Errorf("%w (%s)", change.Deaf, Troubles(outcome.Endpoints)), "%s", hint.Of(change.Deaf))
}

// everyoneRefused tells whether every endpoint was seen to serve something else or nothing. One that cannot be asked
// proves nothing.
func everyoneRefused(endpoints []Endpoint) bool {
	return len(endpoints) > 0 && !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.State != Other && e.State != None })
}

// isStaging knows Let's Encrypt's test CA by its name, should somebody trust its root.
func isStaging(leaf *x509.Certificate) bool {
	return strings.Contains(leaf.Issuer.String(), "(STAGING)") || strings.HasPrefix(leaf.Issuer.CommonName, "Fake LE")
}

// verify looks at every endpoint until each serves the bundle, at two looks in a row where the change takes time to settle,
// until the deadline has come, or no answer has changed for so long (0: that does not count).
func verify(ctx context.Context, target Target, change Change, d Deployment, deadline time.Time, quiet time.Duration) ([]Endpoint, error) {
	served := false
	seen, began := map[string]bool{}, time.Now()
	changed, tell := time.Now(), time.Now().Add(firstWord)
	answers := ""
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		endpoints := d.look(ctx, target)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if d.Looked != nil {
			d.Looked(endpoints, max(0, time.Until(deadline)))
		}
		for _, e := range endpoints {
			if e.IsServing() && !seen[e.Address] && d.Seen != nil {
				d.Seen(e.Address, time.Since(began))
			}
			seen[e.Address] = seen[e.Address] || e.IsServing()
		}
		if now := fmt.Sprint(laggardsOf(endpoints)); now != answers {
			answers, changed = now, time.Now()
		}
		left := time.Until(deadline)
		enough := Serving(endpoints) && (served || change.Settles == 0)
		if enough || left <= 0 || quiet > 0 && time.Since(changed) >= quiet {
			return endpoints, nil
		}
		if served = Serving(endpoints); served {
			pause = change.Settles
		} else if d.Waiting != nil && time.Now().After(tell) {
			d.Waiting(fmt.Sprintf("waiting up to %v more: %s", left.Round(time.Second), Troubles(endpoints)))
			tell = time.Now().Add(nextWord)
		}
		select {
		case <-ctx.Done():
			return endpoints, context.Cause(ctx)
		case <-time.After(min(pause, left)):
		}
	}
}

// firstWord and nextWord are when it is said what is waited for.
const (
	firstWord = 10 * time.Second
	nextWord  = 30 * time.Second
)

func laggardsOf(endpoints []Endpoint) []string {
	var answers []string
	for _, e := range endpoints {
		if !e.IsServing() {
			answers = append(answers, e.Address+" "+e.Observed())
		}
	}
	return answers
}

// selfTest serves a bundle to a client that trusts what clients trust, under every name.
func selfTest(bundle *certstore.Bundle, trust certstore.Trust) error {
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	if err != nil {
		return err
	}
	leaf := bundle.Leaf()
	roots, now := trust.Pool(leaf, bundle.Chain()), certstore.VerificationTime(leaf, trust.Time())
	for _, name := range certstore.CertificateNames(leaf) {
		if err := handshakeAs(strings.Replace(name, "*", "any", 1), pair, roots, now); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func handshakeAs(name string, pair tls.Certificate, roots *x509.CertPool, now time.Time) error {
	clock := func() time.Time { return now }
	near, far := net.Pipe()
	server := tls.Server(far, &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, Time: clock,
		SessionTicketsDisabled: true, // they would be sent after the handshake, to a client that has gone
	})
	client := tls.Client(near, &tls.Config{ServerName: name, RootCAs: roots, MinVersion: tls.VersionTLS12, Time: clock})
	done := make(chan error, 1)
	go func() {
		err := server.Handshake()
		done <- errors.Join(err, far.Close())
	}()
	err := errors.Join(client.Handshake(), near.Close())
	return errors.Join(err, <-done)
}
