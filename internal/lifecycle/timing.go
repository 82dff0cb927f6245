package lifecycle

import (
	"errors"
	"fmt"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/maintenance"
)

// Timing says when a certificate gets due by time.
type Timing struct {
	Before  certstore.Left      // how much of its lifetime is left then, where the CA says nothing; nothing: the usual
	Windows maintenance.Windows // in which it is renewed by time; none: always

	share float64 // how far into the first half of a window, so that not everybody begins at once
}

// shortLived is the lifetime up to which half of it, instead of two thirds, may pass before a renewal.
const shortLived = 10 * 24 * time.Hour

// dueAt is when a certificate with these dates gets due, where the CA suggests nothing: never before a third of its lifetime has passed.
func (t Timing) dueAt(begins, ends time.Time) time.Time {
	life := ends.Sub(begins)
	switch {
	case !t.Before.IsZero():
		return ends.Add(-min(t.Before.Of(life), life/3*2))
	case life <= shortLived:
		return begins.Add(life / 2)
	default:
		return begins.Add(life / 3 * 2)
	}
}

// dueByLifetime is when the version in use gets due, where the CA suggests nothing.
func (s State) dueByLifetime() time.Time {
	return s.Timing.dueAt(s.leaf().NotBefore, s.leaf().NotAfter)
}

// dueByTime is when the version in use gets due by time, whatever windows there are.
func (s State) dueByTime() time.Time {
	if s.Window != nil {
		return s.Window.Moment()
	}
	return s.dueByLifetime()
}

// mayRenew tells whether what gets due by time at a moment may be renewed now.
func (s State) mayRenew(due time.Time) bool {
	return !s.opensAt(due).After(s.Now)
}

// opensAt is the first moment, of those that are not over, at which what gets due at a moment may be renewed.
func (s State) opensAt(due time.Time) time.Time {
	if len(s.Timing.Windows) == 0 {
		return due
	}
	// Windows are in the host's time.
	at := s.Timing.Windows.Next(due.In(s.Now.Location()), s.Timing.share)
	if !at.After(s.Now) && !s.Timing.Windows.Contains(s.Now) {
		return s.Timing.Windows.Next(s.Now, s.Timing.share)
	}
	return at
}

// isRecalled tells whether the CA wants the version in use replaced at once: it moved the end of its window to before the window's former
// begin, as it does before it revokes, or to before half of the lifetime where nobody remembers that. That waits for no hour.
func (s State) isRecalled() bool {
	if s.Current == nil || s.Window == nil || s.Window.End.After(s.Now) {
		return false
	}
	former := s.leaf().NotBefore.Add(lifetime(s.leaf()) / 2)
	if known := s.Record.Window; known != nil && known.Version == s.Current.Number {
		former = known.Start
	}
	return s.Window.End.Before(former)
}

// isHeldBack tells whether a renewal is due by time and waits for a window.
func (s State) isHeldBack() bool {
	return s.Current != nil && !s.Watched && s.isReplaceable() && !s.dueByTime().After(s.Now) && !s.mayRenew(s.dueByTime()) && !s.isRecalled()
}

// missedWindow tells whether a renewal that waits for a window should have been made in one that has passed.
func (s State) missedWindow() bool {
	return s.isHeldBack() && s.Timing.Windows.HasPassed(s.dueByTime().In(s.Now.Location()), s.Now)
}

// openings is how often a window has to open between the moment at which a certificate gets due and its last tenth.
const openings = 2

// windowsError says that the windows open too rarely for the version in use; nil: they do not, or there are none.
func (s State) windowsError() error {
	if s.Current == nil || s.Watched || len(s.Timing.Windows) == 0 {
		return nil
	}
	due, last := s.dueByTime().In(s.Now.Location()), emergency(s.leaf()).In(s.Now.Location())
	if n := s.Timing.Windows.Openings(due, last, openings); n < openings {
		err := fmt.Errorf("the windows of the configuration open %d times between the moment at which the certificate gets due and the last tenth of its lifetime, in which they count no more", n)
		if n == 1 {
			err = errors.New("the windows of the configuration open only once between the moment at which the certificate gets due and the last tenth of its lifetime, in which they count no more")
		}
		return hint.Add(err, "have window open more often, or set renew_before to more of the lifetime")
	}
	return nil
}

// PassTime bounds a pass with all its patience; after it the next one is missed.
const PassTime = 30 * time.Minute

// Silence is after how long without a pass a host counts as silent.
type Silence struct {
	Timer  time.Duration // one whose passes a timer makes: two passes of the schedule are missed
	Daemon time.Duration // one with a daemon: the same, or a third of what the shortest-lived certificate lives, of which a daemon looks ten times as often; so people are told before that ends
}

// SilenceOf is that of a deployment whose schedule has a pass every period, and which was seen like that.
func SilenceOf(period time.Duration, views ...View) Silence {
	s := Silence{2*period + PassTime, 2*period + PassTime}
	for _, v := range views {
		if v.State.Current != nil {
			s.Daemon = min(s.Daemon, max(lifetime(v.State.leaf())/3, time.Minute))
		}
	}
	return s
}

// Of is that of one host.
func (s Silence) Of(node certstore.Node) time.Duration {
	if node.ByTimer {
		return s.Timer
	}
	return s.Daemon
}

// Views are what was seen at the end of some passes.
func Views(results []Result) []View {
	views := make([]View, len(results))
	for i, r := range results {
		views[i] = r.After
	}
	return views
}
