package lifecycle

import (
	"context"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
)

// Daemon makes passes: one at the start, one whenever the schedule says, and one at the moment that a plan names when
// that is earlier.
type Daemon struct {
	Schedule cron.Schedule
	Now      func() time.Time
	Pass     func(ctx context.Context) []Result
	// Wake makes a pass at once, after the configuration was read again for example.
	Wake <-chan struct{}
}

// nap is how long the daemon sleeps at most before it looks at the clock again, so that a clock that is set or a
// machine that was suspended delays nothing.
const nap = time.Minute

// Run makes passes until the context ends.
func (d *Daemon) Run(ctx context.Context) {
	failing := 0
	for {
		results := d.Pass(ctx)
		now := d.Now()
		next := earlier(d.Schedule.Next(now), wanted(results))
		if isFailing(results) {
			next = earlier(next, again(failing, now))
			failing++
		} else {
			failing = 0
		}
		if soonest := now.Add(time.Second); next.Before(soonest) {
			next = soonest
		}
		if !d.sleepUntil(ctx, next) {
			return
		}
	}
}

// again is when to look again after so many passes in a row that failed for a reason that no plan names a time for: a
// guard, a lock, a disk. After the last of the looks the schedule decides.
func again(failing int, now time.Time) time.Time {
	if failing >= len(looks) {
		return time.Time{}
	}
	return now.Add(looks[failing])
}

func isFailing(results []Result) bool {
	return slices.ContainsFunc(results, func(r Result) bool { return r.Err != nil && r.After.Plan.Wait.IsZero() })
}

// earlier is the earlier of two moments, of which a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// sleepUntil returns false when the context ended.
func (d *Daemon) sleepUntil(ctx context.Context, at time.Time) bool {
	for {
		left := at.Sub(d.Now())
		if left <= 0 && ctx.Err() == nil {
			return true
		}
		timer := time.NewTimer(min(left, nap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-d.Wake:
			timer.Stop()
			return true
		case <-timer.C:
		}
	}
}

// wanted is the earliest moment at which any of some certificates wants another look; zero for none.
func wanted(results []Result) time.Time {
	var first time.Time
	for _, r := range results {
		first = earlier(first, r.After.Plan.Next)
	}
	return first
}
