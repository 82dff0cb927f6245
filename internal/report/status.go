package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// Status says what is stored, when it is renewed, and what every endpoint serves.
type Status struct {
	Schema       int           `json:"schema"`
	Node         string        `json:"node"`
	At           Time          `json:"at"`
	Healthy      bool          `json:"healthy"`
	LastPass     *LastPass     `json:"last_pass"`            // null: none is known
	Unattended   string        `json:"unattended,omitempty"` // why nobody may be looking after the certificates
	Fleet        Fleet         `json:"fleet"`
	Certificates []Certificate `json:"certificates"`
	Notifiers    []Notifier    `json:"notifiers,omitempty"` // of this host

	screen Screen
}

// Notifier is how telling people goes with a notifier.
type Notifier struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Failures int    `json:"failures"` // passes in a row after which it did not take what it was told
	Since    Time   `json:"since"`    // when the first of them ended
	Error    string `json:"error"`
	Hint     string `json:"hint"`
	LastTold Time   `json:"last_told"` // when it last took something
}

// LastPass says who made the last pass.
type LastPass struct {
	Time Time   `json:"time"`
	Node string `json:"node"`
}

// Certificate is one certificate, and what is known of it now.
type Certificate struct {
	Name        string    `json:"name"`
	State       string    `json:"state"`
	Reason      string    `json:"reason"`
	Names       []string  `json:"names"`
	NotBefore   Time      `json:"not_before"`
	NotAfter    Time      `json:"not_after"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"`
	Issuer      string    `json:"issuer"`
	KeyType     string    `json:"key_type"`
	RenewAt     Time      `json:"renew_at"`
	Failures    int       `json:"failures"`
	NextAttempt Time      `json:"next_attempt"`
	Version     int       `json:"version"`
	Error       string    `json:"error"` // last_failure's
	Hint        string    `json:"hint"`
	Changes     Changes   `json:"changes"`
	Drift       Changes   `json:"drift"`              // names that the rule names_from_maas leads to and the next certificate lacks, and the other way round
	Troubles    []Trouble `json:"troubles,omitempty"` // what failed and has not succeeded since, the last first
	LastFailure *Failure  `json:"last_failure"`
	Warnings    []string  `json:"warnings,omitempty"`
	Explanation string    `json:"explanation,omitempty"` // URL at which the CA explains its renewal window
	Targets     []Target  `json:"targets"`

	KeysAway  *KeysAway    `json:"keys_away,omitempty"` // missing: private keys can be had, as far as is known
	Rehearsal *NextRenewal `json:"rehearsal,omitempty"` // of the next renewal; missing: there was none

	now       time.Time // when it was looked at
	blind     bool      // what is stored could not be read
	isLost    bool      // the version in use is in the record and cannot be read
	isWatched bool      // no CA is configured
	differs   bool      // this host's configuration is not the one that is followed
	heldUntil Time
	lifetime  lifetime
	screen    Screen

	missedWindow bool      // it should have been renewed in a window that has passed
	open         []Trouble // what is not as it should be, each with what to do about it
}

// NextRenewal is how the daemon last rehearsed the next renewal.
type NextRenewal struct {
	At           Time   `json:"at"` // of the last rehearsal that came to a result; null: none has
	Node         string `json:"node"`
	Level        string `json:"level"`  // how far it came with the CA
	OK           bool   `json:"ok"`     // that one worked
	Failed       bool   `json:"failed"` // it is known to fail: it did twice, an hour apart
	FailedSince  Time   `json:"failed_since"`
	SkippedSince Time   `json:"skipped_since"` // since when it could not be found out
	Target       string `json:"target"`
	Stage        string `json:"stage"`
	Error        string `json:"error"`
	Hint         string `json:"hint"`
}

func newNextRenewal(r *certstore.Rehearsal) *NextRenewal {
	if r == nil || r.At.IsZero() && r.Skipped.IsZero() {
		return nil
	}
	return &NextRenewal{
		At: Time{r.At}, Node: printable.Text(r.Node), Level: printable.Text(r.Level), OK: !r.At.IsZero() && r.Failed.IsZero(), Failed: r.Proven, FailedSince: Time{r.Failed}, SkippedSince: Time{r.Skipped},
		Target: printable.Text(r.Target), Stage: printable.Text(r.Stage), Error: printable.Text(r.Error), Hint: printable.Text(r.Hint),
	}
}

// Words writes the document for people.
func (n *NextRenewal) Words(w io.Writer) {
	switch {
	case n == nil:
		return
	case !n.FailedSince.IsZero() && !n.Failed:
		fmt.Fprintf(w, "  a rehearsal of the next renewal failed at %s, and is made again in an hour: %s (%s)\n", n.FailedSince, n.Error, n.Stage)
	case !n.FailedSince.IsZero():
		fmt.Fprintf(w, "  the next renewal would fail, as rehearsed since %s: %s (%s)\n", n.FailedSince, n.Error, n.Stage)
	case !n.SkippedSince.IsZero():
		fmt.Fprintf(w, "  the next renewal could not be rehearsed since %s: %s (%s)\n", n.SkippedSince, n.Error, n.Stage)
	default:
		fmt.Fprintf(w, "  the next renewal would work, as rehearsed %s\n", n.At)
		return
	}
	printHint(w, n.Hint)
}

// KeysAway is why private keys cannot be had now that are kept apart, as in Vault.
type KeysAway struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
}

// Failure is what failed last.
type Failure struct {
	Time  Time   `json:"time"`
	Stage string `json:"stage"`
	Error string `json:"error"`
	Hint  string `json:"hint"`
}

// NewStatus documents what hosts said of their passes; the certificates are added.
func NewStatus(node string, nodes []certstore.Node, locks map[string]Holder, silence lifecycle.Silence, now time.Time) Status {
	s := Status{
		Schema: Schema, Node: node, At: Time{now}, Healthy: true, Unattended: Unattended(nodes, silence, now),
		Fleet: newFleet(node, nodes, locks, silence, now), Certificates: []Certificate{},
	}
	for _, n := range nodes {
		for _, one := range n.Notifiers {
			if n.Node == node {
				s.Notifiers = append(s.Notifiers, Notifier{one.Name, one.Type, one.Failures, Time{one.Since}, printable.Text(one.Error), printable.Text(one.Hint), Time{one.LastTold}})
			}
		}
		if s.LastPass == nil || n.LastPass.After(s.LastPass.Time.Time) {
			s.LastPass = &LastPass{Time{n.LastPass}, printable.Text(n.Node)}
		}
	}
	return s
}

// Unattended says so when no daemon looks after the certificates, as far as its own words tell; empty when one does.
func Unattended(nodes []certstore.Node, silence lifecycle.Silence, now time.Time) string {
	var last certstore.Node
	for _, node := range nodes {
		if node.LastRun.After(last.LastRun) && !node.LastRun.After(now.Add(time.Minute)) {
			last = node
		}
	}
	switch {
	case last.LastRun.IsZero():
		return "nothing renews this by itself yet, as far as is known: sudo systemctl enable --now maascert"
	case now.Sub(last.LastRun) > silence.Of(last):
		return fmt.Sprintf("nothing has looked by itself since %s: systemctl status maascert", Time{last.LastRun})
	default:
		return ""
	}
}

// Add adds a certificate.
func (s *Status) Add(cert lifecycle.Certificate, v lifecycle.View) {
	s.Certificates = append(s.Certificates, NewCertificate(cert, v))
	s.Healthy = s.Healthy && v.Summary.IsHealthy()
	if !v.Blind {
		s.Fleet.converge(cert.Name, v.Version())
	}
}

// NewCertificate documents a view of a certificate.
func NewCertificate(cert lifecycle.Certificate, v lifecycle.View) Certificate {
	doc := Certificate{
		Name: cert.Name, State: string(v.Summary), Reason: string(v.Plan.Why), Names: v.Plan.Names,
		RenewAt: Time{v.Plan.RenewAt}, Failures: v.State.Record.Failures, NextAttempt: Time{v.Plan.Wait}, Version: v.Version(),
		Changes: ChangesOf(v), Drift: driftOf(v), Warnings: v.Warnings, Targets: newTargets(cert, v), Rehearsal: newNextRenewal(v.State.Record.Rehearsal),
		now: v.State.Now, blind: v.Blind, isLost: v.State.Current == nil && v.State.Record.Current != 0, isWatched: v.State.Watched, differs: v.Plan.Differ, heldUntil: Time{v.State.Record.HeldUntil},
	}
	doc.missedWindow = v.MissedWindow()
	for _, t := range v.Troubles(cert) {
		words := printable.Error(t.Err)
		for _, target := range v.State.Targets {
			if target.Name == t.Target { // what its endpoints serve is told of each
				words = strings.TrimPrefix(strings.TrimPrefix(words, printable.Text(maasconfig.Troubles(target.Endpoints))), "; ")
			}
		}
		doc.open = append(doc.open, Trouble{t.Target, string(t.Stage), words, printable.Text(hint.Of(t.Err))})
	}
	if v.Blind {
		for i := range doc.Targets {
			unjudged(doc.Targets[i].Endpoints)
		}
	}
	doc.lifetime = lifetime{now: doc.now, renewal: v.Plan.RenewAt}
	if w := v.State.Window; w != nil {
		doc.Explanation = w.Explanation
		doc.lifetime.opens, doc.lifetime.closes = w.Start, w.End
	}
	if last := v.State.LastFailure(cert.Name); last != nil {
		failure := Failure{Time: Time{last.At}, Stage: last.Stage, Error: printable.Text(last.Error), Hint: printable.Text(last.Hint)}
		doc.LastFailure, doc.Error, doc.Hint = &failure, failure.Error, failure.Hint
	}
	if away := v.State.Keys; away != nil {
		doc.KeysAway = &KeysAway{printable.Error(away), printable.Text(hint.Of(away))}
	}
	if failures := v.State.Failures(cert.Name); len(failures) > 1 { // one is told as the last
		for _, failure := range failures {
			words := strings.TrimPrefix(failure.Error, failure.Target+": ")
			doc.Troubles = append(doc.Troubles, Trouble{failure.Target, failure.Stage, printable.Text(words), printable.Text(failure.Hint)})
		}
	}
	if v.State.Current != nil {
		leaf := v.State.Current.Bundle.Leaf()
		doc.Names = certstore.CertificateNames(leaf)
		doc.NotBefore, doc.NotAfter = Time{leaf.NotBefore}, Time{leaf.NotAfter}
		doc.lifetime.begin, doc.lifetime.end = leaf.NotBefore, leaf.NotAfter
		doc.Serial, doc.Fingerprint = leaf.SerialNumber.Text(16), certstore.Fingerprint(leaf)
		doc.Issuer, doc.KeyType = printable.Text(leaf.Issuer.String()), string(v.State.Current.Bundle.KeyType())
	}
	return doc
}

// Draw has the document drawn on a terminal when it is written in words.
func (s *Status) Draw(on Screen) {
	s.screen = on
	for i := range s.Certificates {
		s.Certificates[i].screen = on
	}
}

// Words writes the document for people: of several certificates first how many are well, and those that are not. On a terminal a table shows
// them all, and no more is told of those of which there is nothing to say.
func (s Status) Words(w io.Writer) {
	wrong := 0
	for _, cert := range s.Certificates {
		if !cert.isHealthy() {
			wrong++
		}
	}
	all := len(s.Certificates)
	if all > 1 {
		fmt.Fprintf(w, "%d of %d certificates are as they should be\n", all-wrong, all)
	}
	isDrawn := s.screen.isDrawnOn() && all > 0
	if isDrawn {
		s.screen.drawCertificates(w, s.Certificates)
		fmt.Fprintln(w)
	}
	for _, isHealthy := range []bool{false, true} {
		for _, cert := range s.Certificates {
			if cert.isHealthy() == isHealthy && !(isDrawn && all > 1 && cert.isUnremarkable()) {
				cert.Words(w)
			}
		}
	}
	if isDrawn && all > 1 {
		fmt.Fprintln(w, "maascert status --cert NAME tells more of one")
	}
	s.wordsOfHosts(w)
}

// Wrong writes what is not as it should be.
func (s Status) Wrong(w io.Writer) {
	for _, cert := range s.Certificates {
		if !cert.isHealthy() {
			cert.Words(w)
		}
	}
}

// isUnremarkable tells whether nothing is to be said of a certificate but what a table has room for.
func (c Certificate) isUnremarkable() bool {
	return lifecycle.CertState(c.State) == lifecycle.StateOK && len(c.Warnings) == 0 && len(c.open) == 0 && c.LastFailure == nil && len(c.Troubles) == 0 && !c.differs && !c.missedWindow &&
		c.Changes.String() == "" && c.Drift.String() == "" && (c.Rehearsal == nil || c.Rehearsal.OK && c.Rehearsal.SkippedSince.IsZero())
}

func (c Certificate) isHealthy() bool { return lifecycle.CertState(c.State).IsHealthy() }

func (s Status) wordsOfHosts(w io.Writer) {
	s.Fleet.Words(w, s.Node, s.screen)
	if s.LastPass != nil {
		fmt.Fprintf(w, "last pass %s by %s\n", dated(s.LastPass.Time, s.At.Time), s.LastPass.Node)
	}
	if s.Unattended != "" {
		fmt.Fprintln(w, s.Unattended)
	}
	for _, one := range s.Notifiers {
		if one.Failures > 0 {
			fmt.Fprintf(w, "%s (%s) cannot be told since %s: %s\n", one.Name, one.Type, one.Since, one.Error)
			printHint(w, one.Hint)
		}
	}
}
