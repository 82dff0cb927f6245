package report

import (
	"fmt"
	"io"
	"slices"

	"maascert/certstore"
	"maascert/internal/printable"
)

// History says which versions are kept and what was tried.
type History struct {
	Schema   int       `json:"schema"`
	Versions []Version `json:"versions"` // of each certificate the newest first
	Attempts []Attempt `json:"attempts"` // the newest first
}

// Version is a version that the store keeps.
type Version struct {
	Certificate string   `json:"certificate"`
	Version     int      `json:"version"`
	Current     bool     `json:"current"`
	Origin      string   `json:"origin"` // acme, deployed, maas, import
	Names       []string `json:"names"`  // none of a pair that was only found somewhere
	NotBefore   Time     `json:"not_before"`
	NotAfter    Time     `json:"not_after"`
	Fingerprint string   `json:"fingerprint"`
}

// Attempt is one try to make something so.
type Attempt struct {
	Certificate string `json:"certificate"`
	At          Time   `json:"at"`
	Node        string `json:"node"`
	Why         string `json:"why"`
	Target      string `json:"target"`
	Stage       string `json:"stage"` // empty: it succeeded
	Error       string `json:"error"`
	Hint        string `json:"hint"`
	Times       int    `json:"times"` // how often in a row
}

// NewHistory is one of no certificate yet.
func NewHistory() History {
	return History{Schema: Schema, Versions: []Version{}, Attempts: []Attempt{}}
}

// Add adds a certificate; known are its versions by fingerprint.
func (h *History) Add(cert string, record certstore.Record, known map[string]certstore.VersionInfo) {
	var versions []Version
	for fingerprint, one := range known {
		versions = append(versions, Version{
			Certificate: cert, Version: one.Number, Current: one.Number == record.Current, Origin: string(one.Origin), Names: append([]string{}, one.Names...),
			NotBefore: Time{one.NotBefore}, NotAfter: Time{one.NotAfter}, Fingerprint: fingerprint,
		})
	}
	slices.SortFunc(versions, func(a, b Version) int { return b.Version - a.Version })
	h.Versions = append(h.Versions, versions...)
	for _, one := range record.Attempts {
		h.Attempts = append(h.Attempts, Attempt{
			Certificate: cert, At: Time{one.At}, Node: printable.Text(one.Node), Why: printable.Text(one.Why), Target: printable.Text(one.Target),
			Stage: one.Stage, Error: printable.Text(one.Error), Hint: printable.Text(one.Hint), Times: max(one.Times, 1),
		})
	}
	slices.SortStableFunc(h.Attempts, func(a, b Attempt) int { return b.At.Compare(a.At.Time) })
}

// Words writes the document for people.
func (h History) Words(w io.Writer) {
	for _, one := range h.Versions {
		mark := " "
		if one.Current {
			mark = "*"
		}
		fmt.Fprintf(w, "%s %s version %d (%s), %s until %s, %s\n", mark, one.Certificate, one.Version, one.Origin, one.NotBefore, one.NotAfter, one.Fingerprint)
	}
	for _, one := range h.Attempts {
		fmt.Fprintf(w, "  %s %s by %s: %s", one.At, one.Certificate, one.Node, one.Why)
		if one.Error != "" {
			fmt.Fprintf(w, " failed (%s): %s", one.Stage, one.Error)
		}
		if one.Times > 1 {
			fmt.Fprintf(w, " (%d times)", one.Times)
		}
		fmt.Fprintln(w)
	}
}
