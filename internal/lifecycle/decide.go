// Package lifecycle keeps certificates alive: it looks, decides and acts.
//
// Only looking reads the world, only acting changes it, and deciding is a pure function of what was seen, so that what
// maascert does can be read in one place: Decide. It promises that an attempt is written down before it is made, that a
// decision is made again under the lock, that a certificate which the CA issued is never lost, and that one
// certificate's failure does not stop another's.
package lifecycle

import (
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/maasconfig"
)

// Reason is why a certificate is, or is not, ordered.
type Reason string

// The reasons, in the order in which they are asked; the first that applies wins.
const (
	Forced         Reason = "forced"
	Missing        Reason = "missing"
	NamesChanged   Reason = "names_changed"
	KeyTypeChanged Reason = "key_type_changed"
	IssuerChanged  Reason = "issuer_changed"
	ProfileChanged Reason = "profile_changed"
	Revoked        Reason = "revoked"
	Expired        Reason = "expired"
	Emergency      Reason = "emergency"
	Held           Reason = "held"
	ARI            Reason = "ari"
	Lifetime       Reason = "lifetime"
	Foreign        Reason = "foreign"
	Fresh          Reason = "fresh"
)

// State is all that a decision may depend on.
type State struct {
	Now     time.Time
	Node    string
	Wish    certstore.Wish // of this host's configuration
	Record  certstore.Record
	Current *certstore.Version // the version in use; nil for none
	Known   map[string]int     // fingerprints of all versions kept
	Window  *acme.Window       // nil when the CA has none or could not be asked
	Targets []TargetState
	Force   bool
	Hidden  bool // the public copy of the current version is not there
}

// TargetState is what a target's endpoints serve, compared with the version in use.
type TargetState struct {
	Name      string
	Endpoints []maasconfig.Endpoint
}

// Plan is what to do, why, and when that changes.
type Plan struct {
	Why     Reason
	Obtain  bool
	Wait    time.Time      // an order is due but held back until then
	Wish    certstore.Wish // what is ordered
	Differ  bool           // this host's configuration asks for something else than the deployment follows
	Deploy  []string       // targets that are to be told
	Stuck   []string       // targets that are not told again although they serve something else
	Settle  bool           // nothing to do but to write down what was seen
	RenewAt time.Time      // when an order gets due by time
	Next    time.Time      // when to look again, if earlier than the schedule; zero for no such time
}

// IsWork tells whether the plan changes anything.
func (p Plan) IsWork() bool { return p.Obtain || len(p.Deploy) > 0 || p.Settle }

// A certificate's reasons to be ordered, and not to be.
var rules = []struct {
	reason  Reason
	applies func(State, certstore.Wish) bool
	orders  bool
}{
	{Forced, func(s State, _ certstore.Wish) bool { return s.Force }, true},
	{Missing, func(s State, _ certstore.Wish) bool { return s.Current == nil }, true},
	{NamesChanged, func(s State, w certstore.Wish) bool { return !sameNames(s.leaf(), w.Names) }, true},
	{KeyTypeChanged, func(s State, w certstore.Wish) bool { return s.Current.Bundle.KeyType() != w.KeyType }, true},
	{IssuerChanged, func(s State, w certstore.Wish) bool { return s.Current.Directory != w.Directory }, true},
	{ProfileChanged, func(s State, w certstore.Wish) bool { return s.Current.Profile != w.Profile }, true},
	{Expired, func(s State, _ certstore.Wish) bool { return !s.leaf().NotAfter.After(s.Now) }, true},
	{Revoked, func(s State, _ certstore.Wish) bool {
		return s.Record.Revocation(s.Current.Number) != nil || s.isRevokedByCA()
	}, true},
	{Emergency, func(s State, _ certstore.Wish) bool { return s.isGrown() && !emergency(s.leaf()).After(s.Now) }, true},
	{Held, func(s State, _ certstore.Wish) bool { return s.Record.HeldUntil.After(s.Now) }, false},
	{ARI, func(s State, _ certstore.Wish) bool {
		return s.isGrown() && s.Window != nil && !s.Window.Moment().After(s.Now)
	}, true},
	{Lifetime, func(s State, _ certstore.Wish) bool { return s.Window == nil && !byLifetime(s.leaf()).After(s.Now) }, true},
	{Foreign, func(s State, w certstore.Wish) bool {
		return slices.ContainsFunc(s.Targets, func(t TargetState) bool { return s.isForeign(t, w) })
	}, false},
	{Fresh, func(State, certstore.Wish) bool { return true }, false},
}

// isRevokedByCA tells whether the CA says that the version in use has to go at once.
func (s State) isRevokedByCA() bool {
	return s.isGrown() && s.Window != nil && !s.Window.End.After(s.Now)
}

// isRevoked tells whether nobody should be served the version in use any more. One that is about to be revoked is better
// than none, and so is one whose window has passed: that may be because nobody looked in time.
func (s State) isRevoked() bool {
	if s.Current == nil {
		return false
	}
	r := s.Record.Revocation(s.Current.Number)
	return r != nil && !r.Done.IsZero()
}

// toRevoke are the versions that are to be revoked now, because every target serves another one.
func (s State) toRevoke() []certstore.Revocation {
	if s.Current == nil || slices.ContainsFunc(s.Targets, func(t TargetState) bool { return !maasconfig.Serving(t.Endpoints) }) {
		return nil
	}
	var now []certstore.Revocation
	for _, r := range s.Record.Revocations {
		expired := !r.Expires.IsZero() && !r.Expires.After(s.Now)
		if r.Version != s.Current.Number && r.Done.IsZero() && (r.Refused == "" || expired) {
			now = append(now, r)
		}
	}
	return now
}

// Decide says what to do. It reads nothing but the state.
func Decide(s State) Plan {
	var p Plan
	p.Wish, p.Differ = s.wish()
	for _, rule := range rules {
		if rule.applies(s, p.Wish) {
			p.Why, p.Obtain = rule.reason, rule.orders
			break
		}
	}
	if why, cut := s.cutOff(p.Wish); cut && !p.Obtain {
		p.Why, p.Obtain = why, true
	}
	if wait := s.backOff(); p.Obtain && wait.After(s.Now) {
		p.Obtain, p.Wait = false, wait
	}
	p.RenewAt = s.renewAt()
	if !p.Obtain && s.Current != nil {
		for _, t := range s.Targets {
			switch s.decideTarget(t, p.Wish) {
			case tell:
				p.Deploy = append(p.Deploy, t.Name)
			case settle:
				p.Settle = true
			case giveUp:
				p.Stuck = append(p.Stuck, t.Name)
			case leave:
			}
		}
	}
	if !p.Obtain && p.Wait.IsZero() && (s.Record.Attempt != nil || s.Record.Order != nil) {
		p.Settle = true
	}
	p.Settle = p.Settle || !p.Obtain && (len(s.Record.Answers) > 0 || len(s.toRevoke()) > 0)
	p.Settle = p.Settle || s.Hidden && s.Current != nil && !p.Obtain
	p.Next = s.next(p)
	return p
}

// cutOff tells whether a run was killed while it ordered what is still wished: it is taken up again at once, because the
// certificate may have been issued already.
func (s State) cutOff(wish certstore.Wish) (Reason, bool) {
	attempt, order := s.Record.Attempt, s.Record.Order
	if attempt == nil || order == nil || order.Directory != wish.Directory || order.KeyType != wish.KeyType || order.Profile != wish.Profile || !equalNames(order.Names, wish.Names) {
		return "", false
	}
	return Reason(attempt.Why), true
}

func equalNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// isGrown tells whether the current version is old enough for a word about its time to lead to another one: a CA that
// gives the same bad word for each new certificate must not get an order a minute.
func (s State) isGrown() bool { return !s.Now.Before(s.grownAt()) }

func (s State) grownAt() time.Time {
	return s.Current.Created.Add(min(lifetime(s.leaf())/20, 6*time.Hour))
}

// wish is what the deployment follows. A host follows its own configuration when that is new; where another host's was
// followed since, it differs and follows that, so that two hosts never order against each other.
func (s State) wish() (_ certstore.Wish, differs bool) {
	own := s.Wish.Hash()
	if s.Record.Wish == nil || own == s.Record.WishHash || s.Record.Published[s.Node] != own {
		return s.Wish, false
	}
	return *s.Record.Wish, true
}

// backOff is until when no order is made. Our own ladder does not count for a forced order or a new wish; the CA's word
// always does.
func (s State) backOff() time.Time {
	var wait time.Time
	if r := s.Record; r.Wish != nil && r.Wish.Directory == s.Wish.Directory && r.RetryAfter.Before(s.Now.Add(longestRetryAfter+time.Hour)) {
		wait = r.RetryAfter // the word of this CA, unless it was written down by a clock that was wrong
	}
	isNew := s.Record.WishHash != "" && s.Wish.Hash() != s.Record.WishHash && s.Record.Published[s.Node] != s.Wish.Hash()
	sane := s.Record.NextAttempt.Before(s.Now.Add(ladder[len(ladder)-1] + time.Hour))
	if !s.Force && !isNew && sane && s.Record.NextAttempt.After(wait) {
		wait = s.Record.NextAttempt
	}
	return wait
}

// longestRetryAfter is how long a CA's Retry-After is obeyed at the most.
const longestRetryAfter = 7 * 24 * time.Hour

func (s State) leaf() *x509.Certificate { return s.Current.Bundle.Leaf() }

func sameNames(leaf *x509.Certificate, names []string) bool {
	return equalNames(certstore.CertificateNames(leaf), names)
}

func lifetime(leaf *x509.Certificate) time.Duration { return leaf.NotAfter.Sub(leaf.NotBefore) }

// emergency is when a tenth of the lifetime is left: from then on neither the CA's window nor a hold counts.
func emergency(leaf *x509.Certificate) time.Time { return leaf.NotAfter.Add(-lifetime(leaf) / 10) }

// shortLived is the lifetime up to which half of it, instead of two thirds, may pass before a renewal.
const shortLived = 10 * 24 * time.Hour

// byLifetime is when to renew where the CA suggests no time.
func byLifetime(leaf *x509.Certificate) time.Time {
	if life := lifetime(leaf); life > shortLived {
		return leaf.NotBefore.Add(life / 3 * 2)
	}
	return leaf.NotBefore.Add(lifetime(leaf) / 2)
}

func (s State) renewAt() time.Time {
	if s.Current == nil {
		return time.Time{}
	}
	at := byLifetime(s.leaf())
	if s.Window != nil {
		at = s.Window.Moment()
	}
	if s.Record.HeldUntil.After(at) {
		at = s.Record.HeldUntil
	}
	if last := emergency(s.leaf()); at.After(last) {
		at = last
	}
	if grown := s.grownAt(); at.Before(grown) {
		at = grown
	}
	return at
}

// next is the earliest future moment at which the plan may change by itself.
func (s State) next(p Plan) time.Time {
	moments := []time.Time{p.RenewAt, p.Wait}
	if s.Window != nil {
		moments = append(moments, s.Window.AskAgain)
	}
	for _, t := range s.Targets {
		if !maasconfig.Serving(t.Endpoints) {
			moments = append(moments, lookAgain(s.Record.Deployments[t.Name].Since, s.Now))
		}
	}
	var first time.Time
	for _, at := range moments {
		if at.After(s.Now) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// lookAgain is the next of the moments at which a deployment that failed is looked at, after which the schedule does.
func lookAgain(since, now time.Time) time.Time {
	if since.IsZero() {
		return time.Time{}
	}
	for _, after := range looks {
		if at := since.Add(after); at.After(now) {
			return at
		}
	}
	return time.Time{}
}

// looks are the moments, after a failure, at which what failed is looked at again.
var looks = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// What to do about a target.
type action int

const (
	leave  action = iota // it serves the version, or there is nothing to be done about it now
	tell                 // deploy
	settle               // it serves the version, which is not written down yet
	giveUp               // it was told often enough
)

const (
	// maxCalls is how often MAAS is told of one version for one set of laggards: each time every region's proxy reloads.
	maxCalls = 2
	// maxRollbacks is how often a version may be taken back before it is left alone.
	maxRollbacks = 2
)

func (s State) decideTarget(t TargetState, wish certstore.Wish) action {
	d := s.Record.Deployments[t.Name]
	current := s.Current.Number
	switch {
	case maasconfig.Serving(t.Endpoints):
		if d.Verified != current || len(d.Laggards) > 0 {
			return settle
		}
		return leave
	case s.isForeign(t, wish):
		return leave
	case d.Version == current && d.RolledBack >= maxRollbacks:
		return giveUp
	case d.Verified == current && onlyUnknown(t.Endpoints):
		return leave // being unreachable proves nothing, and it did serve the version
	case callsLeft(d, t.Endpoints, current, s.Now) > 0:
		return tell
	default:
		return giveUp
	}
}

// callsLeft is how often a target may still be told of a version. A trouble that was not there when it was told last
// starts the count anew, but not within the hour: whoever stands between us and an endpoint could change its answer all
// the time. Calls after which nobody looked, because the run was killed, do not use up the last one.
func callsLeft(d certstore.Deployment, endpoints []maasconfig.Endpoint, version int, now time.Time) int {
	switch {
	case d.Version != version, isNewTrouble(d, endpoints) && !now.Before(d.Told.Add(time.Hour)):
		return maxCalls
	case d.Laggards == nil:
		return max(1, maxCalls-d.Calls)
	default:
		return max(0, maxCalls-d.Calls)
	}
}

func isNewTrouble(d certstore.Deployment, endpoints []maasconfig.Endpoint) bool {
	if d.Laggards == nil {
		return false
	}
	return slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool {
		return !e.IsServing() && e.State != maasconfig.Unknown && d.Laggards[e.Address] != e.Answer()
	})
}

// laggards are the endpoints that do not serve the version, with what they answered.
func laggards(endpoints []maasconfig.Endpoint) map[string]string {
	lagging := map[string]string{}
	for _, e := range endpoints {
		if !e.IsServing() {
			lagging[e.Address] = e.Answer()
		}
	}
	return lagging
}

func onlyUnknown(endpoints []maasconfig.Endpoint) bool {
	return !slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool {
		return !e.IsServing() && e.State != maasconfig.Unknown
	})
}

// isForeign tells whether somebody else put a good certificate in the place of ours: an emergency fix, or another tool.
// It is told, and left until an order is due. Anything worse than good is replaced at once.
func (s State) isForeign(t TargetState, wish certstore.Wish) bool {
	if s.Record.Deployments[t.Name].Verified != s.Current.Number || len(t.Endpoints) == 0 {
		return false // ours has yet to be brought there, which is what makes the other one replaceable
	}
	first := t.Endpoints[0].Fingerprint()
	for _, e := range t.Endpoints {
		_, ours := s.Known[e.Fingerprint()]
		if e.State != maasconfig.Other || e.Chain != maasconfig.Complete || ours || e.Fingerprint() != first ||
			!emergency(e.Certs[0]).After(s.Now) || !coversAll(certstore.CertificateNames(e.Certs[0]), wish.Names) {
			return false
		}
	}
	return true
}

func coversAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(have, name) })
}

// ladder is how long to wait after the n-th failure in a row, from the CAs' own advice.
var ladder = []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, 24 * time.Hour}

// backOff is how long to wait after failures in a row: the ladder, but no longer than a twentieth of the lifetime of
// the certificate that is at stake (0: unknown), and no less than ten seconds.
func backOff(failures int, life time.Duration) time.Duration {
	wait := ladder[min(max(failures, 1), len(ladder))-1]
	if life > 0 {
		wait = min(wait, life/20)
	}
	return max(wait, 10*time.Second)
}

// CertState sums a certificate up in one word.
type CertState string

// The states, in the order in which they are asked; the first that applies wins.
const (
	StateExpired  CertState = "expired"
	StateMissing  CertState = "missing"
	StateFailed   CertState = "failed"   // needs a person
	StateWaiting  CertState = "waiting"  // will be tried again
	StateDegraded CertState = "degraded" // not every endpoint serves it
	StateHeld     CertState = "held"
	StateDue      CertState = "due"
	StateOK       CertState = "ok"
)

// IsHealthy tells whether the state is as it should be.
func (c CertState) IsHealthy() bool { return c == StateOK || c == StateDue || c == StateHeld }

// refusedRevocation tells whether a CA does not revoke what somebody wants revoked.
func refusedRevocation(s State) bool {
	return slices.ContainsFunc(s.Record.Revocations, func(r certstore.Revocation) bool { return r.Refused != "" })
}

// Summary is the state of a certificate, given what was decided.
func Summary(s State, p Plan) CertState {
	last := certstore.Attempt{}
	if n := len(s.Record.Attempts); n > 0 {
		last = s.Record.Attempts[n-1]
	}
	serving := !slices.ContainsFunc(s.Targets, func(t TargetState) bool { return !maasconfig.Serving(t.Endpoints) })
	rolledBack := slices.ContainsFunc(slices.Collect(maps.Values(s.Record.Deployments)), func(d certstore.Deployment) bool {
		return s.Current != nil && d.Version == s.Current.Number && d.RolledBack >= maxRollbacks
	})
	switch {
	case s.Current != nil && !s.leaf().NotAfter.After(s.Now):
		return StateExpired
	case s.Current == nil:
		return StateMissing
	case last.Error != "" && last.Stage == string(StageGuard) && p.IsWork(), rolledBack && !serving, refusedRevocation(s):
		return StateFailed
	case !p.Wait.IsZero(), s.Record.Failures > 0 && p.Obtain, last.Error != "" && last.Stage == string(StageDeploy) && !serving:
		return StateWaiting
	case !serving:
		return StateDegraded
	case s.Record.PendingRevocation() != nil:
		return StateWaiting
	case p.Why == Held:
		return StateHeld
	case p.Obtain:
		return StateDue
	default:
		return StateOK
	}
}
