package lifecycle

import (
	"crypto/x509"
	"slices"
	"time"

	"maascert/certstore"
	"maascert/maasconfig"
)

// How often to look, and how often to act, in one place.
//
// Looks cost little, so the next one always comes before the served certificate can end: whatever fails, hangs or sleeps,
// a tenth of what is left is never slept through. Acts are orders, which CAs count, and calls of config-tls, which make
// every region's proxy reload; they are bounded by themselves, and nothing is given up for good while the certificate that
// is served can still end.

const (
	// soonestLook and lateLook are the shortest pause between two looks while the served certificate is valid, and the
	// longest once it has ended.
	soonestLook = 10 * time.Second
	lateLook    = time.Minute
	// shortLife is the lifetime below which calls may follow each other sooner than gap.
	shortLife = time.Hour
	gap       = time.Minute
	shortGap  = 10 * time.Second
	// maxTries is how often MAAS is told of one version for one set of laggards before it is told only now and then.
	maxTries = 2
	// maxRollbacks is how often a version may be taken back before it is held.
	maxRollbacks = 2
	// changeGap is how long an endpoint's changed answer is no reason for another call: whoever stands between us and an
	// endpoint could change it all the time.
	changeGap = time.Hour
	// maxDayTries is how often MAAS is told in a day of a version that every endpoint was seen to serve already.
	maxDayTries = 4
	// maxChangeTries is how often a day answers that change may have it told at all: whoever stands before an endpoint can
	// change them, and keep a version from being verified.
	maxChangeTries = 12
	day            = 24 * time.Hour
)

// looks are the moments, after a failure, at which what failed is looked at again; after the last one the schedule and
// lookPause decide.
var looks = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// ladder holds the waits after the n-th failed order in a row, by the CAs' own advice.
var ladder = []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, day}

// lookPause bounds the time until the next look when the served certificate ends at a moment.
func lookPause(ends, now time.Time) time.Duration {
	left := ends.Sub(now)
	if left <= 0 {
		return lateLook
	}
	return max(left/10, soonestLook)
}

// lookAgain is the next of the moments at which a deployment that failed is looked at.
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

func lifetime(leaf *x509.Certificate) time.Duration { return leaf.NotAfter.Sub(leaf.NotBefore) }

// emergency begins when a tenth of the lifetime is left: from then on neither the CA's window nor a hold counts.
func emergency(leaf *x509.Certificate) time.Time { return leaf.NotAfter.Add(-lifetime(leaf) / 10) }

// isLate tells whether the version in use is in its last tenth, or has ended.
func (s State) isLate() bool { return s.Current != nil && !emergency(s.leaf()).After(s.Now) }

// ends lists when the certificates of ours that endpoints serve end, as far as that can be told, and the version in use.
func (s State) ends() []time.Time {
	var all []time.Time
	for _, t := range s.Targets {
		all = append(all, s.endsAt(t)...)
	}
	if s.Current != nil {
		all = append(all, s.leaf().NotAfter)
	}
	return all
}

// endsAt lists when the certificates of ours that a target's endpoints serve end. Where none shows one, the version counts
// that was seen there last.
func (s State) endsAt(t TargetState) []time.Time {
	var all []time.Time
	for _, e := range t.Endpoints {
		if version, ours := s.Known[e.Fingerprint()]; ours {
			all = append(all, version.NotAfter)
		}
	}
	for _, version := range s.Known {
		if len(all) == 0 && version.Number == s.Record.Deployments[t.key()].Verified {
			return []time.Time{version.NotAfter}
		}
	}
	return all
}

// soonest is the earliest of some moments that is yet to come; zero for none.
func soonest(moments []time.Time, now time.Time) time.Time {
	var first time.Time
	for _, at := range moments {
		if at.After(now) {
			first = earlier(first, at)
		}
	}
	return first
}

// latestLook sets the latest time of the next look. A certificate of somebody else's may only bring a look forward.
func (s State) latestLook() time.Time {
	ends := s.ends()
	for _, t := range s.Targets {
		for _, e := range t.Endpoints {
			if len(e.Certs) > 0 && e.Certs[0].NotAfter.After(s.Now) {
				ends = append(ends, e.Certs[0].NotAfter)
			}
		}
	}
	return latestLook(ends, s.Now)
}

// latestLook sets that time when certificates are served that end at some moments; zero for none.
func latestLook(ends []time.Time, now time.Time) time.Time {
	var first time.Time
	for _, at := range ends {
		first = earlier(first, now.Add(lookPause(at, now)))
	}
	return first
}

// verifyTime bounds how long a target is waited for after it was told: while a certificate is about to end there is no time
// for patience, and with short lifetimes another endpoint's may end meanwhile.
func (s State) verifyTime() time.Duration {
	most := max(lifetime(s.leaf())/20, soonestLook)
	if next := soonest(s.ends(), s.Now); !next.IsZero() {
		most = min(most, max(next.Sub(s.Now)/4, soonestLook))
	}
	return most
}

// orderTime bounds one order: a CA that hangs must not hang until the certificate has ended. Zero: no bound but the
// client's own.
func (s State) orderTime() time.Duration {
	if s.Current == nil {
		return 0
	}
	if next := soonest(s.ends(), s.Now); !next.IsZero() {
		return max(next.Sub(s.Now)/4, soonestLook)
	}
	return max(lifetime(s.leaf())/20, time.Minute)
}

// backOff is until when no order is made. The CA's own word always counts. Our ladder does not for a forced order, for
// a new wish or a mended configuration, nor in the last tenth of the lifetime and after it, where a shorter pause counts.
func (s State) backOff() time.Time {
	var wait time.Time
	r := s.Record
	if r.FailedAt.After(s.Now.Add(time.Minute)) {
		return wait // all of it was written down by a clock that was ahead
	}
	if r.Wish != nil && r.Wish.Directory == s.Wish.Directory && r.RetryAfter.Before(s.Now.Add(longestRetryAfter+time.Hour)) {
		wait = r.RetryAfter // the word of this CA, unless it was written down by a clock that was wrong
	}
	own := r.NextAttempt
	if s.isLate() {
		own = s.latePause()
	}
	sane := own.Before(s.Now.Add(ladder[len(ladder)-1] + time.Hour))
	if !s.Force && !s.isNewWish() && !s.isMended() && sane && own.After(wait) {
		wait = own
	}
	return wait
}

// isNewWish tells whether this host asks for something that nobody has ordered yet.
func (s State) isNewWish() bool {
	return s.Record.WishHash != "" && s.Wish.Hash() != s.Record.WishHash && s.said() != s.Wish.Hash()
}

// isMended tells whether the configuration of the CA or the challenges changed since an order failed.
func (s State) isMended() bool {
	return s.Record.FailedWith != "" && s.Means != "" && s.Record.FailedWith != s.Means
}

// latePause is until when an order that failed is not repeated in the last tenth of the lifetime and after it. A CA that
// refused or could not validate gets time to have its mind changed, and its limits are not used up; one that could not be
// reached is asked again soon.
func (s State) latePause() time.Time {
	r, life := s.Record, lifetime(s.leaf())
	if r.FailedAt.IsZero() {
		return time.Time{}
	}
	if !r.Refused {
		return r.FailedAt.Add(clamp(life/50, soonestLook, time.Minute))
	}
	pause := clamp(life/50, soonestLook, 15*time.Minute)
	switch left := s.leaf().NotAfter.Sub(r.FailedAt); {
	case left > 0:
		pause = max(pause, left/10)
	default:
		pause = clamp(-left/10, pause, time.Hour)
	}
	return r.FailedAt.Add(pause)
}

func clamp(d, least, most time.Duration) time.Duration { return min(max(d, least), most) }

// backOff sets the wait after failures in a row: the ladder, spread by a tenth either way, but no longer than a
// twentieth of the lifetime of the certificate that is at stake (0: unknown), and no less than ten seconds. spread is from
// -1 to 1, the same for a host and a certificate, so that many hosts do not come at the same moment.
func backOff(failures int, life time.Duration, spread float64) time.Duration {
	wait := ladder[min(max(failures, 1), len(ladder))-1]
	wait += time.Duration(float64(wait) / 10 * spread)
	if life > 0 {
		wait = min(wait, life/20)
	}
	return max(wait, soonestLook)
}

// tries counts how often a target may still be told of the version in use now, and, where that is not at all, when it may be
// the next time (zero: not before something changes).
func (s State) tries(t TargetState) (left int, again time.Time) {
	d, current := s.Record.Deployments[t.key()], s.Current.Number
	if s.ByHand {
		defer func() { left = max(left, 1) }()
	}
	if d.Told.After(s.Now.Add(time.Minute)) {
		d.Told, d.Day = time.Time{}, time.Time{} // written down by a clock that was ahead
	}
	counted := d.DayTries
	if !s.Now.Before(d.Day.Add(day)) {
		counted = 0
	}
	switch {
	case d.Version != current:
		return maxTries, time.Time{}
	case d.Verified == current && counted >= maxDayTries:
		return s.comesAgain(d.Told, earlier(d.Day.Add(day), s.halfway(t, d)))
	case d.RolledBack >= maxRollbacks:
	case d.Tries < maxTries:
		if left, _ := s.comesAgain(d.Told, d.Told); d.Since.IsZero() || left > 0 {
			return maxTries - d.Tries, time.Time{}
		}
		return 0, time.Time{} // a call that MAAS did not take is repeated at the next look, but not at once
	}
	if d.RolledBack < maxRollbacks && d.Laggards == nil { // the run was killed before anybody looked
		return s.comesAgain(d.Told, d.Told)
	}
	if someServe(t.Endpoints) && onlyUnknown(t.Endpoints) {
		return 0, time.Time{} // MAAS has it, and who cannot be asked reads it at its start
	}
	at := earlier(d.Told.Add(day), s.halfway(t, d))
	if isNewTrouble(d, t.Endpoints) && counted < maxChangeTries {
		at = earlier(at, d.Told.Add(changeGap))
	}
	if cameBack(d, t.Endpoints) && counted < maxChangeTries {
		at = d.Told
	}
	return s.comesAgain(d.Told, at)
}

// comesAgain allows one more call from a moment on, but not at once after the last.
func (s State) comesAgain(told, at time.Time) (left int, again time.Time) {
	pause := gap
	if lifetime(s.leaf()) < shortLife {
		pause = shortGap
	}
	if soonest := told.Add(pause); at.Before(soonest) {
		at = soonest
	}
	if at.After(s.Now) {
		return 0, at
	}
	return 1, time.Time{}
}

// halfway returns when what is left of a certificate that the target serves has halved since it was told last; of one that
// has ended, when as long has passed again as it had been over then.
func (s State) halfway(t TargetState, d certstore.Deployment) time.Time {
	var first time.Time
	for _, ends := range s.endsAt(t) {
		left := ends.Sub(d.Told)
		first = earlier(first, d.Told.Add(max(left/2, -left)))
	}
	return first
}

// isNewTrouble tells whether an endpoint answers otherwise than when the target was told last.
func isNewTrouble(d certstore.Deployment, endpoints []maasconfig.Endpoint) bool {
	if d.Laggards == nil {
		return false
	}
	return slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool {
		return !e.IsServing() && e.State != maasconfig.Unknown && d.Laggards[e.Address] != e.Observed()
	})
}

// cameBack tells whether an endpoint's regiond was stopped when the target was told last, and runs again.
func cameBack(d certstore.Deployment, endpoints []maasconfig.Endpoint) bool {
	return slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool {
		return !e.IsServing() && !e.Stopped && e.State != maasconfig.Unknown && d.Laggards[e.Address] == maasconfig.StoppedAnswer
	})
}

// laggards are the endpoints that do not serve the version, with what they answered.
func laggards(endpoints []maasconfig.Endpoint) map[string]string {
	lagging := map[string]string{}
	for _, e := range endpoints {
		if !e.IsServing() {
			lagging[e.Address] = e.Observed()
		}
	}
	return lagging
}

func onlyUnknown(endpoints []maasconfig.Endpoint) bool {
	return !slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool {
		return !e.IsServing() && e.State != maasconfig.Unknown
	})
}

func someServe(endpoints []maasconfig.Endpoint) bool {
	return slices.ContainsFunc(endpoints, maasconfig.Endpoint.IsServing)
}

// earlier is the earlier of two moments, of which a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
