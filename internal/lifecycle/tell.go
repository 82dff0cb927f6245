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

// What is worth telling people is a pure function of what a pass found and came to and of what was told before, as what to do is one
// of what was seen. It is about topics: the certificate itself, each of its targets, its end, the rehearsal of its next renewal, its
// names, its roots, and the hosts of the deployment. A trouble is told once; it is told again when it became another one, and when a
// sixth and a twelfth of the lifetime and nothing are left; when it is over that is told once, to whoever was told of it. What was not
// looked at is neither.

// The topics that are no target's and no host's.
const (
	topicCertificate = "certificate"
	topicExpiry      = "expiry"
	topicRehearsal   = "rehearsal"
	topicNames       = "names"
	topicTrust       = "trust"
	targetTopics     = "target/" // and the name under which the record remembers the target
	topicConfig      = "config"
	hostTopics       = "host/"     // and the host's name
	notifierTopics   = "notifier/" // and its name: one that cannot be told
	mendedTopics     = "mended/"   // and the target's name: what a pass found wrong and put right
)

// Tellable is all that telling depends on.
type Tellable struct {
	Now      time.Time
	Node     string
	Cert     Certificate
	Result   Result // of the pass
	Told     []certstore.Told
	Channels []notify.Channel
	Hosts    bool          // silent hosts are told of with this certificate
	Here     *Here         // of the daemon of this host, told of with this certificate; nil: nothing is known of it
	ActsOnly bool          // the pass was cut off: what it did is known, and what it found is not
	Silence  time.Duration // after which a host that says nothing is silent
}

// Here is what may be wrong with a daemon itself.
type Here struct {
	Config error            // why a changed configuration is not in force; nil: it is
	Silent map[string]error // notifiers that could not be told for a while, and why
}

// Letter is an event and whom it is for.
type Letter struct {
	Event notify.Event
	To    []string // names of channels
}

const (
	// promptTellings is how often a day a topic is told at once. What comes and goes oftener has to last, or to be over, for an hour
	// for each time that it was told that day: whoever stands before an endpoint can make it come and go.
	promptTellings = 3
	tellingPause   = time.Hour
	// What may pass by itself is told when it is found once more: a CA that was away for a moment, a region that restarts. A person who
	// looks on is told at once, and so is everybody as the end comes near.
	outagePatience   = time.Minute
	degradedPatience = 5 * time.Minute
	// mostTold bounds the topics that are remembered.
	mostTold = 100
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

// Tell says what is worth telling whom, what is to be remembered of that, and when to look again because of it; zero for no such time.
func Tell(t Tellable) (letters []Letter, told []certstore.Told, again time.Time) {
	post := func(event notify.Event, to []string) {
		if len(to) > 0 {
			letters = append(letters, Letter{event, to})
		}
	}
	for _, event := range t.acts() {
		post(event, t.whoWants(event))
	}
	if t.ActsOnly {
		return letters, t.Told, time.Time{}
	}
	found := t.findings()
	told = t.remembered(found)
	for _, f := range found {
		i := slices.IndexFunc(told, func(one certstore.Told) bool { return one.Topic == f.topic })
		if i < 0 {
			told = append(told, certstore.Told{Topic: f.topic, Over: true})
			i = len(told) - 1
		}
		var informed []string
		if f.topic == topicExpiry {
			informed = toldOfCertificate(told)
		}
		event, to, later := t.tell(&told[i], f, informed)
		post(event, to)
		again = earlier(again, later)
	}
	slices.SortStableFunc(told, func(a, b certstore.Told) int { return cmp.Compare(order(a.Topic), order(b.Topic)) })
	var renewed []string // who hears that the certificate itself is well again
	isFound := func(topic string) bool {
		return slices.ContainsFunc(found, func(f finding) bool { return f.topic == topic })
	}
	for i := range told {
		if isFound(told[i].Topic) {
			continue
		}
		told[i].Found = time.Time{}
		if told[i].Over || !t.isOver(told[i]) {
			continue
		}
		if t.isForgotten(told[i]) {
			told[i].Over = true
			continue
		}
		event, to, later := t.recover(&told[i])
		switch told[i].Topic {
		case topicCertificate:
			renewed = to
		case topicExpiry, topicRehearsal: // which a renewal ends as well
			to = t.withoutMAAS(to, renewed)
		}
		post(event, to)
		again = earlier(again, later)
	}
	return letters, told[max(0, len(told)-mostTold):], again
}

// order has the certificate itself come first.
func order(topic string) int {
	if topic == topicCertificate {
		return 0
	}
	return 1
}

// withoutMAAS leaves out who is informed, but for MAAS's page, on which each topic has a notice of its own.
func (t Tellable) withoutMAAS(names, informed []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		isPage := slices.ContainsFunc(t.Channels, func(c notify.Channel) bool { return c.Name == name && c.Type == "maas" })
		return !isPage && slices.Contains(informed, name)
	})
}

// toldOfCertificate are the channels that know that the certificate cannot be renewed, and hear of that again as it comes to its end.
func toldOfCertificate(told []certstore.Told) []string {
	for _, one := range told {
		if one.Topic == topicCertificate && !one.Over {
			return one.To
		}
	}
	return nil
}

// remembered is what was told, without what does not matter any more.
func (t Tellable) remembered(found []finding) []certstore.Told {
	return slices.DeleteFunc(slices.Clone(t.Told), func(one certstore.Told) bool {
		isFound := slices.ContainsFunc(found, func(f finding) bool { return f.topic == one.Topic })
		return !isFound && one.Over && one.Day.IsZero() || !isFound && (one.Over || one.Digest != "") && t.Now.Sub(one.Day) >= day
	})
}

// tell tells of a finding where that was not told, or not as it is now; not those who are informed otherwise.
func (t Tellable) tell(one *certstore.Told, f finding, informed []string) (event notify.Event, to []string, again time.Time) {
	isNew := one.Over
	isOther := one.Kind != string(f.kind) || one.Stage != string(f.stage)
	if f.news != "" {
		isNew, isOther = one.Digest != f.news, false
	}
	isNearer := !isNew && f.step > one.Step
	one.Well = time.Time{}
	if isNew && f.news == "" && t.mayPass(one, f) {
		return event, nil, one.Found.Add(f.patience)
	}
	if !isNew && !isOther && !isNearer {
		one.Step = min(one.Step, f.step)
		event = t.event(f)
		return event, t.tellOthers(one, event, informed), time.Time{}
	}
	if at := promptAt(*one, t.Now); at.After(t.Now) && !isNearer {
		return event, nil, at
	}
	event = t.event(f)
	event.Repeat = isNearer && !isOther
	event = notify.New(event)
	to = without(t.whoWants(event), informed)
	heard := to
	if !isNew { // who heard of it as something else hears that it is over as well
		heard = append(slices.Clone(one.To), without(to, one.To)...)
	}
	one.Kind, one.Stage, one.Target, one.Digest = string(f.kind), string(f.stage), f.target, f.news
	one.Error, one.Detail, one.Found = printable.Phrase(event.Error), printable.Phrase(event.Detail), time.Time{}
	one.At, one.Node, one.To, one.Step, one.Over = t.Now.UTC(), t.Node, heard, f.step, false
	count(one, t.Now)
	return event, to, time.Time{}
}

// mayPass tells whether a trouble was found too lately to be told.
func (t Tellable) mayPass(one *certstore.Told, f finding) bool {
	if f.patience == 0 || f.step > 0 || t.Result.Before.State.ByHand {
		return false
	}
	if one.Found.IsZero() || one.Found.After(t.Now) {
		one.Found = t.Now.UTC()
	}
	return t.Now.Sub(one.Found) < f.patience
}

// promptAt is when a topic may be told, which was told so often within a day.
func promptAt(one certstore.Told, now time.Time) time.Time {
	isLongAgo := now.Sub(one.Day) >= day || one.Day.After(now) || one.At.After(now) // or a clock was ahead
	if isLongAgo || one.Times < promptTellings {
		return time.Time{}
	}
	return one.At.Add(time.Duration(one.Times) * tellingPause)
}

// count counts one more time that a topic was told.
func count(one *certstore.Told, now time.Time) {
	if now.Sub(one.Day) >= day || one.Day.After(now) {
		one.Day, one.Times = now.UTC(), 0
	}
	one.Times++
}

// tellOthers are channels that want to be told of something that lasts and never were: they were configured since.
func (t Tellable) tellOthers(one *certstore.Told, event notify.Event, informed []string) []string {
	if one.Digest != "" {
		return nil
	}
	to := without(without(t.whoWants(event), informed), one.To)
	one.To = append(slices.Clone(one.To), to...)
	return to
}

// recover tells whoever was told of a trouble that it is over. One that was told often lately has to be over for a while.
func (t Tellable) recover(one *certstore.Told) (event notify.Event, to []string, again time.Time) {
	if one.Digest != "" {
		one.Over = true
		return event, nil, time.Time{}
	}
	if one.Well.IsZero() || one.Well.After(t.Now) {
		one.Well = t.Now.UTC()
	}
	if at := one.Well.Add(time.Duration(max(0, one.Times-promptTellings+1)) * tellingPause); at.After(t.Now) {
		return event, nil, at
	}
	event = notify.New(notify.Event{
		At: t.Now, Kind: notify.Recovered, Of: notify.Kind(one.Kind), Node: t.Node, Cert: t.Cert.Name, Target: one.Target, Stage: one.Stage,
		Error: one.Error, Detail: one.Detail, Topic: one.Topic, NotAfter: moment(t.notAfter()),
	})
	to = slices.DeleteFunc(t.whoWants(event), func(name string) bool { return !slices.Contains(one.To, name) })
	one.Over, one.At, one.To, one.Step, one.Well = true, t.Now.UTC(), nil, 0, time.Time{}
	return event, to, time.Time{}
}

// isOver tells whether a trouble that was not found is over: it was looked for, by the host that told of it or in place of one that is
// not there any more.
func (t Tellable) isOver(one certstore.Told) bool {
	state := t.Result.After.State
	if t.Result.After.Blind {
		return false
	}
	switch target, isTarget := strings.CutPrefix(one.Topic, targetTopics); {
	case isTarget:
		at := slices.IndexFunc(state.Targets, func(s TargetState) bool { return s.key() == target })
		if at < 0 {
			return false
		}
		locked := slices.ContainsFunc(t.Result.Troubles, func(trouble Trouble) bool {
			return trouble.Target == state.Targets[at].Name && trouble.Stage == StageLock
		})
		// That a guard does not refuse any more is known where it was asked, or where nothing is left to be done.
		isAsked := one.Stage != string(StageGuard) || t.Result.Deployed[state.Targets[at].Name] || t.Result.Healthy()
		return !locked && isAsked && t.speaksFor(one.Node)
	case strings.HasPrefix(one.Topic, hostTopics):
		return t.Hosts && !state.NodesUnknown
	case one.Topic == topicCertificate:
		isUnseen := slices.ContainsFunc(t.Result.Troubles, func(trouble Trouble) bool { return trouble.Target == "" && trouble.Stage == StageLock })
		renewed := state.Current != nil && state.Current.Created.After(one.At)
		return !isUnseen && (renewed || t.speaksFor(one.Node))
	case one.Topic == topicRehearsal:
		r := state.Record.Rehearsal
		return r == nil || r.Failed.IsZero() || r.Proven
	case one.Topic == topicExpiry:
		return state.Current != nil
	case one.Topic == topicConfig, strings.HasPrefix(one.Topic, notifierTopics):
		return t.Here != nil && one.Node == t.Node
	default:
		return true
	}
}

// isForgotten tells whether a topic is of a host that left without a word, which is not to say that it is well.
func (t Tellable) isForgotten(one certstore.Told) bool {
	host, isHost := strings.CutPrefix(one.Topic, hostTopics)
	return isHost && !slices.ContainsFunc(t.Result.After.State.Nodes, func(n certstore.Node) bool { return n.Node == host })
}

// speaksFor tells whether this host may say that what another one told is over: where that one is silent.
func (t Tellable) speaksFor(node string) bool {
	if node == t.Node || t.Result.After.State.NodesUnknown {
		return node == t.Node
	}
	return !slices.ContainsFunc(t.Result.After.State.Nodes, func(n certstore.Node) bool {
		return n.Node == node && t.Now.Sub(n.LastPass) < max(t.Silence, day)
	})
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
		return found
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
			topic: topicConfig, kind: notify.Failed, stage: StageConfig, err: printable.Error(err), hint: "the configuration before it is in force until the daemon is started anew: mend the file, then systemctl reload maascert", notAfter: t.notAfter(),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(t.Here.Silent)) {
		err := t.Here.Silent[name]
		found = append(found, finding{
			topic: notifierTopics + name, kind: notify.Failed, stage: StageNotify, err: name + ": " + printable.Error(err), hint: cmp.Or(hint.Of(err), "maascert notify test"), notAfter: t.notAfter(),
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
	if acme.IsOutage(worst.Err) {
		found.patience = t.patience(outagePatience)
	}
	if next := t.Result.After.Plan.Wait; next.After(t.Now) {
		found.detail = "it is tried again at " + next.UTC().Format("2006-01-02 15:04 UTC")
	}
	return []finding{t.step(found, t.notAfter())}
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
		isDue, found.hint = !byLifetime(state.leaf()).After(t.Now), "maascert deploy --cert FILE --key FILE"
	}
	if found.step < 2 && !(isDue && (found.step == 1 || state.Watched)) {
		return nil
	}
	if len(wrong) > 0 {
		found.err, found.hint = wrong[0].err, wrong[0].hint
	}
	return []finding{found}
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
		if isSelf || node.LastRun.IsZero() || t.Now.Sub(node.LastPass) < t.Silence {
			continue
		}
		found = append(found, t.step(finding{
			topic: hostTopics + node.Node, kind: notify.Silent, hint: "systemctl status maascert, there",
			detail: fmt.Sprintf("The host %s has made no pass since %s", printable.Phrase(node.Node), node.LastPass.UTC().Format("2006-01-02 15:04 UTC")),
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

// event is a finding as it is told.
func (t Tellable) event(f finding) notify.Event {
	return notify.New(notify.Event{
		At: t.Now, Kind: f.kind, Node: t.Node, Cert: t.Cert.Name, Target: f.target, Stage: string(f.stage), Error: f.err, Hint: f.hint, Detail: f.detail,
		Topic: f.topic, NotAfter: moment(f.notAfter), Over: strings.HasPrefix(f.topic, mendedTopics),
	})
}

func moment(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// whoWants are the names of the channels that an event is for.
func (t Tellable) whoWants(event notify.Event) []string {
	var names []string
	for _, channel := range t.Channels {
		if channel.Wants(event) {
			names = append(names, channel.Name)
		}
	}
	return names
}

// without are names that are not among others.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

// WithoutActs are results of which is known already what was done.
func WithoutActs(results []Result) []Result {
	seen := slices.Clone(results)
	for i := range seen {
		seen[i].Obtained, seen[i].Deployed, seen[i].Revoked = false, nil, nil
	}
	return seen
}
