package lifecycle_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

const day = 24 * time.Hour

var wish = certstore.Wish{Names: []string{"maas.example", "10.0.0.10"}, KeyType: certstore.EC256, Directory: "https://ca.example/dir"}

// world is the material of decisions: bundles of an authority, and a moment.
type world struct {
	t         *testing.T
	authority *certtest.Authority
	now       time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	return &world{t, authority, time.Now()}
}

func (w *world) bundle(age, lifetime time.Duration, names ...string) *certstore.Bundle {
	w.t.Helper()
	if len(names) == 0 {
		names = wish.Names
	}
	// The age is that at the world's moment, however late it is by now.
	bundle, err := w.authority.Issue(certstore.EC256, age+time.Since(w.now), lifetime, names...)
	require.NoError(w.t, err)
	return bundle
}

// state is one of a certificate of some age that is served by two endpoints and was verified.
func (w *world) state(age, lifetime time.Duration) lifecycle.State {
	bundle := w.bundle(age, lifetime)
	s := lifecycle.State{
		Now: w.now, Node: "region1", Wish: wish, Known: map[string]certstore.VersionInfo{bundle.Fingerprint(): info(3, bundle)},
		Current: &certstore.Version{Number: 3, Origin: certstore.FromACME, Directory: wish.Directory, Bundle: bundle},
		Record: certstore.Record{
			Current: 3, Wish: &wish, WishHash: wish.Hash(), WishByHost: map[string]string{"region1": wish.Hash()},
			Deployments: map[string]certstore.Deployment{"maas": {Verified: 3, Version: 3, Port: 5443}},
		},
	}
	s.Targets = []lifecycle.TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{w.serves("a:5443", bundle, bundle), w.serves("b:5443", bundle, bundle)}}}
	return s
}

// info is what is known of a version.
func info(number int, bundle *certstore.Bundle) certstore.VersionInfo {
	leaf := bundle.Leaf()
	return certstore.VersionInfo{Number: number, Origin: certstore.FromACME, Names: wish.Names, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
}

// serves is an endpoint that serves one bundle where another is wanted.
func (w *world) serves(address string, served, wanted *certstore.Bundle) maasconfig.Endpoint {
	e := maasconfig.Endpoint{
		Served: maasconfig.Served{Address: address, Certs: append([]*x509.Certificate{served.Leaf()}, served.Chain()...)},
		State:  maasconfig.Other, Chain: maasconfig.Complete,
	}
	if served == wanted {
		e.State = maasconfig.Match
	}
	return e
}

func unknown(address string) maasconfig.Endpoint {
	return maasconfig.Endpoint{Served: maasconfig.Served{Address: address}, State: maasconfig.Unknown}
}

func refused(address string) maasconfig.Endpoint {
	return maasconfig.Endpoint{Served: maasconfig.Served{Address: address}, State: maasconfig.None}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.bundle(50*day, 90*day)
	window := func(start, end time.Duration) *acme.Window {
		return &acme.Window{Start: w.now.Add(start), End: w.now.Add(end), AskAgain: w.now.Add(6 * time.Hour)}
	}
	endpoints := func(s *lifecycle.State, e ...maasconfig.Endpoint) { s.Targets[0].Endpoints = e }
	deployment := func(s *lifecycle.State, d certstore.Deployment) {
		s.Record.Deployments = map[string]certstore.Deployment{"maas": d}
	}
	current := func(s *lifecycle.State) *certstore.Bundle { return s.Current.Bundle }

	for name, row := range map[string]struct {
		age, lifetime time.Duration
		change        func(*lifecycle.State)
		why           lifecycle.Reason
		obtain        bool
		deploy        bool
		stuck         bool
		settle        bool
		waits         bool
		summary       lifecycle.CertState
	}{
		"a fresh certificate that is served everywhere is left alone": {age: day, lifetime: 90 * day, why: lifecycle.Fresh, summary: lifecycle.StateOK},
		"a forced order is made although nothing is due": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Force = true }, why: lifecycle.Forced, obtain: true, summary: lifecycle.StateDue,
		},
		"no certificate is a reason to order one": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Current = nil }, why: lifecycle.Missing, obtain: true, summary: lifecycle.StateMissing,
		},
		"other names are a reason": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Wish.Names = []string{"maas.example"} }, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"the same names in another order are no reason": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Wish.Names = []string{"10.0.0.10", "maas.example"} }, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"another key type is a reason": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Wish.KeyType = certstore.RSA3072 }, why: lifecycle.KeyTypeChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"another CA is a reason": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Wish.Directory = "https://other.example/dir" }, why: lifecycle.IssuerChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"a host whose configuration differs from the one that is followed orders nothing": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Wish.Names = []string{"maas.example"}
				s.Record.WishByHost["region1"] = s.Wish.Hash()
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"a host that never had to do anything follows another one whose configuration changed": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Wish.Names = []string{"maas.example"}
				s.Record.WishByHost, s.Said = map[string]string{"region2": wish.Hash()}, s.Wish.Hash()
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"a host that is new is followed": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Wish.Names = []string{"maas.example"}
				s.Record.WishByHost = map[string]string{"region2": wish.Hash()}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"a window that has passed is a reason, whoever is to blame": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Window = window(-2*time.Hour, -time.Hour) }, why: lifecycle.ARI, obtain: true, summary: lifecycle.StateDue,
		},
		"what a person brought in counts as the wish, whatever it is": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Current.Directory, s.Current.Origin = 3, "", certstore.FromDeploy
				s.Wish = certstore.Wish{Names: []string{"maas.example"}, KeyType: certstore.RSA3072, Directory: wish.Directory, Profile: "other"}
				s.Record.WishByHost["region1"] = s.Wish.Hash()
				s.Record.Wish, s.Record.WishHash = &s.Wish, s.Wish.Hash()
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"what a person brought in counts for a host that has not wished anything yet": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Wish.Names = 3, []string{"maas.example"}
				s.Record.WishByHost = nil
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"a configuration that changed since replaces what a person brought in": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Wish.Names = 3, []string{"maas.example"}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"what was brought in on one host counts for another one with the same configuration, which had another before": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Current.Directory, s.Current.Origin = 3, "", certstore.FromDeploy
				s.Wish.Names = []string{"maas.example"}
				s.Record.Wish, s.Record.WishHash = &s.Wish, s.Wish.Hash()
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"a window that had passed when a person went back does not end the hold": {
			age: 20 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Record.PinnedAt = 3, w.now.Add(-time.Hour)
				s.Window, s.Record.HeldUntil = window(-2*day, -day), w.now.Add(day)
			}, why: lifecycle.Held, summary: lifecycle.StateHeld,
		},
		"a window that passed after a person went back ends the hold": {
			age: 20 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Record.PinnedAt = 3, w.now.Add(-3*day)
				s.Window, s.Record.HeldUntil = window(-2*day, -day), w.now.Add(day)
			}, why: lifecycle.ARI, obtain: true, summary: lifecycle.StateDue,
		},
		"time replaces what a person brought in": {
			age: 61 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.Pinned = 3 }, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateDue,
		},
		"without a CA time makes it due, and nothing is ordered": {
			age: 61 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Watched = true }, why: lifecycle.Lifetime, summary: lifecycle.StateDue,
		},
		"without a CA force orders nothing": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Watched, s.Force = true, true }, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"without a CA the last tenth needs a person": {
			age: 82 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Watched = true }, why: lifecycle.Emergency, summary: lifecycle.StateFailed,
		},
		"what a person brought in earlier than the version in use counts for nothing": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Pinned, s.Wish.Names = 2, []string{"maas.example"}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"an expired certificate is ordered anew": {age: 91 * day, lifetime: 90 * day, why: lifecycle.Expired, obtain: true, summary: lifecycle.StateExpired},
		"less than a tenth of the lifetime overrides the CA's window": {
			age: 82 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Window = window(day, 2*day) }, why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateOverdue,
		},
		"less than a tenth of the lifetime overrides a hold": {
			age: 82 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.HeldUntil = w.now.Add(day) }, why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateOverdue,
		},
		"a window that has passed overrides a hold": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Window, s.Record.HeldUntil = window(-2*time.Hour, -time.Hour), w.now.Add(day)
			}, why: lifecycle.ARI, obtain: true, summary: lifecycle.StateDue,
		},
		"a hold holds what is due by time": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.HeldUntil = w.now.Add(day) }, why: lifecycle.Held, summary: lifecycle.StateHeld,
		},
		"a window whose moment has passed is a reason": {
			age: 30 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Window = window(-1000*time.Hour, -900*time.Hour) }, why: lifecycle.ARI, obtain: true, summary: lifecycle.StateOverdue,
		},
		"a window in the future is waited for, even past two thirds of the lifetime": {
			age: 65 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Window = window(day, 2*day) }, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"A2: what has been due for hours is overdue": {
			age: 61 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Period = 12 * time.Hour }, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateOverdue,
		},
		"A2: what got due since the last pass of the schedule is not overdue": {
			age: 60*day + time.Hour, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Period = 12 * time.Hour }, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateDue,
		},
		"R3: our own back-off holds nothing in the last tenth": {
			age: 85 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.Failures, s.Record.NextAttempt = 4, w.now.Add(20*time.Hour) },
			why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateWaiting,
		},
		"R3: our own back-off holds nothing after expiry": {
			age: 91 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.Failures, s.Record.NextAttempt = 4, w.now.Add(20*time.Hour) },
			why: lifecycle.Expired, obtain: true, summary: lifecycle.StateExpired,
		},
		"R3: the CA's Retry-After holds also in the last tenth": {
			age: 85 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.RetryAfter = w.now.Add(time.Hour) }, why: lifecycle.Emergency, waits: true, summary: lifecycle.StateWaiting,
		},
		"R3: an order that the CA refused in the last tenth is not repeated at once": {
			age: 85 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.FailedAt, s.Record.Refused = w.now.Add(-time.Hour), true },
			why: lifecycle.Emergency, waits: true, summary: lifecycle.StateWaiting,
		},
		"R3: a CA that could not be reached in the last tenth is asked again after a minute": {
			age: 85 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.FailedAt = w.now.Add(-time.Minute) },
			why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateOverdue,
		},
		"A6: a back-off ends when the configuration of the CA is mended": {
			age: 61 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.NextAttempt, s.Record.FailedWith, s.Means = w.now.Add(time.Hour), "before", "now"
			}, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateDue,
		},
		"R11: a version that a clock made which was ahead is replaced before it ends": {
			age: 85 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Current.Created = w.now.Add(300 * day) }, why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateOverdue,
		},
		"M5: a version that was taken back twice is told again by a person": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.ByHand = true
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, RolledBack: 2, Told: w.now.Add(-time.Hour)})
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateFailed,
		},
		"M5: a version that was taken back twice is told again after a day": {
			age: 2 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, RolledBack: 2, Told: w.now.Add(-day - time.Minute)})
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateFailed,
		},
		"M5: a version that was taken back twice is told again when what is left of the served one has halved": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				served := w.bundle(90*day-2*time.Hour, 90*day)
				s.Known[served.Fingerprint()] = info(2, served)
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, RolledBack: 2, Told: w.now.Add(-2*time.Hour - time.Minute)})
				endpoints(s, w.serves("a:5443", served, current(s)), w.serves("b:5443", served, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateFailed,
		},
		"M5: a version is told again a minute after a stopped regiond came back": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now.Add(-time.Minute), Laggards: map[string]string{"b:5443": maasconfig.StoppedAnswer}})
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"M5: but not within the minute": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now.Add(-50 * time.Second), Laggards: map[string]string{"b:5443": maasconfig.StoppedAnswer}})
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"A5: a region that was told twice is told once more by a person": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.ByHand = true
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now, Laggards: map[string]string{"b:5443": "none"}})
				endpoints(s, refused("a:5443"), refused("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"H3: of a verified version a target is told four times a day at the most, whatever an endpoint answers": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 3, Version: 3, Port: 5443, Told: w.now.Add(-2 * time.Hour), Day: w.now.Add(-20 * time.Hour), DayTries: 4})
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"H3: and again on the next day": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 3, Version: 3, Port: 5443, Told: w.now.Add(-2 * time.Hour), Day: w.now.Add(-25 * time.Hour), DayTries: 4})
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"H3: an answer that changes has a target told at once an hour after the last call": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{
					Version: 3, Tries: 2, Told: w.now.Add(-2 * time.Hour), Since: w.now.Add(-20 * time.Hour), Day: w.now.Add(-20 * time.Hour), DayTries: 11,
					Laggards: map[string]string{"b:5443": "another answer"},
				})
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"H3: but no more than twelve times a day": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{
					Version: 3, Tries: 2, Told: w.now.Add(-2 * time.Hour), Since: w.now.Add(-20 * time.Hour), Day: w.now.Add(-20 * time.Hour), DayTries: 12,
					Laggards: map[string]string{"b:5443": "another answer"},
				})
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"A2: other names that passes saw and did not order are overdue": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Wish.Names, s.Period = []string{"maas.example"}, 12*time.Hour
				s.Nodes = []certstore.Node{{Node: "region1", LastPass: w.now.Add(-13 * time.Hour)}}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateOverdue,
		},
		"A2: other names since the last pass are not": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Wish.Names, s.Period = []string{"maas.example"}, 12*time.Hour
				s.Nodes = []certstore.Node{{Node: "region1", LastPass: w.now.Add(-time.Hour)}}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"R12: what a clock that was ahead wrote down about calls holds nothing": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 3, Version: 3, Port: 5443, Told: w.now.Add(100 * day), Day: w.now.Add(100 * day), DayTries: 4})
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"A1: a region whose chain this host does not trust is not well": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				bad := w.serves("b:5443", current(s), current(s))
				bad.Distrust = errors.New("x509: certificate signed by unknown authority")
				endpoints(s, w.serves("a:5443", current(s), current(s)), bad)
			}, why: lifecycle.Fresh, summary: lifecycle.StateDegraded,
		},
		"A7: a failure before the last verification is no failure any more": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Attempts = []certstore.Attempt{{Stage: "deploy", Error: "the database was down", At: w.now.Add(-time.Hour)}}
				deployment(s, certstore.Deployment{Verified: 3, VerifiedAt: w.now.Add(-time.Minute), Version: 3, Port: 5443})
				endpoints(s, w.serves("a:5443", current(s), current(s)), unknown("b:5443"))
			}, why: lifecycle.Fresh, summary: lifecycle.StateDegraded,
		},
		"A7: nor is one before a pass that found everything well": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Attempts = []certstore.Attempt{{Stage: "guard", Error: "no", At: w.now.Add(-time.Hour)}}
				s.Nodes = []certstore.Node{{Node: "region1", LastOK: map[string]time.Time{"maas": w.now.Add(-time.Minute)}}}
			}, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateOverdue,
		},
		"R12: an account that cannot be read is seen before it is needed": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Account = errors.New("store: account is damaged") }, why: lifecycle.Fresh, summary: lifecycle.StateFailed,
		},

		"without a window two thirds of the lifetime are a reason": {age: 60*day + time.Minute, lifetime: 90 * day, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateDue},
		"without a window less than two thirds are none":           {age: 60*day - time.Minute, lifetime: 90 * day, why: lifecycle.Fresh, summary: lifecycle.StateOK},
		"half of a short lifetime is a reason":                     {age: 12*time.Hour + time.Minute, lifetime: day, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateDue},
		"less than half of a short lifetime is none":               {age: 12*time.Hour - time.Minute, lifetime: day, why: lifecycle.Fresh, summary: lifecycle.StateOK},

		"a back-off holds an order": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.NextAttempt = w.now.Add(time.Hour) }, why: lifecycle.Lifetime, waits: true, summary: lifecycle.StateWaiting,
		},
		"a back-off does not hold a forced order": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.NextAttempt, s.Force = w.now.Add(time.Hour), true }, why: lifecycle.Forced, obtain: true, summary: lifecycle.StateDue,
		},
		"a back-off does not hold a new wish": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.NextAttempt, s.Wish.Names = w.now.Add(time.Hour), []string{"new.example"}
			}, why: lifecycle.NamesChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"the CA's Retry-After holds even a forced order": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.RetryAfter, s.Force = w.now.Add(time.Hour), true }, why: lifecycle.Forced, waits: true, summary: lifecycle.StateWaiting,
		},

		"an endpoint with another certificate is deployed to": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"an endpoint without a certificate is deployed to": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", current(s), current(s)), refused("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"an endpoint with half a chain is deployed to": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				half := w.serves("b:5443", current(s), current(s))
				half.Chain = maasconfig.Incomplete
				endpoints(s, w.serves("a:5443", current(s), current(s)), half)
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"an endpoint that cannot be asked is not acted on": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", current(s), current(s)), unknown("b:5443"))
			}, why: lifecycle.Fresh, summary: lifecycle.StateDegraded,
		},
		"a version that was never deployed is, even when no endpoint can be asked": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 2})
				endpoints(s, unknown("a:5443"), unknown("b:5443"))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a laggard that was told twice is not told again": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				lagging := w.serves("b:5443", old, current(s))
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now.Add(-2 * time.Hour), Laggards: map[string]string{"b:5443": lagging.Observed()}})
				endpoints(s, w.serves("a:5443", current(s), current(s)), lagging)
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"a laggard that was told twice and cannot be asked now is not told again": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now.Add(-2 * time.Hour), Laggards: map[string]string{"b:5443": "x"}})
				endpoints(s, w.serves("a:5443", current(s), current(s)), unknown("b:5443"))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"a laggard whose answer changed is told again": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Laggards: map[string]string{"b:5443": "none"}})
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a laggard whose answer changes within the hour is not told again: that could go on for ever": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Laggards: map[string]string{"b:5443": "none"}, Told: w.now.Add(-59 * time.Minute)})
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateDegraded,
		},
		"calls after which nobody looked do not use up the last one": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 5})
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a laggard that healed is written down": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Laggards: map[string]string{"b:5443": "x"}})
			}, why: lifecycle.Fresh, settle: true, summary: lifecycle.StateOK,
		},
		"a version that was taken back twice is left alone and needs a person": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{Verified: 2, Version: 3, RolledBack: 2, Told: w.now.Add(-2 * time.Hour)})
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, stuck: true, summary: lifecycle.StateFailed,
		},
		"a good certificate that is not ours, served everywhere, is foreign and left": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Foreign, summary: lifecycle.StateDegraded,
		},
		"a certificate that is not ours is replaced while none of ours was ever verified": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				deployment(s, certstore.Deployment{})
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"an earlier version of ours, served everywhere, is replaced": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Known[old.Fingerprint()] = info(2, old)
				endpoints(s, w.serves("a:5443", old, current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"an untrusted certificate that is not ours is replaced": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				bad := w.serves("a:5443", old, current(s))
				bad.Chain = maasconfig.Untrusted
				endpoints(s, bad)
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a certificate that is not ours and lacks a name is replaced": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", w.bundle(day, 90*day, "maas.example"), current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a certificate that is not ours and in its last tenth is replaced": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				endpoints(s, w.serves("a:5443", w.bundle(85*day, 90*day), current(s)))
			}, why: lifecycle.Fresh, deploy: true, summary: lifecycle.StateDegraded,
		},
		"a window in the past for a certificate that was just made is not believed": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Window, s.Current.Created = window(-2*time.Hour, -time.Hour), w.now.Add(-time.Hour)
			}, why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"a certificate that was just made is not replaced because our clock is hours ahead": {
			age: 3 * time.Hour, lifetime: 4 * time.Hour, change: func(s *lifecycle.State) { s.Current.Created = w.now.Add(-time.Minute) },
			why: lifecycle.Fresh, summary: lifecycle.StateOK,
		},
		"but it is before it ends by that clock": {
			age: 231 * time.Minute, lifetime: 4 * time.Hour, change: func(s *lifecycle.State) { s.Current.Created = w.now.Add(-time.Minute) },
			why: lifecycle.Emergency, obtain: true, summary: lifecycle.StateOverdue,
		},
		"an order that failed and may be made again is not healthy": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.Failures = 3 }, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateWaiting,
		},
		"a Retry-After of another CA holds nothing": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.RetryAfter, s.Wish.Directory = w.now.Add(time.Hour), "https://other.example/dir"
			}, why: lifecycle.IssuerChanged, obtain: true, summary: lifecycle.StateDue,
		},
		"times that a wrong clock wrote down hold nothing": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.RetryAfter, s.Record.NextAttempt = w.now.Add(3650*day), w.now.Add(3650*day)
			}, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateOverdue,
		},
		"a forced order that was killed is taken up again, also without force": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Attempt = &certstore.Attempt{Why: "forced"}
				s.Record.Order = &certstore.Order{Directory: wish.Directory, Names: wish.Names, KeyType: wish.KeyType, Key: "k"}
			}, why: lifecycle.Forced, obtain: true, summary: lifecycle.StateDue,
		},
		"a killed order for something else is dropped": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Attempt = &certstore.Attempt{Why: "forced"}
				s.Record.Order = &certstore.Order{Directory: wish.Directory, Names: []string{"other"}, KeyType: wish.KeyType, Key: "k"}
			}, why: lifecycle.Fresh, settle: true, summary: lifecycle.StateOK,
		},
		"a public copy that is missing is put there": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Unpublished = true }, why: lifecycle.Fresh, settle: true, summary: lifecycle.StateOK,
		},
		"what a killed run left is written down": {
			age: day, lifetime: 90 * day, change: func(s *lifecycle.State) { s.Record.Attempt = &certstore.Attempt{} }, why: lifecycle.Fresh, settle: true, summary: lifecycle.StateOK,
		},
		"a deployment goes on while an order waits": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.NextAttempt = w.now.Add(time.Hour)
				endpoints(s, w.serves("a:5443", current(s), current(s)), w.serves("b:5443", old, current(s)))
			}, why: lifecycle.Lifetime, waits: true, deploy: true, summary: lifecycle.StateWaiting,
		},
		"a guard that said no to what is still to be done needs a person": {
			age: 70 * day, lifetime: 90 * day, change: func(s *lifecycle.State) {
				s.Record.Attempts = []certstore.Attempt{{Stage: "guard", Error: "no"}}
			}, why: lifecycle.Lifetime, obtain: true, summary: lifecycle.StateFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := w.state(row.age, row.lifetime)
			if row.change != nil {
				row.change(&s)
			}
			p := lifecycle.Decide(s)
			require.Equal(t, row.why, p.Why)
			require.Equal(t, row.obtain, p.Obtain, "obtain")
			require.Equal(t, row.deploy, len(p.Deploy) > 0, "deploy")
			require.Equal(t, row.stuck, len(p.Stuck) > 0, "stuck")
			require.Equal(t, row.settle, p.Housekeeping, "settle")
			require.Equal(t, row.waits, !p.Wait.IsZero(), "wait")
			require.Equal(t, row.summary, lifecycle.Summary("maas", s, p))
			require.Equal(t, row.obtain || row.deploy || row.settle, p.IsWork())
			if !p.Next.IsZero() {
				require.True(t, p.Next.After(s.Now), "the next look is in the future")
			}
		})
	}
}

func TestThePlanNamesTheMomentAtWhichItChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fresh := w.state(day, 90*day)
	leaf := fresh.Current.Bundle.Leaf()
	require.WithinDuration(t, leaf.NotBefore.Add(60*day), lifecycle.Decide(fresh).RenewAt, time.Second)
	require.WithinDuration(t, w.now.Add(leaf.NotAfter.Sub(w.now)/10), lifecycle.Decide(fresh).Next, time.Second, "R2: a tenth of what is left is never slept through")

	windowed := fresh
	windowed.Window = &acme.Window{Start: w.now.Add(time.Hour), End: w.now.Add(2 * time.Hour), AskAgain: w.now.Add(6 * time.Hour)}
	require.Equal(t, windowed.Window.Moment(), lifecycle.Decide(windowed).Next)
	windowed.Window.Asked, windowed.Window.AskAgain = w.now.Add(-time.Hour), w.now.Add(time.Minute)
	moments := map[time.Time]bool{}
	for n := range 5 { // hosts that share the answer
		windowed.Node = fmt.Sprintf("region%d", n)
		next := lifecycle.Decide(windowed).Next
		require.WithinRange(t, next, windowed.Window.AskAgain, windowed.Window.AskAgain.Add(5*time.Minute))
		moments[next] = true
	}
	require.Len(t, moments, 5, "one asks, the others find its answer")

	failed := fresh
	failed.Targets = []lifecycle.TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{refused("a:5443")}}}
	var steps []time.Duration
	told := certstore.Deployment{Verified: 2, Version: 3, Tries: 2, Told: w.now, Laggards: map[string]string{"a:5443": "none"}}
	for _, since := range []time.Duration{0, time.Minute, 5 * time.Minute, 15 * time.Minute} {
		told.Since = w.now.Add(-since)
		failed.Record.Deployments = map[string]certstore.Deployment{"maas": told}
		steps = append(steps, since+lifecycle.Decide(failed).Next.Sub(w.now))
	}
	require.Equal(t, []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}, steps)
	told.Since = w.now.Add(-2 * time.Hour)
	failed.Record.Deployments["maas"] = told
	require.Equal(t, day, lifecycle.Decide(failed).Next.Sub(w.now), "M5: it is told again once a day")
}

// R2: the last tenth has looks ever closer to each other, and so has the time after it.
func TestR2LooksGetCloserAsTheEndComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for left, most := range map[time.Duration]time.Duration{
		9 * day: 22 * time.Hour, 10 * time.Hour: time.Hour, time.Hour: 6 * time.Minute, time.Minute: 10 * time.Second, -time.Hour: time.Minute,
	} {
		s := w.state(90*day-left, 90*day)
		s.Record.RetryAfter = w.now.Add(5 * day) // so that nothing else names a moment
		require.LessOrEqual(t, lifecycle.Decide(s).Next.Sub(w.now), most+time.Second, "%v are left", left)
	}
}
