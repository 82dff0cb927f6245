package lifecycle

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// because says in a few words why a certificate is ordered, or is not.
var because = map[Reason]string{
	Forced:         "somebody asked for it",
	Missing:        "there was none",
	NamesChanged:   "other names are wanted",
	KeyTypeChanged: "another key type is configured",
	IssuerChanged:  "another CA is configured",
	ProfileChanged: "another profile is configured",
	Revoked:        "the one before is to be revoked",
	Expired:        "the one before has expired",
	Emergency:      "less than a tenth of its lifetime was left",
	Held:           "renewal by time is held",
	ARI:            "the CA's renewal window has come",
	Lifetime:       "most of its lifetime has passed",
	Foreign:        "a good certificate that is not ours is served",
	Fresh:          "it is not due",
}

// Words are the reason for people; the code is for machines.
func (r Reason) Words() string { return cmp.Or(because[r], string(r)) }

// Troubles says what of a certificate is not as it should be, each with what to do about it, whoever looks; nothing where all is well.
func (v View) Troubles(cert Certificate) []Trouble {
	if v.Summary.IsHealthy() || v.Blind {
		return nil
	}
	var all []Trouble
	add := func(target string, stage Stage, err error) {
		if err != nil {
			all = append(all, Trouble{Target: target, Stage: stage, Err: err})
		}
	}
	add("", StageLook, v.State.Keys)
	if wait := v.Plan.Wait; !wait.IsZero() {
		return append(all, Trouble{Stage: StageObtain, Err: v.waiting(wait), NotNow: true})
	}
	if v.State.Record.Failures > 0 && v.State.isHeldBack() {
		return append(all, Trouble{Stage: StageObtain, Err: v.waiting(v.Plan.RenewAt), NotNow: true})
	}
	if v.State.Current == nil {
		return all // whoever tried to obtain a certificate says why there is none
	}
	for i, t := range v.State.Targets {
		if !maasconfig.Trusted(t.Endpoints) {
			add(t.Name, StageVerify, notServing(v, t, cert.Targets[i].Info()))
		}
	}
	switch {
	case v.Summary == StateOverdue && v.State.missedWindow():
		add("", StageObtain, hint.Add(fmt.Errorf("a window has passed in which it should have been renewed; the next one is at %s", printable.Time(v.Plan.RenewAt)),
			"does the daemon run (systemctl status maascert), or a timer within the windows? maascert renew --force renews now"))
	case v.Summary == StateOverdue:
		add("", StageObtain, hint.Add(errors.New("a renewal is overdue"), "maascert renew"))
	}
	add("", StageConfig, v.State.windowsError())
	add("", StageLook, v.State.Account)
	add("", StageLook, v.State.lastingDoubt())
	for _, open := range revocations(v.State) {
		add("", StageRevoke, hint.Add(errors.New(open), "maascert revoke goes on with it; maascert revoke --reason R changes the reason"))
	}
	return all
}

// notServing says why a target does not serve a certificate as it should, and what to do about it.
func notServing(view View, t TargetState, target maasconfig.Info) error {
	err := errors.New(maasconfig.Troubles(t.Endpoints))
	isIn := func(state maasconfig.State) func(maasconfig.Endpoint) bool {
		return func(e maasconfig.Endpoint) bool { return e.State != state }
	}
	switch {
	case view.Summary == StateExpired:
		return hint.Add(err, "maascert renew obtains another")
	case slices.ContainsFunc(t.Endpoints, maasconfig.Endpoint.IsTooEarly):
		return hint.Add(err, "is this host's clock right (timedatectl)? If it is, the CA's is not: maascert renew --force obtains another certificate")
	case len(t.Endpoints) > 0 && !slices.ContainsFunc(t.Endpoints, isIn(maasconfig.None)) && target.Shared && view.State.Record.Deployments[t.key()].Verified != 0:
		return hint.Add(fmt.Errorf("%w; no region serves TLS any more, after all of them did", err),
			"was it switched off (maas config-tls disable)? maascert renew --enable-tls brings it back without an order; else no region's nginx runs")
	case maasconfig.Serving(t.Endpoints):
		return hint.Add(err, "is acme.issuer_root the root that clients trust, and is every certificate of the chain still valid? maascert renew --force obtains another")
	case view.State.keepsLost(t):
		return view.State.restored()
	case view.State.isForeign(t, view.Plan.wanted()):
		return hint.Add(errors.New("every endpoint serves a good certificate that is not ours; it is left until a renewal is due"),
			"to put ours back now, without an order: maascert renew --accept foreign")
	case view.State.Record.Deployments[t.key()].RolledBack >= maxRollbacks:
		return hint.Add(fmt.Errorf("%w; the certificate was taken back twice and is held", err),
			"look into %s, then: maascert renew tries once more, without an order", target.Logs)
	case slices.Contains(view.Plan.Deploy, t.Name):
		return hint.Add(err, "the next pass brings it there, maascert renew does it now; where that does not help, %s", maasconfig.Remedy(t.Endpoints))
	default:
		return hint.Add(err, "%s", maasconfig.Remedy(t.Endpoints))
	}
}

// waiting says until when an order is held back, and why.
func (v View) waiting(until time.Time) error {
	last := "an order is held back"
	for _, a := range slices.Backward(v.State.Record.Attempts) {
		if a.Error != "" && (a.Stage == string(StageObtain) || a.Stage == string(StageSave)) {
			last = fmt.Sprintf("the last try, at %s, failed with: %s", printable.Time(a.At), a.Error)
			break
		}
	}
	what := "maascert renew --force tries at once"
	if !v.State.Record.RetryAfter.Before(until) {
		what = "the CA set this time"
	}
	return hint.Add(fmt.Errorf("not before %s: %s", printable.Time(until), last), "%s", what)
}

// NameVersions notes of endpoints which of our versions they serve.
func NameVersions(endpoints []maasconfig.Endpoint, known map[string]certstore.VersionInfo) {
	for i := range endpoints {
		endpoints[i].Version = known[endpoints[i].Fingerprint()].Number
	}
}

// Ends is when the first of what endpoints serve ends, and the version in use; zero: nobody knows.
func (v View) Ends() time.Time {
	var first time.Time
	for _, ends := range v.State.ends() {
		first = earlier(first, ends)
	}
	return first
}

// MissedWindow tells whether it should have been renewed in a window of the configuration that has passed.
func (v View) MissedWindow() bool { return v.State.missedWindow() }
