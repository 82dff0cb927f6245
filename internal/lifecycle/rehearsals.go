package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/robfig/cron/v3"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// Between two renewals lie months in which a port is closed, a record moved, an account deactivated. The next renewal is rehearsed
// meanwhile, so that a person hears of it with weeks left.

// Rehearsals says when the daemon rehearses the next renewal of a certificate.
type Rehearsals struct {
	Weekly   bool          // where lifetimes are long enough that renewals are no rehearsal of each other
	Schedule cron.Schedule // at these times instead; nil: at none
	Config   string        // hash of the configuration: when it changed, the renewal is rehearsed anew
}

const (
	// shortestRehearsed is the lifetime below which the renewals themselves come often enough.
	shortestRehearsed = 14 * day
	week              = 7 * day
	// rehearsalGap is between two rehearsals at least, and between two that failed before a failure counts.
	rehearsalGap = time.Hour
	// failedGap is between two rehearsals while they fail, and while nothing can be found out.
	failedGap = day / 2
	// turnTime is how long other hosts wait for the one whose turn it is.
	turnTime = day / 2
	// orderGap is how far a rehearsal stays away from an order.
	orderGap = day
	// outageTime is for how long the CA itself may be away before that is a failure: the one for dry runs may always be.
	outageTime = 3 * day
	// rehearsalTime bounds a rehearsal, and soonestRehearsal is what it has at least: it is made only where the next look can wait so long.
	rehearsalTime    = 10 * time.Minute
	soonestRehearsal = time.Minute
	// aliveTime is after how long without a pass of its daemon a host takes no turns.
	aliveTime = 2 * day
)

// Rehearsed is how a rehearsal of a renewal ended.
type Rehearsed struct {
	Result Result
	Level  Level
	AtCA   bool // what failed last was asked of the certificate's own CA, not of one for dry runs
	// Reused are names that were not proven, because the CA went by an earlier proof.
	Reused []string
}

// rehearseAt is when this host rehearses the next renewal; zero: nobody knows yet, or never.
func (s State) rehearseAt(r Rehearsals, cert string) time.Time {
	isWanted := r.Schedule != nil || r.Weekly && s.Current != nil && lifetime(s.leaf()) >= shortestRehearsed
	if !isWanted || s.Current == nil || s.Watched || s.Record.Order != nil || s.Record.Attempt != nil {
		return time.Time{}
	}
	due, isOwn := s.rehearsalDue(r)
	if !isOwn && s.turn(due, cert) != s.Node {
		due = due.Add(turnTime)
	}
	if order, _ := s.Orders(); order.Add(orderGap).After(due) && order.Sub(s.Now) < orderGap { // else a clock was ahead
		due = order.Add(orderGap)
	}
	if s.Record.Rehearsal != nil {
		if tried := s.Record.Rehearsal.Tried; tried.Add(rehearsalGap).After(due) && !tried.After(s.Now) {
			due = tried.Add(rehearsalGap)
		}
	}
	if at := s.renewAt().Add(-orderGap); !due.Before(at) || !s.Now.Before(at) {
		return time.Time{} // the renewal itself will tell
	}
	return due
}

// rehearsalDue is when a rehearsal is due by itself, and whether it is this host's own affair, whosever turn it is.
func (s State) rehearsalDue(r Rehearsals) (due time.Time, isOwn bool) {
	last := s.Record.Rehearsal
	switch {
	case last == nil:
		return s.Now, false
	case last.At.After(s.Now) || last.Tried.After(s.Now): // by a clock that was ahead
		return s.Now, false
	case last.Configs[s.Node] != r.Config:
		return s.Now, true
	case !last.Failed.IsZero() && last.Tried.Before(s.Started): // somebody may have mended it, and started us anew
		return s.Now, true
	case last.Proven || !last.Skipped.IsZero() && s.Now.Sub(last.Skipped) > failedGap:
		return last.Tried.Add(failedGap), last.By == s.Node
	case !last.Failed.IsZero() || !last.Skipped.IsZero():
		return last.Tried.Add(rehearsalGap), last.By == s.Node
	case r.Schedule != nil:
		return r.Schedule.Next(last.At), false
	default:
		return last.At.Add(week), false
	}
}

// turn is the host whose turn a week's rehearsal is: each week another of those whose daemons are there.
func (s State) turn(due time.Time, cert string) string {
	hosts := []string{s.Node}
	for _, node := range s.Nodes {
		if node.Node != s.Node && s.Now.Sub(node.LastRun).Abs() < aliveTime {
			hosts = append(hosts, node.Node)
		}
	}
	slices.Sort(hosts)
	sum := sha256.Sum256([]byte(cert + "/" + strconv.FormatInt(due.Unix()/int64(week/time.Second), 10)))
	return hosts[binary.BigEndian.Uint64(sum[:8])%uint64(len(hosts))]
}

// RehearseDue rehearses the renewals of the certificates for which that is due, for as long as what is left of all of them allows not to
// look. It notes in the results how it went, and returns when the next rehearsal is due; zero for no such time.
func (e *Engine) RehearseDue(ctx context.Context, results []Result, rehearse func(ctx context.Context, cert string) Rehearsed) (next time.Time) {
	for i := range results {
		r := &results[i]
		at := slices.IndexFunc(e.Certificates, func(cert Certificate) bool { return cert.Name == r.Name })
		if at < 0 || r.After.Blind || ctx.Err() != nil {
			continue
		}
		cert, state := e.Certificates[at], r.After.State
		state.Now, state.Started = e.Now().Round(0), e.Started
		due := state.rehearseAt(cert.Rehearsals, cert.Name)
		switch {
		case due.IsZero():
			continue
		case due.After(state.Now):
			next = earlier(next, due)
			continue
		}
		within := rehearsalTime
		for _, other := range results {
			if latest := other.After.State.latestLook(); !latest.IsZero() {
				within = min(within, latest.Sub(state.Now))
			}
		}
		if within < soonestRehearsal {
			continue // after the next pass there may be time
		}
		after, err := e.rehearse(ctx, cert, state, within, rehearse)
		if err != nil {
			e.Log.Warn("the rehearsal of the next renewal", "cert", cert.Name, "error", printable.Error(err))
			continue
		}
		if after != nil {
			r.After.State.Record.Rehearsal = after
			state.Now, state.Record.Rehearsal = e.Now().Round(0), after
			next = earlier(next, state.rehearseAt(cert.Rehearsals, cert.Name))
		}
	}
	return next
}

// rehearse makes one rehearsal, which it writes down before and after. It returns what is remembered then; nil when another host is at it,
// or when it was interrupted.
func (e *Engine) rehearse(ctx context.Context, cert Certificate, state State, within time.Duration, rehearse func(context.Context, string) Rehearsed) (after *certstore.Rehearsal, err error) {
	ledger, err := certstore.OpenLedger(ctx, e.Store, cert.Name)
	if err != nil {
		return nil, err
	}
	begun := false
	err = ledger.Update(ctx, func(r *certstore.Record) {
		now := certstore.Rehearsal{}
		if r.Rehearsal != nil {
			now = *r.Rehearsal
		}
		isSame := state.Record.Rehearsal == nil && r.Rehearsal == nil || state.Record.Rehearsal != nil && r.Rehearsal != nil && state.Record.Rehearsal.Tried.Equal(r.Rehearsal.Tried)
		if begun = isSame; !begun {
			return // another host was faster
		}
		now.Tried, now.By = state.Now.UTC(), e.Node
		r.Rehearsal = &now
	})
	if err != nil || !begun {
		return nil, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, within, errTooLong)
	defer cancel()
	outcome := rehearse(bounded, cert.Name)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	saving, done := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer done()
	err = ledger.Update(saving, func(r *certstore.Record) {
		before := certstore.Rehearsal{}
		if r.Rehearsal != nil {
			before = *r.Rehearsal
		}
		now := e.outcome(before, outcome, e.Now().UTC())
		if now.Configs == nil {
			now.Configs = map[string]string{}
		}
		now.Configs[e.Node] = cert.Rehearsals.Config
		r.Rehearsal, after = &now, &now
	})
	return after, err
}

var errTooLong = errors.New("the rehearsal took too long")

// outcome is what is remembered of a rehearsal that ended, after what was remembered before it.
func (e *Engine) outcome(before certstore.Rehearsal, r Rehearsed, now time.Time) certstore.Rehearsal {
	after := before
	after.Level, after.Node = string(r.Level), e.Node
	after.Target, after.Stage, after.Error, after.Hint = "", "", "", ""
	worst, isOutage := r.Result.whatFailed()
	if worst == nil && len(r.Reused) > 0 {
		worst, isOutage = &Trouble{Stage: StageObtain, Err: hint.Add(errors.New("the CA goes by earlier proofs, so these names were not proven: "+listed(r.Reused)),
			"a dry_run.directory of a CA that is for rehearsals")}, true
		r.AtCA = false // which is no outage that could last too long
	}
	if worst != nil {
		after.Target, after.Stage = worst.Target, string(worst.Stage)
		after.Error, after.Hint = printable.Line(worst.Err.Error(), printable.Word), printable.Line(hint.Of(worst.Err), printable.Word)
	}
	switch {
	case worst == nil:
		after.At, after.Failed, after.Proven, after.Skipped = now, time.Time{}, false, time.Time{}
	case isOutage && (!r.AtCA || after.Skipped.IsZero() || now.Sub(after.Skipped) < outageTime):
		if after.Skipped.IsZero() || after.Skipped.After(now) {
			after.Skipped = now
		}
		if after.Proven { // that is what still stands
			after.Target, after.Stage, after.Error, after.Hint = before.Target, before.Stage, before.Error, before.Hint
		}
	default:
		after.At = now
		if after.Failed.IsZero() || after.Failed.After(now) {
			after.Failed = now
		}
		after.Proven = after.Proven || now.Sub(after.Failed) >= rehearsalGap || isOutage
		if !isOutage {
			after.Skipped = time.Time{}
		}
	}
	return after
}

// whatFailed is the worst of a rehearsal's troubles, and whether there are none but outages: a CA that could not be reached or failed
// itself, another run that held a lock, and what came to no end say nothing of the next renewal.
func (r Result) whatFailed() (worst *Trouble, isOutage bool) {
	outages := Result{}
	left := Result{}
	for _, t := range r.Troubles {
		if acme.IsOutage(t.Err) || errors.Is(t.Err, errTooLong) || t.Stage == StageLock {
			outages.Troubles = append(outages.Troubles, t)
		} else {
			left.Troubles = append(left.Troubles, t)
		}
	}
	if worst = left.Worst(); worst != nil {
		return worst, false
	}
	return outages.Worst(), true
}
