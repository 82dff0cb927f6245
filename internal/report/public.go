package report

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
)

// Public is public/status.json: what may be known to everybody on this host.
type Public struct {
	Schema       int                 `json:"schema"`
	Node         string              `json:"node"`
	At           Time                `json:"at"`
	NextPass     Time                `json:"next_pass"`
	OK           bool                `json:"ok"` // everything was as it should be
	StaleAfter   Time                `json:"stale_after"`
	Certificates []PublicCertificate `json:"certificates"`
	Notifiers    []PublicNotifier    `json:"notifiers,omitempty"`
}

// PublicNotifier is how telling goes with a notifier. Whom it tells and what went wrong is for those who may read the rest.
type PublicNotifier struct {
	Name     string `json:"name"`
	Failures int    `json:"failures"` // passes in a row after which it did not take what it was told
}

// PublicCertificate is what may be known of one certificate. What an error says is for those who may read the rest.
type PublicCertificate struct {
	Name        string         `json:"name"`
	At          Time           `json:"at"` // of the pass that found it so
	State       string         `json:"state"`
	Reason      string         `json:"reason"`
	Names       []string       `json:"names"`
	NotBefore   Time           `json:"not_before"`
	NotAfter    Time           `json:"not_after"`
	RenewAt     Time           `json:"renew_at"`
	Fingerprint string         `json:"fingerprint"`
	Version     int            `json:"version"`
	Failures    int            `json:"failures"`     // orders that failed in a row
	LastAttempt Time           `json:"last_attempt"` // to order one
	LastSuccess Time           `json:"last_success"` // of an order
	Roots       string         `json:"roots"`        // path of what clients trust; empty: the system's
	LastFailure *PublicFailure `json:"last_failure"`
	Targets     []Target       `json:"targets"`

	KeysAway    bool             `json:"keys_away,omitempty"`    // private keys that are kept apart could not be had
	KeysUnknown bool             `json:"keys_unknown,omitempty"` // nobody could look for them, because the store could not be read
	Window      *PublicWindow    `json:"window,omitempty"`       // in which the CA wants it to be renewed; missing: it names none
	Rehearsal   *PublicRehearsal `json:"rehearsal,omitempty"`    // of the next renewal; missing: none came to a result
}

// PublicRehearsal is how the daemon last rehearsed the next renewal.
type PublicRehearsal struct {
	At Time `json:"at"`
	OK bool `json:"ok"`
}

// PublicWindow is a CA's renewal window (RFC 9773).
type PublicWindow struct {
	Start Time `json:"start"`
	End   Time `json:"end"`
}

// PublicFailure is a failure without its words.
type PublicFailure struct {
	Time  Time   `json:"time"`
	Stage string `json:"stage"`
}

// NewPublic is a document without certificates, which are added. next is when the next pass comes, zero when nobody knows; period
// is the time between two passes of the schedule.
func NewPublic(node string, next time.Time, period time.Duration, now time.Time) Public {
	stale := now.Add(period + lifecycle.PassTime)
	if !next.IsZero() {
		stale = next.Add(lifecycle.PassTime)
	}
	return Public{Schema: Schema, Node: node, At: Time{now}, NextPass: Time{next}, StaleAfter: Time{stale}, OK: true, Certificates: []PublicCertificate{}}
}

// AddNotifiers adds how telling goes with each notifier.
func (p *Public) AddNotifiers(all []certstore.NodeNotifier) {
	for _, one := range all {
		p.Notifiers = append(p.Notifiers, PublicNotifier{one.Name, one.Failures})
	}
}

// Add adds a certificate as a pass left it.
func (p *Public) Add(cert lifecycle.Certificate, r lifecycle.Result, roots string) {
	v := r.After
	full := NewCertificate(cert, v)
	one := PublicCertificate{
		Name: full.Name, At: p.At, State: full.State, Reason: full.Reason, Names: full.Names, NotBefore: full.NotBefore, NotAfter: full.NotAfter,
		RenewAt: full.RenewAt, Fingerprint: full.Fingerprint, Version: full.Version, Roots: roots, Targets: full.Targets, Failures: full.Failures,
		KeysAway: full.KeysAway != nil, KeysUnknown: v.Blind,
	}
	attempt, success := v.State.Orders()
	one.LastAttempt, one.LastSuccess = Time{attempt}, Time{success}
	for i, t := range v.State.Targets {
		took, endpoints := v.State.Converged(t)
		one.Targets[i].ConvergedSeconds = took.Seconds()
		for j, e := range one.Targets[i].Endpoints {
			if slices.Contains(endpoints, e.Address) {
				one.Targets[i].Endpoints[j].ConvergedSeconds = took.Seconds()
			}
		}
	}
	for i := range one.Targets {
		for j := range one.Targets[i].Endpoints {
			one.Targets[i].Endpoints[j].Error = ""
		}
	}
	if rehearsal := full.Rehearsal; rehearsal != nil && !rehearsal.At.IsZero() {
		one.Rehearsal = &PublicRehearsal{rehearsal.At, rehearsal.OK}
	}
	if w := v.State.Window; w != nil {
		one.Window = &PublicWindow{Time{w.Start}, Time{w.End}}
	}
	if failure := full.LastFailure; failure != nil {
		one.LastFailure = &PublicFailure{failure.Time, failure.Stage}
	}
	p.Certificates = append(p.Certificates, one)
	p.OK = p.OK && r.IsWell()
}

// KeepEarlier keeps what an earlier document said of the certificates that this one is not about, as far as isKnown says that they
// are configured, and with it when that is too old to be believed. A pass that a person made knows nothing of the daemon's next
// one: that is kept as well. A document that cannot be read had nothing to keep.
func (p *Public) KeepEarlier(text []byte, isKnown func(cert string) bool, byDaemon bool) {
	var before Public
	if json.Unmarshal(text, &before) != nil {
		return
	}
	others := slices.DeleteFunc(before.Certificates, func(one PublicCertificate) bool {
		again := slices.ContainsFunc(p.Certificates, func(now PublicCertificate) bool { return now.Name == one.Name })
		return again || !isKnown(one.Name)
	})
	p.Certificates = append(p.Certificates, others...)
	p.OK = p.OK && (before.OK || len(others) == 0)
	if len(others) > 0 && before.StaleAfter.Before(p.StaleAfter.Time) {
		p.StaleAfter = before.StaleAfter
	}
	if !byDaemon && before.NextPass.After(p.At.Time) {
		p.NextPass = before.NextPass
	}
}

// Text is the document as the file holds it, in the order of the names.
func (p Public) Text() ([]byte, error) {
	slices.SortFunc(p.Certificates, func(a, b PublicCertificate) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(p, "", " ")
	return append(text, '\n'), err
}

const noPassYet = "no pass has been made yet"

// Unhealthy says why a document is not as it should be; nothing where it is.
func Unhealthy(p Public, now time.Time) []string {
	if p.At.IsZero() {
		return []string{noPassYet}
	}
	var reasons []string
	for _, cert := range p.Certificates {
		if !lifecycle.CertState(cert.State).IsHealthy() {
			words := cert.Name + ": " + cert.State
			if lifecycle.Reason(cert.Reason) != lifecycle.Fresh {
				words += " (" + reasonWords(cert.Reason) + ")"
			}
			reasons = append(reasons, printable.Text(words))
		}
	}
	return append(reasons, unhealthyPass(p, now, len(reasons) > 0)...)
}

// unhealthyPass says why the last pass is not as it should be, beside what certificates have.
func unhealthyPass(p Public, now time.Time, isCertificates bool) (reasons []string) {
	if !isCertificates && !p.OK {
		reasons = append(reasons, "the last pass did not leave everything as it should be")
	}
	if now.After(p.StaleAfter.Time) {
		reasons = append(reasons, "the last pass was at "+p.At.String()+", and another should have been made since")
	}
	return reasons
}
