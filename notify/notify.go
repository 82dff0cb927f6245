// Package notify tells people what is worth telling about a certificate: on MAAS's own page, by mail, by webhook, in a chat, or
// through a command of their own.
//
// It promises that no secret of a configuration shows up in an error, that whoever is told can hang, refuse, redirect or answer
// without end and costs no more than a channel's time, and that one event told twice has one ID.
//
// Start reading at [Notifier] and [Channel]. To add a notifier, write a type with Notifier's one method and a [Section] for its keys in a
// file of its own, a row in [Types], and its tests with notifytest.Run and TestPayloads.
package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maascert/internal/printable"
)

// Kind names what happened.
type Kind string

// The kinds of events.
const (
	Obtained         Kind = "obtained"          // the CA issued a certificate
	Deployed         Kind = "deployed"          // every endpoint of a target was seen to serve it
	Failed           Kind = "failed"            // a certificate cannot be kept up as things are
	RehearsalFailed  Kind = "rehearsal_failed"  // the next renewal would fail
	RehearsalSkipped Kind = "rehearsal_skipped" // whether it would could not be found out
	Recovered        Kind = "recovered"         // what was told before is over
	Expiring         Kind = "expiring"          // the certificate ends soon, or has ended, and is not renewed
	Degraded         Kind = "degraded"          // not every endpoint serves it
	Drift            Kind = "drift"             // an endpoint serves something else than it did
	NamesChanged     Kind = "names_changed"     // other names are to be in the certificate than are
	TrustChanged     Kind = "trust_changed"     // clients have to trust another root
	Revoked          Kind = "revoked"           // the CA revoked a version
	Silent           Kind = "silent"            // a host of the deployment makes no passes any more
	Test             Kind = "test"              // nothing happened: somebody tries whether telling works
)

// Kinds are all that a configuration can name; All stands for each of them.
var Kinds = []Kind{Obtained, Deployed, Failed, RehearsalFailed, RehearsalSkipped, Recovered, Expiring, Degraded, Drift, NamesChanged, TrustChanged, Revoked, Silent}

// All stands in a configuration for all kinds.
const All Kind = "all"

// Usual are those that are told where no others are named: what somebody may have to do something about, and its end.
var Usual = []Kind{Failed, RehearsalFailed, Recovered, Expiring, Degraded, Drift, TrustChanged, Revoked, Silent}

// Event is something worth telling. Its texts are printable lines of bounded length, and it holds no secret.
type Event struct {
	Schema      int        `json:"schema"` // 1
	ID          string     `json:"id"`     // the same for the same event, however often it is told
	At          time.Time  `json:"at"`
	Kind        Kind       `json:"event"`
	Node        string     `json:"node"`         // the host that found it
	Cert        string     `json:"cert"`         // name of the certificate
	Target      string     `json:"target"`       // at which; empty: the certificate itself
	Stage       string     `json:"stage"`        // of what failed
	Error       string     `json:"error"`        // what is wrong, or was
	Hint        string     `json:"hint"`         // what to do about it
	NotAfter    *time.Time `json:"not_after"`    // when what is served ends; null: there is nothing
	LeftSeconds int64      `json:"left_seconds"` // until then, less than 0 when it has ended; 0 where there is nothing

	Summary string `json:"summary"`          // all of it in a sentence or two
	Detail  string `json:"detail,omitempty"` // what it is about, where that is no error
	Topic   string `json:"topic"`            // what it is about: what is told of a topic follows on what was told of it before
	Of      Kind   `json:"of,omitempty"`     // for recovered: what is over
	Repeat  bool   `json:"repeat,omitempty"` // it was told before and lasts
	Over    bool   `json:"over,omitempty"`   // it was mended when it was found
}

// longestText bounds, in bytes, each text of an event: they come from outside, and wait in the record until everybody is told.
const longestText = 1000

// New completes an event: its texts are made printable and bounded, and what follows from the rest is filled in. The ID is the same for
// the same event.
func New(e Event) Event {
	e.Schema, e.At = Schema, e.At.UTC().Truncate(time.Second)
	for _, text := range []*string{&e.Error, &e.Hint, &e.Detail} {
		*text = printable.Line(*text, longestText)
	}
	if e.NotAfter != nil {
		ends := e.NotAfter.UTC().Truncate(time.Second)
		e.NotAfter, e.LeftSeconds = &ends, int64(ends.Sub(e.At)/time.Second)
	}
	if e.Topic == "" {
		e.Topic = string(e.Kind)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s\n%s\n%s", e.Node, e.Cert, e.Topic, e.Kind, e.Of, e.At.Format(time.RFC3339), e.Detail))
	e.ID = hex.EncodeToString(sum[:16])
	e.Summary = printable.Text(e.sentence())
	return e
}

// Schema is the format of an event as JSON.
const Schema = 1

// Document is the event as one line of JSON.
func (e Event) Document() ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(e)
	return text.Bytes(), err
}

// Notifier tells one event to whoever it is for. Its error holds no secret, and is a Refusal where the same again would end the same.
type Notifier interface {
	Notify(ctx context.Context, event Event) error
}

// Refusal is the error of a notifier that was answered, and told no: trying at once again is of no use.
type Refusal struct{ Err error }

// Error is what was answered.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap is the same as an error.
func (r *Refusal) Unwrap() error { return r.Err }

// Partial is the error of a notifier that told some of whom it is to tell: the same again would tell them twice.
type Partial struct{ Err error }

// Error is why the others were not told.
func (p *Partial) Error() string { return p.Err.Error() }

// Unwrap is the same as an error.
func (p *Partial) Unwrap() error { return p.Err }

// Channel is a notifier with what it is told of, and how patiently.
type Channel struct {
	Name string
	Type string
	Notifier
	Kinds        []Kind        // none: Usual
	Certificates []string      // none: all
	Timeout      time.Duration // of one try
	Retries      int           // after the first try
	// Pause is how long to wait before try n, which is 1 for the second; nil: 1, 2, 4 seconds and so on, a minute at most.
	Pause func(n int) time.Duration
}

// Wants tells whether an event is for this channel.
func (c Channel) Wants(event Event) bool {
	if len(c.Certificates) > 0 && event.Cert != "" && !slices.Contains(c.Certificates, event.Cert) {
		return false
	}
	kinds := c.Kinds
	if len(kinds) == 0 {
		kinds = Usual
	}
	if event.Kind == Recovered && c.Type == "maas" { // it takes a notice away, which stays for ever otherwise
		return true
	}
	return event.Kind == Test || slices.Contains(kinds, All) || slices.Contains(kinds, event.Kind)
}

// Tell tells an event, and tries again where the error is one that may pass.
func (c Channel) Tell(ctx context.Context, event Event) error {
	for n := 1; ; n++ {
		err := c.try(ctx, event)
		var refusal *Refusal
		var partial *Partial
		if err == nil || n > c.Retries || errors.As(err, &refusal) || errors.As(err, &partial) || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(c.pause(n))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

func (c Channel) pause(n int) time.Duration {
	if c.Pause != nil {
		return c.Pause(n)
	}
	return min(time.Second<<min(n-1, 10), time.Minute)
}

func (c Channel) try(ctx context.Context, event Event) error {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no answer within %v", c.Timeout))
		defer cancel()
	}
	err := c.Notify(ctx, event)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // which says more than what came of it
	}
	return err
}
