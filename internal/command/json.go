package command

import (
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// Every JSON document names its format with schema.
const schema = 1

type statusJSON struct {
	Schema       int               `json:"schema"`
	Node         string            `json:"node"`
	At           string            `json:"at"`
	Healthy      bool              `json:"healthy"`
	LastPass     *lastPassJSON     `json:"last_pass"`            // null: none is known
	Unattended   string            `json:"unattended,omitempty"` // why nobody may be looking after the certificates
	Fleet        fleetJSON         `json:"fleet"`
	Certificates []certificateJSON `json:"certificates"`
}

type lastPassJSON struct {
	Time string `json:"time"`
	Node string `json:"node"`
}

// fleetJSON is for stores that several hosts share; a file store has nobody to tell of.
type fleetJSON struct {
	Lock  map[string]holderJSON `json:"lock"`
	Nodes []nodeJSON            `json:"nodes"`
}

// holderJSON is who holds a lock.
type holderJSON struct {
	Node  string  `json:"node"` // empty when only the process is known
	PID   int     `json:"pid"`
	Since *string `json:"since"`
}

type nodeJSON struct {
	Node        string                 `json:"node"`
	MachineID   string                 `json:"machine_id"`
	Version     string                 `json:"version"`
	LastPass    *string                `json:"last_pass"`
	OK          bool                   `json:"ok"`
	WishHash    string                 `json:"wish_hash"`
	ClockSkewMS int64                  `json:"clock_skew_ms"`
	Targets     []certstore.NodeTarget `json:"targets"`
}

func newNodesJSON(nodes []certstore.Node) []nodeJSON {
	docs := []nodeJSON{}
	for _, n := range nodes {
		docs = append(docs, nodeJSON{
			Node: n.Node, MachineID: n.MachineID, Version: n.Version, LastPass: stamp(n.LastPass), OK: n.OK, WishHash: n.WishHash,
			ClockSkewMS: n.ClockSkewMS, Targets: n.Targets,
		})
	}
	return docs
}

type certificateJSON struct {
	Name        string        `json:"name"`
	State       string        `json:"state"`
	Reason      string        `json:"reason"`
	Names       []string      `json:"names"`
	NotBefore   *string       `json:"not_before"`
	NotAfter    *string       `json:"not_after"`
	Serial      string        `json:"serial"`
	Fingerprint string        `json:"fingerprint"`
	Issuer      string        `json:"issuer"`
	KeyType     string        `json:"key_type"`
	RenewAt     *string       `json:"renew_at"`
	Failures    int           `json:"failures"`
	NextAttempt *string       `json:"next_attempt"`
	Version     int           `json:"version"`
	Error       string        `json:"error"` // last_failure's
	Hint        string        `json:"hint"`
	Changes     changesJSON   `json:"changes"`
	Troubles    []troubleJSON `json:"troubles,omitempty"` // what failed and has not succeeded since, the last first
	LastFailure *failureJSON  `json:"last_failure"`
	Warnings    []string      `json:"warnings,omitempty"`
	Explanation string        `json:"explanation,omitempty"` // URL at which the CA explains its renewal window
	Targets     []targetJSON  `json:"targets"`
}

// changesJSON are the names that the next certificate has and what is served has not, and the other way round.
type changesJSON struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
}

func newChangesJSON(v lifecycle.View) changesJSON {
	added, removed := v.Changes()
	return changesJSON{Added: append([]string{}, added...), Removed: append([]string{}, removed...)}
}

// String lists what changes, as "- region1 + region9"; empty for nothing.
func (c changesJSON) String() string {
	var words []string
	for _, name := range c.Removed {
		words = append(words, "- "+name)
	}
	for _, name := range c.Added {
		words = append(words, "+ "+name)
	}
	return strings.Join(words, " ")
}

type failureJSON struct {
	Time  string `json:"time"`
	Stage string `json:"stage"`
	Error string `json:"error"`
	Hint  string `json:"hint"`
}

// troubleJSON is one of several things that are not as they should be.
type troubleJSON struct {
	Target string `json:"target"` // empty: the certificate itself
	Stage  string `json:"stage"`
	Error  string `json:"error"`
	Hint   string `json:"hint"`
}

// severalFailures are those of several targets; one is told as the last failure.
func severalFailures(all []certstore.Attempt) []certstore.Attempt {
	if len(all) < 2 {
		return nil
	}
	return all
}

func newTroublesJSON(r lifecycle.Result) []troubleJSON {
	if len(r.Troubles) < 2 {
		return nil
	}
	var docs []troubleJSON
	for _, t := range r.Troubles {
		docs = append(docs, troubleJSON{t.Target, string(t.Stage), oneLine(t.Err), line(hint.Of(t.Err))})
	}
	return docs
}

type targetJSON struct {
	Certificate string         `json:"certificate"`
	Name        string         `json:"name"`
	Type        string         `json:"type"`
	Endpoints   []endpointJSON `json:"endpoints"`
}

type endpointJSON struct {
	Address     string  `json:"address"`
	State       string  `json:"state"`
	Fingerprint string  `json:"fingerprint"`
	NotAfter    *string `json:"not_after"`
	Chain       string  `json:"chain"`
	Error       string  `json:"error"`
	Version     *int    `json:"version"` // ours that is served, else null
	Issuer      string  `json:"issuer"`
}

type verifyJSON struct {
	Schema  int          `json:"schema"`
	Node    string       `json:"node"`
	At      string       `json:"at"`
	Healthy bool         `json:"healthy"`
	Targets []targetJSON `json:"targets"`
}

type renewJSON struct {
	Schema       int           `json:"schema"`
	DryRun       bool          `json:"dry_run"`
	Changed      bool          `json:"changed"`
	Certificates []renewedJSON `json:"certificates"`
}

type renewedJSON struct {
	Name        string          `json:"name"`
	Obtained    bool            `json:"obtained"`
	Why         string          `json:"why"`
	Deployed    map[string]bool `json:"deployed"`
	Stage       string          `json:"stage"`
	Error       string          `json:"error"`
	Hint        string          `json:"hint"`
	Version     int             `json:"version"`
	Fingerprint string          `json:"fingerprint"`
	Troubles    []troubleJSON   `json:"troubles,omitempty"` // all of several; the worst stands above
	Warnings    []string        `json:"warnings,omitempty"`
	Requests    int             `json:"acme_requests"`
	Duration    int64           `json:"duration_ms"`
	Endpoints   []endpointJSON  `json:"endpoints"`
}

// rehearsalJSON is a renewJSON of a rehearsal, in which nothing was obtained or deployed.
type rehearsalJSON struct {
	Schema       int             `json:"schema"`
	DryRun       bool            `json:"dry_run"`
	Changed      bool            `json:"changed"`
	WouldChange  bool            `json:"would_change"`
	Certificates []rehearsedJSON `json:"certificates"`
}

type rehearsedJSON struct {
	renewedJSON
	WouldChange bool       `json:"would_change"`
	Commands    [][]string `json:"commands"`
	Level       string     `json:"level"`
}

// newRehearsedJSON documents a rehearsal, and what it would have begun with.
func newRehearsedJSON(r lifecycle.Result, would lifecycle.View) rehearsedJSON {
	unchanged := lifecycle.Result{
		Name: r.Name, Before: would, After: would, Deployed: map[string]bool{}, Requests: r.Requests, Duration: r.Duration, Troubles: r.Troubles, Warnings: r.Warnings,
	}
	for target := range r.Deployed {
		unchanged.Deployed[target] = false
	}
	return rehearsedJSON{renewedJSON: newRenewedJSON(unchanged), Commands: [][]string{}}
}

func newCertificateJSON(cert lifecycle.Certificate, v lifecycle.View) certificateJSON {
	doc := certificateJSON{
		Name: cert.Name, State: string(v.Summary), Reason: string(v.Plan.Why), Names: cert.Wish.Names,
		RenewAt: stamp(v.Plan.RenewAt), Failures: v.State.Record.Failures, NextAttempt: stamp(v.Plan.Wait), Version: v.Version(),
		Warnings: v.Warnings, Targets: newTargetsJSON(cert, v),
	}
	if v.State.Window != nil {
		doc.Explanation = v.State.Window.Explanation
	}
	doc.Changes = newChangesJSON(v)
	if last := v.State.LastFailure(cert.Name); last != nil {
		failure := failureJSON{Time: rfc3339(last.At), Stage: last.Stage, Error: line(last.Error), Hint: line(last.Hint)}
		doc.LastFailure, doc.Error, doc.Hint = &failure, failure.Error, failure.Hint
	}
	for _, failure := range severalFailures(v.State.Failures(cert.Name)) {
		words := strings.TrimPrefix(failure.Error, failure.Target+": ")
		doc.Troubles = append(doc.Troubles, troubleJSON{failure.Target, failure.Stage, line(words), line(failure.Hint)})
	}
	if v.State.Current != nil {
		leaf := v.State.Current.Bundle.Leaf()
		doc.Names = certstore.CertificateNames(leaf)
		doc.NotBefore, doc.NotAfter = stamp(leaf.NotBefore), stamp(leaf.NotAfter)
		doc.Serial, doc.Fingerprint = leaf.SerialNumber.Text(16), certstore.Fingerprint(leaf)
		doc.Issuer, doc.KeyType = line(leaf.Issuer.String()), string(v.State.Current.Bundle.KeyType())
	}
	return doc
}

func newTargetsJSON(cert lifecycle.Certificate, v lifecycle.View) []targetJSON {
	docs := []targetJSON{}
	for i, t := range v.State.Targets {
		docs = append(docs, targetJSON{
			Certificate: cert.Name, Name: t.Name, Type: cert.Targets[i].Info().Type, Endpoints: newEndpointsJSON(t.Endpoints, v.State.Known),
		})
	}
	return docs
}

func newEndpointsJSON(endpoints []maasconfig.Endpoint, known map[string]certstore.VersionInfo) []endpointJSON {
	docs := []endpointJSON{}
	for _, e := range endpoints {
		doc := endpointJSON{Address: e.Address, State: string(e.State), Fingerprint: e.Fingerprint(), Chain: string(e.Chain)}
		if len(e.Certs) > 0 {
			doc.NotAfter, doc.Issuer = stamp(e.Certs[0].NotAfter), line(e.Certs[0].Issuer.String())
		}
		if version, ours := known[e.Fingerprint()]; ours {
			doc.Version = &version.Number
		}
		switch {
		case e.Stopped:
			doc.Error = "regiond is stopped there"
		case e.Err != nil:
			doc.Error = oneLine(e.Err)
		case e.Distrust != nil:
			doc.Error = oneLine(e.Distrust)
		}
		docs = append(docs, doc)
	}
	return docs
}

func newRenewedJSON(r lifecycle.Result) renewedJSON {
	doc := renewedJSON{
		Name: r.Name, Obtained: r.Obtained, Why: string(r.Before.Plan.Why), Deployed: maps.Clone(r.Deployed), Stage: string(r.Stage()), Troubles: newTroublesJSON(r),
		Version: r.After.Version(), Requests: r.Requests, Duration: r.Duration.Milliseconds(), Endpoints: []endpointJSON{},
		Warnings: slices.Concat(r.Warnings, r.After.Warnings),
	}
	if err := r.Err(); err != nil {
		doc.Error, doc.Hint = oneLine(err), hint.Of(err)
	}
	if r.After.State.Current != nil {
		doc.Fingerprint = r.After.State.Current.Bundle.Fingerprint()
	}
	for _, t := range r.After.State.Targets {
		doc.Endpoints = slices.Concat(doc.Endpoints, newEndpointsJSON(t.Endpoints, r.After.State.Known))
	}
	return doc
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
