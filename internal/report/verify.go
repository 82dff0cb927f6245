package report

import (
	"fmt"
	"io"
	"slices"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// Verification says what every endpoint serves now.
type Verification struct {
	Schema  int      `json:"schema"`
	Node    string   `json:"node"`
	At      Time     `json:"at"`
	Healthy bool     `json:"healthy"`
	Targets []Target `json:"targets"`

	Warnings []string `json:"warnings,omitempty"` // what was perhaps not looked at
}

// NewVerification is one without targets, which are added.
func NewVerification(node string, now time.Time) Verification {
	return Verification{Schema: Schema, Node: node, At: Time{now}, Healthy: true, Targets: []Target{}}
}

// Add adds a target of a certificate; known are the certificate's versions by fingerprint.
func (v *Verification) Add(cert string, info maasconfig.Info, endpoints []maasconfig.Endpoint, known map[string]certstore.VersionInfo) {
	v.Targets = append(v.Targets, newTarget(cert, info, endpoints, known))
	v.Healthy = v.Healthy && maasconfig.Trusted(endpoints)
	for _, doubt := range []error{info.Unsure, info.Unlisted} {
		if doubt != nil {
			words := info.Name + ": " + printable.Error(doubt)
			if advice := hint.Of(doubt); advice != "" {
				words += " (" + printable.Text(advice) + ")"
			}
			v.Warnings = append(v.Warnings, words)
		}
	}
}

// Words writes the document for people: first how many endpoints are as they should be, then those that are not.
func (v Verification) Words(w io.Writer) {
	good, all := 0, 0
	for _, endpoint := range endpointsOf(v.Targets) {
		all++
		if endpoint.isGood {
			good++
		}
	}
	fmt.Fprintf(w, "%d of %d endpoints serve what they should\n", good, all)
	v.words(w, false)
	v.words(w, true)
}

// Wrong writes what is not as it should be.
func (v Verification) Wrong(w io.Writer) { v.words(w, false) }

// words tells of endpoints of one kind; of those that are not as they should be with what else is.
func (v Verification) words(w io.Writer, isGood bool) {
	for _, target := range v.Targets {
		of := slices.DeleteFunc(slices.Clone(target.Endpoints), func(e Endpoint) bool { return e.isGood != isGood })
		printEndpoints(w, target.Certificate+": ", of)
	}
	if isGood {
		return
	}
	for _, warning := range v.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
}
