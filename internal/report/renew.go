package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// Renewal says what a pass did.
type Renewal struct {
	Schema       int       `json:"schema"`
	DryRun       bool      `json:"dry_run"`
	Changed      bool      `json:"changed"`
	Certificates []Renewed `json:"certificates"`
}

// Renewed says what a pass did for one certificate.
type Renewed struct {
	Name        string          `json:"name"`
	Obtained    bool            `json:"obtained"`
	Why         string          `json:"why"`
	Deployed    map[string]bool `json:"deployed"`
	Stage       string          `json:"stage"`
	Error       string          `json:"error"`
	Hint        string          `json:"hint"`
	Version     int             `json:"version"`
	Fingerprint string          `json:"fingerprint"`
	Troubles    []Trouble       `json:"troubles,omitempty"` // all of several; the worst stands above
	Warnings    []string        `json:"warnings,omitempty"`
	Requests    int             `json:"acme_requests"`
	Duration    int64           `json:"duration_ms"`
	Endpoints   []Endpoint      `json:"endpoints"`

	changed  bool
	failed   bool
	changes  Changes // as they were before
	left     string  // why the plan that is left has nothing to do
	renewAt  Time
	notAfter Time
	told     map[string]maasconfig.Telling
	revoked  []int
}

// NewRenewal documents a pass.
func NewRenewal(results []lifecycle.Result) Renewal {
	doc := Renewal{Schema: Schema, Certificates: []Renewed{}}
	for _, r := range results {
		doc.Changed = doc.Changed || r.Changed
		doc.Certificates = append(doc.Certificates, NewRenewed(r))
	}
	return doc
}

// NewRenewed documents what a pass did for one certificate.
func NewRenewed(r lifecycle.Result) Renewed {
	doc := Renewed{
		Name: r.Name, Obtained: r.Obtained, Why: string(r.Before.Plan.Why), Deployed: maps.Clone(r.Deployed), Stage: string(r.Stage()),
		Version: r.After.Version(), Requests: r.Requests, Duration: r.Duration.Milliseconds(), Endpoints: []Endpoint{},
		Warnings: slices.Concat(r.Warnings, r.After.Warnings),
		changed:  r.Changed, failed: len(r.Troubles) > 0, changes: ChangesOf(r.Before), left: string(r.After.Plan.Why), renewAt: Time{r.After.Plan.RenewAt},
		told: r.Told, revoked: r.Revoked,
	}
	if err := r.Err(); err != nil {
		doc.Error, doc.Hint = printable.Error(err), printable.Text(hint.Of(err))
	}
	if len(r.Troubles) > 1 {
		for _, t := range r.Troubles {
			doc.Troubles = append(doc.Troubles, Trouble{t.Target, string(t.Stage), printable.Error(t.Err), printable.Text(hint.Of(t.Err))})
		}
	}
	if current := r.After.State.Current; current != nil {
		doc.Fingerprint, doc.notAfter = current.Bundle.Fingerprint(), Time{current.Bundle.Leaf().NotAfter}
	}
	for _, t := range r.After.State.Targets {
		doc.Endpoints = append(doc.Endpoints, newEndpoints(t.Endpoints, r.After.State.Known)...)
	}
	return doc
}

// Words writes the document for people. What failed stands elsewhere, as errors do.
func (d Renewal) Words(w io.Writer) {
	for _, one := range d.Certificates {
		one.Words(w)
	}
}

// Words writes the document for people.
func (d Renewed) Words(w io.Writer) {
	if changes := d.changes.String(); d.Obtained && changes != "" {
		fmt.Fprintf(w, "%s: names: %s\n", d.Name, changes)
	}
	if d.Obtained {
		fmt.Fprintf(w, "%s: obtained version %d (%s), valid until %s, %d requests to the CA\n", d.Name, d.Version, reasonWords(d.Why), d.notAfter, d.Requests)
	}
	switch {
	case d.failed:
		for _, target := range slices.Sorted(maps.Keys(d.told)) {
			fmt.Fprintf(w, "%s: %s\n", d.Name, tellingWords(target, d.told[target], d.Version))
		}
	case !d.changed:
		fmt.Fprintf(w, "%s: nothing to do: version %d is in use (%s), renewal %s\n", d.Name, d.Version, reasonWords(d.left), d.renewAt)
	case !d.Obtained && len(d.Deployed) > 0:
		fmt.Fprintf(w, "%s: deployed version %d\n", d.Name, d.Version)
	}
	if d.changed {
		printEndpoints(w, "  ", d.Endpoints)
	}
	for _, version := range d.revoked {
		fmt.Fprintf(w, "%s: the CA revoked version %d\n", d.Name, version)
	}
}

// tellingWords say what is known of the last call at a target.
func tellingWords(target string, telling maasconfig.Telling, version int) string {
	switch telling {
	case maasconfig.Told:
		return fmt.Sprintf("told %s of version %d", target, version)
	case maasconfig.NotTold:
		return fmt.Sprintf("%s was not told of version %d", target, version)
	default:
		return fmt.Sprintf("whether %s took version %d is not known", target, version)
	}
}

// Rehearsal is a Renewal in which nothing was obtained or deployed.
type Rehearsal struct {
	Schema       int         `json:"schema"`
	DryRun       bool        `json:"dry_run"`
	Changed      bool        `json:"changed"`
	WouldChange  bool        `json:"would_change"`
	Certificates []Rehearsed `json:"certificates"`
}

// Rehearsed says how far a rehearsal came for one certificate, and what a real pass would do.
type Rehearsed struct {
	Renewed
	WouldChange bool       `json:"would_change"`
	Commands    [][]string `json:"commands"`
	Writes      []string   `json:"writes,omitempty"` // paths of the files that would be replaced
	Level       string     `json:"level"`

	intention string
}

// NewRehearsal is one without certificates, which are added.
func NewRehearsal() Rehearsal {
	return Rehearsal{Schema: Schema, DryRun: true, Certificates: []Rehearsed{}}
}

// Add adds how a rehearsal ended for one certificate, which began with a view of it as it really is.
func (d *Rehearsal) Add(r lifecycle.Result, really lifecycle.View, level lifecycle.Level, commands []world.Command, writes []string) {
	unchanged := lifecycle.Result{
		Name: r.Name, Before: really, After: really, Deployed: map[string]bool{}, Requests: r.Requests, Duration: r.Duration, Troubles: r.Troubles, Warnings: r.Warnings,
	}
	for target := range r.Deployed {
		unchanged.Deployed[target] = false
	}
	one := Rehearsed{
		Renewed: NewRenewed(unchanged), WouldChange: really.Plan.IsWork(), Commands: [][]string{}, Writes: writes, Level: string(level), intention: intention(really),
	}
	for _, command := range commands {
		one.Commands = append(one.Commands, append([]string{command.Path}, command.Args...))
	}
	d.WouldChange = d.WouldChange || one.WouldChange
	d.Certificates = append(d.Certificates, one)
}

// Words writes the document for people.
func (d Rehearsal) Words(w io.Writer) {
	for _, one := range d.Certificates {
		one.Words(w)
	}
}

// Words writes the document for people.
func (d Rehearsed) Words(w io.Writer) {
	level := map[string]string{
		string(lifecycle.Planned):   "the CA was asked for nothing",
		string(lifecycle.Validated): "the CA proved every name and issued nothing",
		string(lifecycle.Issued):    "the directory for dry runs issued a certificate, which was not kept",
	}[d.Level]
	if d.Level == string(lifecycle.Planned) && d.failed && d.Requests > 0 {
		level = "the CA did not prove the names, and issued nothing"
	}
	fmt.Fprintf(w, "%s: rehearsed: %s\n", d.Name, level)
	for _, path := range d.Writes {
		fmt.Fprintf(w, "%s: would write: %s\n", d.Name, path)
	}
	for _, command := range d.Commands {
		fmt.Fprintf(w, "%s: would run: %s\n", d.Name, world.Command{Path: command[0], Args: command[1:]})
	}
	if changes := d.changes.String(); changes != "" {
		fmt.Fprintf(w, "%s: names: %s\n", d.Name, changes)
	}
	fmt.Fprintf(w, "%s: a real pass now would %s\n", d.Name, d.intention)
}

// intention is a plan in words.
func intention(v lifecycle.View) string {
	p := v.Plan
	switch {
	case p.Obtain:
		return fmt.Sprintf("obtain a certificate (%s) and deploy it", reasonWords(string(p.Why)))
	case !p.Wait.IsZero():
		return fmt.Sprintf("wait: a certificate is due (%s), but not before %s", reasonWords(string(p.Why)), Time{p.Wait})
	case len(p.Deploy) > 0:
		return fmt.Sprintf("deploy version %d to %s", v.Version(), strings.Join(p.Deploy, ", "))
	case len(v.State.Record.Answers) > 0:
		return "take away what an earlier run left to prove names"
	case p.Housekeeping && v.State.Record.PendingRevocation() != nil:
		return fmt.Sprintf("have the CA revoke version %d", v.State.Record.PendingRevocation().Version)
	default:
		return fmt.Sprintf("change nothing (%s, renewal %s)", reasonWords(string(p.Why)), Time{p.RenewAt})
	}
}
