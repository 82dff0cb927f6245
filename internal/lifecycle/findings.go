package lifecycle

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
	"maascert/notify"
)

// What there is to tell after a pass: what it did, what is not as it should be, and what is news.

const (
	// What may pass by itself is told when it is found once more: a CA that was away for a moment, a region that restarts. A person who
	// looks on is told at once, and so is everybody as the end comes near.
	outagePatience   = time.Minute
	degradedPatience = 5 * time.Minute
)

// finding is something that is worth telling as long as it was not told.
type finding struct {
	topic    string
	kind     notify.Kind
	target   string
	stage    Stage
	err      string
	hint     string
	detail   string
	notAfter time.Time
	step     int
	patience time.Duration // for how long it has to last
	news     string        // identifies what is told as news, which is not over one day; empty: it is a trouble
}

// acts are what the pass did that people may want to know.
func (t Tellable) acts() []notify.Event {
	r := t.Result
	var all []notify.Event
	add := func(kind notify.Kind, target, detail string) {
		all = append(all, notify.New(notify.Event{
			At: t.Now, Kind: kind, Node: t.Node, Cert: t.Cert.Name, Target: target, Detail: detail, NotAfter: moment(t.notAfter()),
			Topic: strings.TrimSuffix(string(kind)+"/"+target, "/"),
		}))
	}
	if r.Obtained {
		add(notify.Obtained, "", "")
		if added, removed := r.Before.Changes(); len(added)+len(removed) > 0 {
			add(notify.NamesChanged, "", changeWords(added, removed))
		}
	}
	for _, target := range r.After.State.Targets {
		if r.Deployed[target.Name] {
			add(notify.Deployed, target.Name, "")
		}
	}
	if len(r.Revoked) > 0 {
		var versions []string
		for _, version := range r.Revoked {
			versions = append(versions, fmt.Sprint(version))
		}
		add(notify.Revoked, "", fmt.Sprintf("The CA revoked version %s of %s", strings.Join(versions, ", "), t.Cert.Name))
	}
	return all
}

// changeWords lists names that change.
func changeWords(added, removed []string) string {
	const most = 20
	var words []string
	for _, name := range removed[:min(len(removed), most)] {
		words = append(words, "- "+name)
	}
	for _, name := range added[:min(len(added), most)] {
		words = append(words, "+ "+name)
	}
	if more := max(0, len(added)-most) + max(0, len(removed)-most); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " ")
}

// findings are what is not as it should be, and what is news.
func (t Tellable) findings() []finding {
	view := t.Result.After
	found := t.ofCertificate()
	if view.Blind {
		return append(found, t.ofBlindExpiry(found)...)
	}
	found = slices.Concat(found, t.ofTargets(), t.ofExpiry(found), t.ofRehearsal(), t.ofHosts())
	if added, missing := view.Drift(); len(added)+len(missing) > 0 {
		detail := changeWords(added, missing)
		found = append(found, finding{topic: topicNames, kind: notify.NamesChanged, detail: detail, news: digest(detail)})
	}
	return slices.Concat(found, t.ofTrust(), t.ofHere())
}

// ofTrust is that clients have to trust another root, or will have to.
func (t Tellable) ofTrust() []finding {
	state, plan := t.Result.After.State, t.Result.After.Plan
	n := len(plan.Roots)
	if len(trustChange(state, plan, t.Cert)) == 0 {
		return nil
	}
	found := finding{topic: topicTrust, kind: notify.TrustChanged, notAfter: t.notAfter()}
	if plan.Why == IssuerChanged {
		found.detail = fmt.Sprintf("The next certificate of %s comes from another CA than that of the root %s", t.Cert.Name, printable.Line(plan.Roots[n-1].Subject, 100))
		found.hint = "give the new CA's root to whoever pins the present one: profiles of the maas command, Terraform's provider, Juju's clouds, scripts"
		found.news = digest("next", plan.Roots[n-1].Fingerprint)
		return []finding{found}
	}
	now, former := plan.Roots[n-1], plan.Roots[n-2]
	found.detail = fmt.Sprintf("Clients of %s must trust the root %s instead of %s", t.Cert.Name, printable.Line(now.Subject, 100), printable.Line(former.Subject, 100))
	found.hint = fmt.Sprintf("give them %s, which holds both until %s: profiles of the maas command (maas login --cacerts), Terraform's provider, Juju's clouds, scripts", t.Cert.RootsFile, former.Until.UTC().Format("2006-01-02"))
	found.news = digest(now.Fingerprint, former.Fingerprint)
	return []finding{found}
}

// ofHere is what is wrong with the daemon itself.
func (t Tellable) ofHere() []finding {
	if t.Here == nil {
		return nil
	}
	var found []finding
	if err := t.Here.Config; err != nil {
		found = append(found, finding{
			topic: configTopics + t.Node, kind: notify.Failed, stage: StageConfig, err: printable.Error(err), hint: cmp.Or(hint.Of(err), "the configuration before it is in force until the daemon is started anew: mend the file, then systemctl reload maascert"), notAfter: t.notAfter(),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(t.Here.Silent)) {
		err := t.Here.Silent[name]
		found = append(found, finding{
			topic: notifierTopics + t.Node + "/" + name, kind: notify.Failed, stage: StageNotify, err: name + ": " + printable.Error(err), hint: cmp.Or(hint.Of(err), "maascert notify test"), notAfter: t.notAfter(),
		})
	}
	return found
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:8])
}

// ofCertificate is what is wrong with the certificate itself. That another run is at work is no trouble, and neither is a version
// that is yet to be revoked, or an order that was not due and that a person saw fail.
func (t Tellable) ofCertificate() []finding {
	var worst *Trouble
	for _, trouble := range t.Result.Troubles {
		if t.Result.Before.State.ByHand && isFirstEnabling(trouble) { // which only that person can decide
			continue
		}
		if t.Result.Before.Plan.Why == Forced && t.Result.Before.Version() != 0 && (trouble.Stage == StageObtain || trouble.Stage == StageSave) {
			continue
		}
		isWaiting := trouble.Stage == StageLock && trouble.NotNow || trouble.Stage == StageRevoke && !refusedRevocation(t.Result.After.State)
		if trouble.Target == "" && !isWaiting && (worst == nil || trouble.rank() < worst.rank()) {
			worst = &trouble
		}
	}
	if worst == nil {
		return nil
	}
	found := finding{topic: topicCertificate, kind: notify.Failed, stage: worst.Stage, err: printable.Error(worst.Err), hint: hint.Of(worst.Err)}
	switch {
	case acme.IsOutage(worst.Err):
		found.patience = t.patience(outagePatience)
	case t.Result.After.Blind, isStoreAway(worst.Err):
		found.patience = t.patience(degradedPatience)
	}
	if next := t.Result.After.Plan.Wait; next.After(t.Now) {
		found.detail = "it is tried again at " + next.UTC().Format("2006-01-02 15:04 UTC")
	}
	if t.Result.After.Blind {
		return []finding{t.blindStep(found)}
	}
	return []finding{t.step(found, t.notAfter())}
}

// isStoreAway tells whether something failed because the store, or who keeps its private keys, went away meanwhile: a database restarts, or
// another server takes its place.
func isStoreAway(err error) bool {
	return errors.Is(err, certstore.ErrLockLost) || errors.Is(err, certstore.ErrAway) || errors.Is(err, certstore.ErrKeysAway)
}

// isLeft tells whether a target is left as it is until a person decides.
func (t Tellable) isLeft(target string) bool {
	return t.Result.Before.State.ByHand && slices.ContainsFunc(t.Result.Troubles, func(trouble Trouble) bool { return trouble.Target == target && isFirstEnabling(trouble) })
}

func isFirstEnabling(trouble Trouble) bool {
	var refusal *maasconfig.Refusal
	return errors.As(trouble.Err, &refusal) && refusal.IsFirst
}

// ofTargets is what is wrong at this host's view of each target.
func (t Tellable) ofTargets() []finding {
	view := t.Result.After
	var found []finding
	for i, target := range view.State.Targets {
		about := finding{topic: targetTopics + target.key(), target: target.Name, stage: StageVerify}
		isWrong := false
		for _, trouble := range t.Result.WorstAtEach() {
			isDecided := t.Result.Before.State.ByHand && isFirstEnabling(trouble)
			if trouble.Target == target.Name && trouble.Stage != StageLock && !isDecided {
				isWrong, about.stage, about.err, about.hint = true, trouble.Stage, printable.Error(trouble.Err), hint.Of(trouble.Err)
				if isStoreAway(trouble.Err) {
					about.patience = t.patience(degradedPatience)
				}
			}
		}
		if !isWrong && !t.isLeft(target.Name) && view.State.Current != nil && !maasconfig.Trusted(target.Endpoints) {
			err := notServing(view, target, t.Cert.Targets[i].Info())
			isWrong, about.err, about.hint = true, printable.Error(err), hint.Of(err)
		}
		drifted := view.State.isDrifted(target)
		switch {
		case isWrong && (about.stage == StageGuard || about.stage == StageDeploy):
			about.kind = notify.Failed
		case isWrong && drifted:
			about.kind = notify.Drift
		case isWrong:
			about.kind, about.patience = notify.Degraded, t.patience(degradedPatience)
		default:
			if mended, was := t.mended(i); was {
				found = append(found, mended)
			}
			continue
		}
		ends := t.notAfter()
		for _, at := range view.State.endsAt(target) {
			ends = earlier(ends, at)
		}
		found = append(found, t.step(about, ends))
	}
	return found
}

// isDrifted tells whether an endpoint that served the version in use serves another certificate now. One that serves none may be starting.
func (s State) isDrifted(t TargetState) bool {
	if s.Current == nil || s.Record.Deployments[t.key()].Verified != s.Current.Number {
		return false
	}
	return slices.ContainsFunc(t.Endpoints, func(e maasconfig.Endpoint) bool {
		return e.State == maasconfig.Other
	})
}

// patience is for how long something has to last, less where certificates live shortly.
func (t Tellable) patience(usual time.Duration) time.Duration {
	if current := t.Result.After.State.Current; current != nil {
		return min(usual, lifetime(current.Bundle.Leaf())/24)
	}
	if latest := t.Result.After.State.Latest; latest.Fingerprint != "" {
		return min(usual, latest.NotAfter.Sub(latest.NotBefore)/24)
	}
	return usual
}

// mended is something else that was served at a target before the pass, which put ours back.
func (t Tellable) mended(i int) (finding, bool) {
	r := t.Result
	if r.Obtained || len(r.Before.State.Targets) <= i || r.Before.Version() != r.After.Version() {
		return finding{}, false
	}
	before := r.Before.State.Targets[i]
	if !r.Deployed[before.Name] || !r.Before.State.isDrifted(before) {
		return finding{}, false
	}
	return finding{
		topic: mendedTopics + before.key(), kind: notify.Drift, target: before.Name, stage: StageVerify, err: maasconfig.Troubles(before.Endpoints),
		detail: "ours was put back", notAfter: t.notAfter(), news: digest(t.Now.String()), hint: "find out who put it there: another tool that renews, or a hook of certbot's or acme.sh's",
	}, true
}

// ofExpiry is that the certificate ends and is not renewed: a sixth of its lifetime is left although it is due, or a twelfth, or nothing.
// One that nobody renews is told of when it would be due.
func (t Tellable) ofExpiry(wrong []finding) []finding {
	state, plan := t.Result.After.State, t.Result.After.Plan
	if state.Current == nil {
		return nil
	}
	found := t.step(finding{topic: topicExpiry, kind: notify.Expiring, hint: "maascert renew"}, t.notAfter())
	isDue := !plan.RenewAt.IsZero() && !plan.RenewAt.After(t.Now)
	if state.Watched {
		isDue, found.hint = !state.dueByLifetime().After(t.Now), "maascert deploy --cert FILE --key FILE"
	}
	if found.step < 2 && !(isDue && (found.step == 1 || state.Watched)) {
		return nil
	}
	if len(wrong) > 0 {
		found.err, found.hint = wrong[0].err, wrong[0].hint
	}
	return []finding{found}
}

// ofBlindExpiry is that what is served is in its last tenth while the store cannot be read: nobody can renew it.
func (t Tellable) ofBlindExpiry(wrong []finding) []finding {
	if len(wrong) == 0 {
		return nil
	}
	found := t.blindStep(finding{topic: topicExpiry, kind: notify.Expiring, stage: StageLook, err: wrong[0].err, hint: wrong[0].hint})
	if found.step == 0 {
		return nil
	}
	return []finding{found}
}

// blindStep says how near the end is of what is served, where that is the newest certificate that this host ever saw: the store, which knows
// the others, cannot be read.
func (t Tellable) blindStep(f finding) finding {
	state := t.Result.After.State
	isServed := slices.ContainsFunc(state.Targets, func(target TargetState) bool {
		return slices.ContainsFunc(target.Endpoints, func(e maasconfig.Endpoint) bool {
			return e.Fingerprint() != "" && e.Fingerprint() == state.Latest.Fingerprint
		})
	})
	if !isServed {
		return f
	}
	f.notAfter = state.Latest.NotAfter
	switch left := state.Latest.NotAfter.Sub(t.Now); {
	case left <= 0:
		f.step = 3
	case left <= state.Latest.NotAfter.Sub(state.Latest.NotBefore)/10:
		f.step = 2
	}
	return f
}

// ofRehearsal is how the rehearsal of the next renewal went.
func (t Tellable) ofRehearsal() []finding {
	r := t.Result.After.State.Record.Rehearsal
	if r == nil {
		return nil
	}
	// As the end comes near the renewal itself is told of, so this has no steps.
	found := finding{topic: topicRehearsal, target: r.Target, stage: Stage(r.Stage), err: r.Error, hint: r.Hint, notAfter: t.notAfter()}
	switch {
	case r.Proven:
		found.kind = notify.RehearsalFailed
	case r.Failed.IsZero() && !r.Skipped.IsZero():
		found.kind = notify.RehearsalSkipped
	default:
		return nil
	}
	return []finding{found}
}

// ofHosts is which hosts of the deployment make no passes any more.
func (t Tellable) ofHosts() []finding {
	state := t.Result.After.State
	if !t.Hosts {
		return nil
	}
	own := slices.IndexFunc(state.Nodes, func(n certstore.Node) bool { return n.Node == t.Node })
	var found []finding
	for _, node := range state.Nodes {
		isSelf := node.Node == t.Node || own >= 0 && node.MachineID != "" && node.MachineID == state.Nodes[own].MachineID
		if isSelf || node.LastRun.IsZero() || t.Now.Sub(node.LastRun) < t.Silence.Of(node) {
			continue
		}
		found = append(found, t.step(finding{
			topic: hostTopics + node.Node, kind: notify.Silent, hint: "systemctl status maascert, there",
			detail: fmt.Sprintf("The daemon of %s has made no pass since %s", printable.Phrase(node.Node), node.LastRun.UTC().Format("2006-01-02 15:04 UTC")),
		}, t.notAfter()))
	}
	return found
}

// notAfter is when the version in use ends; zero where there is none.
func (t Tellable) notAfter() time.Time {
	if current := t.Result.After.State.Current; current != nil {
		return current.Bundle.Leaf().NotAfter
	}
	return time.Time{}
}

// step says how near a certificate's end is that ends at a moment and lives as long as the version in use.
func (t Tellable) step(f finding, ends time.Time) finding {
	f.notAfter = ends
	current := t.Result.After.State.Current
	if ends.IsZero() || current == nil {
		return f
	}
	switch left, life := ends.Sub(t.Now), lifetime(current.Bundle.Leaf()); {
	case left <= 0:
		f.step = 3
	case left <= life/12:
		f.step = 2
	case left <= life/6:
		f.step = 1
	}
	return f
}
