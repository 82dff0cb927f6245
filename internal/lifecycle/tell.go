package lifecycle

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/printable"
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
	targetTopics     = "target/"   // and the name under which the record remembers the target
	configTopics     = "config/"   // and the host's name
	hostTopics       = "host/"     // and the host's name
	notifierTopics   = "notifier/" // and the host's name and its own: one that cannot be told
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
	Hosts    bool  // silent hosts are told of with this certificate
	Here     *Here // of the daemon of this host, told of with this certificate; nil: nothing is known of it
	ActsOnly bool  // the pass was cut off: what it did is known, and what it found is not
	Silence  Silence
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
	// mostTold bounds the topics that are remembered.
	mostTold = 100
)

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
	case strings.HasPrefix(one.Topic, configTopics), strings.HasPrefix(one.Topic, notifierTopics):
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
		return n.Node == node && t.Now.Sub(n.LastPass) < max(t.Silence.Of(n), day)
	})
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
