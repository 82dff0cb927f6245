package lifecycle

import (
	"context"
	"time"

	"github.com/robfig/cron/v3"
)

// Daemon makes passes: one at the start, one whenever the schedule says, and one at the moment that a plan names when
// that is earlier.
type Daemon struct {
	Schedule cron.Schedule
	Now      func() time.Time
	// Pass makes one pass and returns when the next is wanted, if earlier than the schedule; zero for no such time.
	Pass func(ctx context.Context) time.Time
	// Wake makes a pass at once, after the configuration was read again for example.
	Wake <-chan struct{}
}

// nap is how long the daemon sleeps at most before it looks at the clock again, so that a clock that is set or a
// machine that was suspended delays nothing.
const nap = time.Minute

// Run makes passes until the context ends.
func (d *Daemon) Run(ctx context.Context) {
	for {
		wanted := d.Pass(ctx)
		next := d.Schedule.Next(d.Now())
		if !wanted.IsZero() && wanted.Before(next) {
			next = wanted
		}
		if !d.sleepUntil(ctx, next) {
			return
		}
	}
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

// Next is the earliest moment at which any of some certificates wants another look; zero for none.
func Next(results []Result) time.Time {
	var first time.Time
	for _, r := range results {
		if at := r.After.Plan.Next; !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
