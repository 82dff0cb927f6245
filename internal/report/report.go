// Package report is what was found and done, as documents. Each document has two faces made of the same fields: JSON, which is a
// promise to scripts (additions are possible, changes are not), and words for people.
//
// It promises that a document says no more than the engine saw; that each text in it is one printable line, whoever wrote it; and
// that making one asks nobody anything.
//
// Start reading at [NewStatus] and [NewRenewal]; words.go and screen.go are the other face.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// Schema is the format of the JSON documents, which each of them names.
const Schema = 1

// WriteJSON writes a document for machines.
func WriteJSON(w io.Writer, document any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(document)
	if errors.Is(err, syscall.EPIPE) {
		return nil // whoever read it is gone; what was done and its exit code stay
	}
	return err
}

// Time is a moment: in JSON RFC 3339 in UTC, or null for none.
type Time struct{ time.Time }

// MarshalJSON writes whole seconds.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return []byte(`"` + t.UTC().Format(time.RFC3339) + `"`), nil
}

// String is the moment for people.
func (t Time) String() string {
	return printable.Time(t.Time)
}

// Changes are the names that the next certificate has and what is served has not, and the other way round.
type Changes struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
}

// ChangesOf compares what is served with what is wished.
func ChangesOf(v lifecycle.View) Changes {
	added, removed := v.Changes()
	return Changes{Added: append([]string{}, added...), Removed: append([]string{}, removed...)}
}

// driftOf are the names that changed by themselves and that no certificate follows yet.
func driftOf(v lifecycle.View) Changes {
	added, missing := v.Drift()
	return Changes{Added: append([]string{}, added...), Removed: append([]string{}, missing...)}
}

// mostNames is how many names of a kind are told of in a line.
const mostNames = 8

// String lists what changes, as "- region1 + region9"; empty for nothing.
func (c Changes) String() string {
	var words []string
	for i, names := range [][]string{c.Removed, c.Added} {
		for n, name := range names {
			if n == mostNames {
				words = append(words, fmt.Sprintf("%c (%d more)", "-+"[i], len(names)-n))
				break
			}
			words = append(words, fmt.Sprintf("%c %s", "-+"[i], name))
		}
	}
	return strings.Join(words, " ")
}

// Trouble is one of several things that are not as they should be.
type Trouble struct {
	Target string `json:"target"` // empty: the certificate itself
	Stage  string `json:"stage"`
	Error  string `json:"error"`
	Hint   string `json:"hint"`
}

// Target is a place that serves a certificate, and what its endpoints serve.
type Target struct {
	Certificate string     `json:"certificate"`
	Name        string     `json:"name"`
	Type        string     `json:"type"`
	Endpoints   []Endpoint `json:"endpoints"`

	// ConvergedSeconds is how long after it was first told of the version in use every endpoint was seen to serve it; 0 where no run saw both.
	ConvergedSeconds float64 `json:"converged_seconds,omitempty"`
}

func newTargets(cert lifecycle.Certificate, v lifecycle.View) []Target {
	targets := []Target{}
	for i, t := range v.State.Targets {
		targets = append(targets, newTarget(cert.Name, cert.Targets[i].Info(), t.Endpoints, v.State.Known))
	}
	return targets
}

// newTarget documents what endpoints serve; known are the versions of the certificate by fingerprint.
func newTarget(cert string, info maasconfig.Info, endpoints []maasconfig.Endpoint, known map[string]certstore.VersionInfo) Target {
	return Target{Certificate: cert, Name: info.Name, Type: info.Type, Endpoints: newEndpoints(endpoints, known)}
}

// Endpoint is an address that serves a certificate.
type Endpoint struct {
	Address     string `json:"address"`
	State       string `json:"state"`
	Fingerprint string `json:"fingerprint"`
	NotAfter    Time   `json:"not_after"`
	Chain       string `json:"chain"`
	Error       string `json:"error"`
	Version     *int   `json:"version"` // ours that is served, else null
	Issuer      string `json:"issuer"`

	// ConvergedSeconds is the target's, where the endpoint was one of those; 0 where it is not known.
	ConvergedSeconds float64 `json:"converged_seconds,omitempty"`

	words  string
	isGood bool // it serves the version in use as it should
}

// String is one line for people.
func (e Endpoint) String() string { return e.words }

// unjudged says of endpoints what they serve, and not whether it is ours, which nobody could find out.
func unjudged(endpoints []Endpoint) {
	for i := range endpoints {
		one := &endpoints[i]
		if one.Fingerprint == "" {
			continue
		}
		one.State, one.Chain, one.isGood = string(maasconfig.Unknown), "", false
		one.words = fmt.Sprintf("%s serves %.19s, until %s; whether that is ours is not known", one.Address, one.Fingerprint, one.NotAfter)
	}
}

func newEndpoints(endpoints []maasconfig.Endpoint, known map[string]certstore.VersionInfo) []Endpoint {
	documents := []Endpoint{}
	for _, e := range endpoints {
		doc := Endpoint{Address: e.Address, State: string(e.State), Fingerprint: e.Fingerprint(), Chain: string(e.Chain), words: e.String(), isGood: e.IsTrusted()}
		if len(e.Certs) > 0 {
			doc.NotAfter, doc.Issuer = Time{e.Certs[0].NotAfter}, printable.Text(e.Certs[0].Issuer.String())
		}
		if version, ours := known[e.Fingerprint()]; ours {
			doc.Version = &version.Number
		}
		switch {
		case e.Stopped:
			doc.Error = "regiond is stopped there"
		case e.Err != nil:
			doc.Error = printable.Error(e.Err)
		case e.Distrust != nil:
			doc.Error = printable.Error(e.Distrust)
		case e.State == maasconfig.Match && e.Fleeting != nil:
			doc.Error = printable.Error(e.Fleeting)
		}
		documents = append(documents, doc)
	}
	return documents
}

// Failed is the document of a command that has nothing else to say.
type Failed struct {
	Schema int    `json:"schema"`
	Error  string `json:"error"`
	Hint   string `json:"hint"`
}

// NewFailed documents an error, which may have a hint.
func NewFailed(err error) Failed {
	return Failed{Schema: Schema, Error: printable.Error(err), Hint: printable.Text(hint.Of(err))}
}
