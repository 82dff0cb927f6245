// Package lifecycle keeps certificates alive: it looks, decides and acts.
//
// Only looking reads the world, only acting changes it, and deciding is a pure function of what was seen, so that what
// maascert does can be read in one place: Decide. It promises that an attempt is written down before it is made, that a
// decision is made again under the lock, that a certificate which the CA issued is never lost, and that one
// certificate's failure does not stop another's.
//
// Start reading at [Decide], then [Engine.Pass], which looks, decides and acts, and [Daemon.Run], which says when.
package lifecycle

import (
	"cmp"
	"crypto/x509"
	"slices"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/maasconfig"
)

// Reason explains why a certificate is, or is not, ordered.
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
	Now          time.Time
	Node         string
	Wish         certstore.Wish // of this host's configuration
	Said         string         // hash of what this host wished at its last pass; empty: it made none
	Record       certstore.Record
	Current      *certstore.Version               // the version in use; nil for none
	Known        map[string]certstore.VersionInfo // all versions kept, by fingerprint
	Window       *acme.Window                     // nil when the CA has none or could not be asked
	Suggested    *certstore.Suggestion            // the CA's answer that Window is from; nil when it could not be asked, or is not this CA's
	Targets      []TargetState
	Force        bool
	ByHand       bool   // a person asked for this pass
	TakeBack     bool   // a person wants ours served where somebody put a good certificate of his own
	Means        string // hash of this host's configuration of CA and challenges
	Timing       Timing
	Period       time.Duration        // between two passes of the schedule; 0: unknown
	Unpublished  bool                 // the public copy of the current version is not there
	Nodes        []certstore.Node     // what hosts said of their last pass
	NodesUnknown bool                 // what hosts said could not be read
	Latest       certstore.Seen       // the newest version that any host ever saw, in the store or not
	Unindexed    bool                 // the record does not list the versions that there are
	Watched      bool                 // no CA is configured: a person brings in the next certificate
	Rollover     bool                 // the account's key is being replaced, and not every CA has the new one
	Keys         error                // why private keys that are kept apart can be neither put nor had now; nil: they can
	Account      error                // why the ACME account cannot be used as it is; nil: it can, or there is none yet
	Found        maasconfig.Found     // where the wish has a rule: the names that it leads to now
	Reissue      bool                 // another certificate is ordered when it leads to more names
	LoseNames    bool                 // somebody accepts that names are lost to which it does not lead any more
	LoseKeys     bool                 // somebody accepts that keys are lost which are not where they are kept, however young they are
	Started      time.Time            // when the program did; zero: nobody knows
	Began        time.Time            // when the pass did, or the look that is none
	Root         *x509.Certificate    // that clients verify the version in use with; nil: they do not
	Broken       []maasconfig.Profile // that refuse it because they pin a former root
}

// TargetState compares what a target's endpoints serve with the version in use.
type TargetState struct {
	Name      string
	Key       string // under which the record remembers it, where that is not the name: a host's own are "NAME.at.NODE"
	Endpoints []maasconfig.Endpoint
	Unsure    error // why there may be endpoints that were not found; nil: all were
	NoList    bool  // MAAS could not be asked which regions there are
	Unlisted  error // regions of MAAS's that are no endpoint although endpoints are configured; nil: none is known
}

func (t TargetState) key() string { return cmp.Or(t.Key, t.Name) }

// Plan says what to do, why, and when that changes.
type Plan struct {
	Why          Reason
	Obtain       bool
	fetchOnly    bool                  // nothing is due, but a run was cut off to which the CA may have issued a certificate
	Wait         time.Time             // an order is due but held back until then
	Wish         certstore.Wish        // what is ordered, but for names that only its rule leads to
	Names        []string              // of the next certificate
	Discovered   *certstore.Discovered // what is to be remembered of the rule's names while there is no such certificate
	adopted      *certstore.Discovered // and once there is one
	publishes    bool                  // this host wishes something new that needs no order: the others are to follow it
	Roots        []certstore.Root      // to be remembered
	Unnamed      error                 // why the names are not known yet, so that nothing is ordered; nil: they are
	Differ       bool                  // this host's configuration asks for something else than the deployment follows
	Deploy       []string              // targets that are to be told
	Stuck        []string              // targets that are not told again although they serve something else
	Needs        bool                  // a person has to bring in another certificate now
	Housekeeping bool                  // nothing to do but to write down what was seen
	RenewAt      time.Time             // when an order gets due by time
	Next         time.Time             // when to look again, if earlier than the schedule; zero for no such time
	again        time.Time             // when a target may be told again that was told often enough for now
}

// IsWork tells whether the plan changes anything.
func (p Plan) IsWork() bool { return p.Obtain || len(p.Deploy) > 0 || p.Housekeeping }

// A certificate's reasons to be ordered, and not to be.
var rules = []struct {
	reason  Reason
	applies func(State, certstore.Wish) bool
	orders  bool
}{
	{Forced, func(s State, _ certstore.Wish) bool { return s.Force && !s.Watched }, true},
	{Missing, func(s State, _ certstore.Wish) bool { return s.Current == nil }, true},
	{NamesChanged, func(s State, w certstore.Wish) bool { return !s.isPinned() && !sameNames(s.leaf(), w.Names) }, true},
	{KeyTypeChanged, func(s State, w certstore.Wish) bool { return !s.isPinned() && s.Current.Bundle.KeyType() != w.KeyType }, true},
	{IssuerChanged, func(s State, w certstore.Wish) bool {
		return !s.isPinned() && !s.Watched && s.Current.Directory != w.Directory
	}, true},
	{ProfileChanged, func(s State, w certstore.Wish) bool {
		return !s.isPinned() && !s.Watched && s.Current.Profile != w.Profile
	}, true},
	{Foreign, func(s State, _ certstore.Wish) bool { return s.isRestored() }, false},
	{Expired, func(s State, _ certstore.Wish) bool { return !s.leaf().NotAfter.After(s.Now) }, true},
	{Revoked, func(s State, _ certstore.Wish) bool { return s.Record.Revocation(s.Current.Number) != nil }, true},
	{Emergency, func(s State, _ certstore.Wish) bool { return s.isLate() }, true},
	{ARI, func(s State, _ certstore.Wish) bool {
		// One that had passed already when a person went back to this version says nothing new.
		isOld := s.isPinned() && s.Window != nil && !s.Window.End.After(s.Record.PinnedAt)
		return s.isReplaceable() && s.Window != nil && (s.isRecalled() || s.mayRenew(s.Window.End)) && !isOld
	}, true},
	{Held, func(s State, _ certstore.Wish) bool { return s.Record.HeldUntil.After(s.Now) }, false},
	{ARI, func(s State, _ certstore.Wish) bool {
		return s.isReplaceable() && s.Window != nil && s.mayRenew(s.Window.Moment())
	}, true},
	{Lifetime, func(s State, _ certstore.Wish) bool {
		return s.isReplaceable() && s.Window == nil && s.mayRenew(s.dueByLifetime())
	}, true},
	{Foreign, func(s State, w certstore.Wish) bool {
		return slices.ContainsFunc(s.Targets, func(t TargetState) bool { return s.isForeign(t, w) })
	}, false},
	{Fresh, func(State, certstore.Wish) bool { return true }, false},
}

// isPinned tells whether a person made the version in use so, and this host's configuration has not changed since: then it counts as
// what is wished.
func (s State) isPinned() bool {
	published, ok := s.Record.WishByHost[s.Node]
	own := s.Wish.Hash()
	return s.Current != nil && s.Record.Pinned == s.Current.Number && (!ok || published == own || own == s.Record.WishHash)
}

// isRevoked tells whether the version in use is revoked: somebody asked for it, and the CA did it. One that is yet to be
// revoked is better than none.
func (s State) isRevoked() bool {
	if s.Current == nil {
		return false
	}
	r := s.Record.Revocation(s.Current.Number)
	return r != nil && !r.Done.IsZero()
}

// toRevoke are the versions that are to be revoked now, because every target serves another one.
func (s State) toRevoke() []certstore.Revocation {
	// Where regions may be that were not found, nobody knows what they serve.
	if s.Current == nil || slices.ContainsFunc(s.Targets, func(t TargetState) bool { return t.Unsure != nil || !maasconfig.Serving(t.Endpoints) }) {
		return nil
	}
	var now []certstore.Revocation
	for _, r := range s.Record.Revocations {
		expired := !r.Expires.IsZero() && !r.Expires.After(s.Now)
		if !expired && s.isServedElsewhere(r.Version) {
			continue
		}
		if r.Version != s.Current.Number && r.Done.IsZero() && (r.Refused == "" || expired) {
			now = append(now, r)
		}
	}
	return now
}

// isServedElsewhere tells whether another host's own target was last seen to serve a version, as long as that host has the
// target and says so.
func (s State) isServedElsewhere(version int) bool {
	for _, node := range s.Nodes {
		for _, target := range node.Targets {
			d, ok := s.Record.Deployments[target.Name+".at."+node.Node]
			if node.Node != s.Node && ok && d.Verified == version {
				return true
			}
		}
	}
	return false
}

// Decide says what to do. It reads nothing but the state.
func Decide(s State) Plan {
	var p Plan
	p.Wish, p.Differ = s.wish()
	p.settleNames(s)
	wanted := p.wanted()
	if s.Watched {
		p.Obtain, p.Needs = false, p.Obtain && p.Why != Lifetime
	}
	if why, cut := s.cutOff(wanted); cut && !p.Obtain && !s.Watched {
		p.Why, p.Obtain, p.fetchOnly = why, true, true
	}
	if wait := s.backOff(); p.Obtain && wait.After(s.Now) {
		p.Obtain, p.Wait = false, wait
	}
	p.RenewAt = s.renewAt()
	if !p.Obtain && s.Current != nil {
		for _, t := range s.Targets {
			what, again := s.decideTarget(t, wanted)
			p.again = earlier(p.again, again)
			switch what {
			case tell:
				p.Deploy = append(p.Deploy, t.Name)
			case writeDown:
				p.Housekeeping = true
			case giveUp:
				p.Stuck = append(p.Stuck, t.Name)
			case leave:
			}
			p.Housekeeping = p.Housekeeping || !t.NoList && !t.remembersRegions(s.Record.Deployments[t.key()], s.Began)
		}
	}
	if p.Unnamed != nil && s.Current == nil {
		p.Obtain = false
	}
	p.Roots = s.roots()
	p.publishes = !p.Obtain && s.Current != nil && !s.Watched && !s.isPinned() && !p.Differ && s.Record.Wish != nil && s.isNewWish()
	p.Housekeeping = p.Housekeeping || p.publishes
	remembers := sameDiscovered(p.Discovered, s.Record.Discovered) && sameRoots(p.Roots, s.Record.Roots) && sameMoments(s.doubts(), s.Record.Doubts)
	p.Housekeeping = p.Housekeeping || !p.Obtain && !remembers
	if !p.Obtain && p.Wait.IsZero() && (s.Record.Attempt != nil || s.Record.Order != nil) {
		p.Housekeeping = true
	}
	p.Housekeeping = p.Housekeeping || !p.Obtain && (len(s.Record.Answers) > 0 || len(s.toRevoke()) > 0)
	p.Housekeeping = p.Housekeeping || s.Unindexed && !p.Obtain
	p.Housekeeping = p.Housekeeping || s.isUnpublished() && !p.Obtain
	p.Next = s.next(p)
	return p
}

// reason is the first rule that applies to a certificate as it is wanted, and whether it orders another.
func (s State) reason(wanted certstore.Wish) (Reason, bool) {
	for _, rule := range rules {
		if rule.applies(s, wanted) {
			return rule.reason, rule.orders
		}
	}
	return Fresh, false
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

// isReplaceable tells whether the current version is old enough for a word about its time to lead to another one: a CA that
// gives the same bad word for each new certificate, or a clock that is hours ahead, must not make an order a minute.
func (s State) isReplaceable() bool { return !s.Now.Before(s.replaceableAt()) }

// replaceableAt never lies behind the emergency: a version that a clock which was ahead made, or a CA whose clock is behind,
// is not too young to be replaced before it ends.
func (s State) replaceableAt() time.Time {
	created := s.Current.Created
	if created.After(s.Now) {
		created = s.Now
	}
	grown := created.Add(min(lifetime(s.leaf())/20, 6*time.Hour))
	if last := emergency(s.leaf()); grown.After(last) {
		return last
	}
	return grown
}

// wish returns the wish that the deployment follows. A host follows its own configuration when that is new; where another
// host's was followed since, it differs and follows that, so that two hosts never order against each other.
func (s State) wish() (_ certstore.Wish, differs bool) {
	own := s.Wish.Hash()
	if s.Record.Wish == nil || own == s.Record.WishHash || s.said() != own {
		return s.Wish, false
	}
	return *s.Record.Wish, true
}

// said is the hash of what this host was last known to wish: as the record has it, or, where this host never had to do anything, as its own
// document does; empty where it is new here.
func (s State) said() string { return cmp.Or(s.Record.WishByHost[s.Node], s.Said) }

// longestRetryAfter bounds the obedience to a CA's Retry-After.
const longestRetryAfter = 7 * 24 * time.Hour

func (s State) leaf() *x509.Certificate { return s.Current.Bundle.Leaf() }

func sameNames(leaf *x509.Certificate, names []string) bool {
	return equalNames(certstore.CertificateNames(leaf), names)
}

func (s State) renewAt() time.Time {
	if s.Current == nil {
		return time.Time{}
	}
	if s.isRestored() {
		return s.Timing.dueAt(s.Latest.NotBefore, s.Latest.NotAfter)
	}
	at := s.dueByTime()
	if s.Record.HeldUntil.After(at) {
		at = s.Record.HeldUntil
	}
	if grown := s.replaceableAt(); at.Before(grown) {
		at = grown
	}
	if !s.isRecalled() {
		at = s.opensAt(at)
	}
	if last := emergency(s.leaf()); at.After(last) {
		at = last
	}
	return at
}

// next is the earliest future moment at which the plan may change by itself, or at which to look at the latest.
func (s State) next(p Plan) time.Time {
	moments := []time.Time{p.RenewAt, p.Wait, p.again, s.latestLook()}
	if s.Current != nil {
		moments = append(moments, emergency(s.leaf()))
	}
	if s.Window != nil {
		moments = append(moments, s.Window.AskAgain.Add(s.asksAfter()))
	}
	moments = append(moments, s.secondLook(p.Discovered))
	for _, t := range s.Targets {
		if slices.ContainsFunc(t.Endpoints, func(e maasconfig.Endpoint) bool { return e.Unlisted }) {
			moments = append(moments, s.Now.Add(secondLookAfter))
		}
		if !maasconfig.Serving(t.Endpoints) {
			moments = append(moments, lookAgain(s.Record.Deployments[t.key()].Since, s.Now))
		}
	}
	var first time.Time
	for _, at := range moments {
		if at.After(s.Now) {
			first = earlier(first, at)
		}
	}
	return first
}

// What to do about a target.
type action int

const (
	leave     action = iota // it serves the version, or there is nothing to be done about it now
	tell                    // deploy
	writeDown               // it serves the version, which is not written down yet
	giveUp                  // it was told often enough
)

func (s State) decideTarget(t TargetState, wish certstore.Wish) (what action, again time.Time) {
	d := s.Record.Deployments[t.key()]
	current := s.Current.Number
	switch {
	case maasconfig.Serving(t.Endpoints):
		if d.Verified != current || len(d.Laggards) > 0 || d.Failure != nil || d.Port != commonPort(t.Endpoints) {
			return writeDown, again
		}
		return leave, again
	case s.isForeign(t, wish), s.keepsLost(t):
		return leave, again
	case d.Verified == current && onlyUnknown(t.Endpoints):
		return leave, again // being unreachable proves nothing, and it did serve the version
	}
	left, again := s.tries(t)
	if left > 0 {
		return tell, again
	}
	return giveUp, again
}

// commonPort is the one that all of some endpoints are on; 0 for none or several.
func commonPort(endpoints []maasconfig.Endpoint) int {
	common := 0
	for i, e := range endpoints {
		port := e.Port()
		if i > 0 && port != common {
			return 0
		}
		common = port
	}
	return common
}

// isForeign tells whether somebody else put a good certificate in the place of ours: an emergency fix, or another tool.
// It is told, and left until an order is due. Anything worse than good is replaced at once.
func (s State) isForeign(t TargetState, wish certstore.Wish) bool {
	if s.TakeBack || s.Record.Deployments[t.key()].Verified != s.Current.Number || len(t.Endpoints) == 0 {
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

// CertState sums a certificate up in one word.
type CertState string

// The states, in the order in which they are asked; the first that applies wins.
const (
	StateExpired  CertState = "expired"
	StateMissing  CertState = "missing"
	StateFailed   CertState = "failed"   // needs a person
	StateWaiting  CertState = "waiting"  // will be tried again
	StateDegraded CertState = "degraded" // not every endpoint serves it
	StateOverdue  CertState = "overdue"  // due for longer than it should be: nobody looks
	StateHeld     CertState = "held"
	StateDue      CertState = "due"
	StateOK       CertState = "ok"
)

// CertStates are all of them.
var CertStates = []CertState{StateExpired, StateMissing, StateFailed, StateWaiting, StateDegraded, StateOverdue, StateHeld, StateDue, StateOK}

// IsHealthy tells whether the state is as it should be.
func (c CertState) IsHealthy() bool { return c == StateOK || c == StateDue || c == StateHeld }

// refusedRevocation tells whether a CA does not revoke what somebody wants revoked.
func refusedRevocation(s State) bool {
	return slices.ContainsFunc(s.Record.Revocations, func(r certstore.Revocation) bool { return r.Refused != "" })
}

// LastFailure is what failed last, while nothing has succeeded since: no order, no verification there, and no pass that found
// everything as it should be. nil for none.
func (s State) LastFailure(cert string) *certstore.Attempt {
	var last *certstore.Attempt
	// What failed at a target is with the target: hosts have targets of the same name each.
	if n := len(s.Record.Attempts); n > 0 && s.Record.Attempts[n-1].Error != "" && s.Record.Attempts[n-1].Target == "" {
		last = s.unhealed(cert, &s.Record.Attempts[n-1], TargetState{})
	}
	for _, t := range s.Targets {
		failure := s.unhealed(cert, s.Record.Deployments[t.key()].Failure, t)
		if failure != nil && (last == nil || failure.At.After(last.At)) {
			last = failure
		}
	}
	return last
}

// unhealed is a failure, at a target or at none, since which nothing has succeeded; nil when something has.
func (s State) unhealed(cert string, failure *certstore.Attempt, at TargetState) *certstore.Attempt {
	if failure == nil {
		return nil
	}
	since := func(moment time.Time) bool { // a clock that was ahead proves nothing
		return !moment.IsZero() && !moment.Before(failure.At) && !moment.After(s.Now.Add(time.Minute))
	}
	ofOrder := failure.Stage == string(StageObtain) || failure.Stage == string(StageSave)
	for _, t := range s.Targets {
		if !ofOrder && (at.Name == "" || at.key() == t.key()) && since(s.Record.Deployments[t.key()].VerifiedAt) {
			return nil
		}
	}
	isOwn := at.key() != at.Name
	for _, node := range s.Nodes {
		if isOwn && node.Node != s.Node {
			continue // which does not look at it
		}
		if ok := node.LastOK[cert]; ok.After(failure.At) && since(ok) {
			return nil
		}
	}
	return failure
}

// Orders are when the last order was made, and when the last that succeeded, as far as the attempts that are remembered tell; zero for none.
func (s State) Orders() (attempt, success time.Time) {
	for _, a := range s.Record.Attempts {
		isOrder := a.Target == "" && (a.Stage == "" || a.Stage == string(StageObtain) || a.Stage == string(StageSave))
		if !isOrder || a.Why == byDeploy || a.Why == byRollback {
			continue
		}
		attempt = a.At
		if a.Error == "" {
			success = a.At
		}
	}
	return attempt, success
}

// Converged is how long after a target was first told of the version in use all of its endpoints were seen to serve it, and which endpoints those
// were; 0 where no run saw both.
func (s State) Converged(t TargetState) (took time.Duration, endpoints []string) {
	d := s.Record.Deployments[t.key()]
	if s.Current == nil || d.Took == nil || d.Took.Version != s.Current.Number {
		return 0, nil
	}
	return time.Duration(d.Took.MS) * time.Millisecond, d.Took.Endpoints
}

// WasTold tells whether a target was ever told of a certificate of ours, or seen to serve one.
func (s State) WasTold(t TargetState) bool {
	d := s.Record.Deployments[t.key()]
	return d.Verified != 0 || !d.Told.IsZero()
}

// Failures are what failed and has not succeeded since: the last first, then what failed last at each other target.
func (s State) Failures(cert string) []certstore.Attempt {
	last := s.LastFailure(cert)
	if last == nil {
		return nil
	}
	all := []certstore.Attempt{*last}
	for _, t := range s.Targets {
		if failure := s.unhealed(cert, s.Record.Deployments[t.key()].Failure, t); failure != nil && failure.Target != last.Target {
			all = append(all, *failure)
		}
	}
	return all
}

// isOverdue tells whether an order that is due should have been made: one that is held back by nothing is made within a
// schedule's pause or a twentieth of the lifetime, whichever is shorter, five minutes at least.
func (s State) isOverdue(p Plan) bool {
	if s.missedWindow() {
		return true
	}
	if !p.Obtain && p.Wait.IsZero() {
		return false
	}
	patience := lifetime(s.leaf()) / 20
	if s.Period > 0 {
		patience = min(patience, s.Period)
	}
	patience = max(patience, 5*time.Minute)
	due := p.RenewAt
	if due.After(s.Now) { // it is due for another reason than time: since when nobody knows, but whoever looked would have acted
		for _, node := range s.Nodes {
			if due.After(s.Now) || node.LastPass.After(due) {
				due = node.LastPass
			}
		}
		if r := s.Record.Revocation(s.Current.Number); r != nil {
			due = r.Asked
		}
	}
	return s.isLate() || s.Now.After(due.Add(patience))
}

// Summary is the state of a certificate, given what was decided.
func Summary(cert string, s State, p Plan) CertState {
	failures := s.Failures(cert)
	failedAt := func(stage Stage) bool {
		return slices.ContainsFunc(failures, func(a certstore.Attempt) bool { return a.Stage == string(stage) })
	}
	serving := !slices.ContainsFunc(s.Targets, func(t TargetState) bool { return !maasconfig.Trusted(t.Endpoints) })
	rolledBack := slices.ContainsFunc(s.Targets, func(t TargetState) bool {
		d := s.Record.Deployments[t.key()]
		return s.Current != nil && d.Version == s.Current.Number && d.RolledBack >= maxRollbacks
	})
	switch {
	case s.Current != nil && !s.leaf().NotAfter.After(s.Now) && !s.isRestored():
		return StateExpired
	case s.Current == nil:
		return StateMissing
	case s.Keys != nil, s.Account != nil && !s.Watched, p.Needs, failedAt(StageGuard) && (p.Obtain || len(p.Deploy) > 0), rolledBack && !serving, refusedRevocation(s), s.windowsError() != nil:
		return StateFailed
	case !p.Wait.IsZero(), s.Record.Failures > 0 && (p.Obtain || s.isHeldBack()), failedAt(StageDeploy) && !serving:
		return StateWaiting
	case !serving, s.lastingDoubt() != nil:
		return StateDegraded
	case s.isOverdue(p):
		return StateOverdue
	case s.Record.PendingRevocation() != nil:
		return StateWaiting
	case p.Why == Held:
		return StateHeld
	case p.Obtain, s.Watched && p.Why == Lifetime:
		return StateDue
	default:
		return StateOK
	}
}
