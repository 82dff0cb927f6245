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
	Pass     func(ctx context.Context) []Result
	// After does what can wait until a pass is over, and returns when it wants to be called again; nil: nothing does. next is when the
	// next pass comes. It is called also when the daemon is to end, to write down what it would do.
	After func(ctx context.Context, results []Result, next time.Time) (again time.Time)
	// Passed is called after that with the moment of the next pass; nil: nobody is told.
	Passed func(results []Result, next time.Time)
	// Nap is how long the daemon sleeps at most before it looks at the clock again, so that a clock that is set or a machine
	// that was suspended delays nothing; 0: five seconds.
	Nap time.Duration
	// Alive is called again and again while the daemon sleeps; nil: nobody watches it.
	Alive func()
	// Wake makes a pass at once, after the configuration was read again for example.
	Wake <-chan struct{}

	known map[string]*course // by certificate
}

// course remembers how it went with one certificate.
type course struct {
	failing int         // passes in a row that failed for a reason that no plan names a time for
	retry   time.Time   // when the next of them was to be made
	left    int         // passes in a row that left the work to another run
	hurried int         // passes in a row after which there was work at once
	ends    []time.Time // when the served certificates end, as they were seen last; none: never
}

// patientLooks are the looks, soonestLook apart, within which another run is expected to end that does the work.
const patientLooks = 6

const usualNap = 5 * time.Second

// Run makes passes until the context ends.
func (d *Daemon) Run(ctx context.Context) {
	d.known = map[string]*course{}
	for {
		results := d.Pass(ctx)
		next := d.next(results, d.now())
		if d.After != nil {
			next = notBefore(earlier(next, d.After(ctx, results, next)), d.now())
		}
		if d.Passed != nil {
			d.Passed(results, next)
		}
		if !d.sleepUntil(ctx, next) {
			return
		}
	}
}

// now is the time of the wall alone. What Go measures beside it stands still while a machine is suspended, and would be
// compared instead.
func (d *Daemon) now() time.Time { return d.Now().Round(0) }

// next sets the time of the next pass: when the schedule says, or when the plan of a certificate says, or when a pass that
// failed is to be made again, and never later than what is left of a certificate allows.
func (d *Daemon) next(results []Result, now time.Time) time.Time {
	next := d.Schedule.Next(now)
	for _, r := range results {
		c := d.known[r.Name]
		if c == nil {
			c = &course{}
			d.known[r.Name] = c
		}
		next = earlier(next, earlier(r.After.Plan.Next, c.again(r, now)))
	}
	return notBefore(next, now)
}

// notBefore leaves a second before the next pass, whatever wants it.
func notBefore(next, now time.Time) time.Time {
	if soonest := now.Add(time.Second); next.Before(soonest) {
		return soonest
	}
	return next
}

// again returns when a certificate wants another look that its plan names no time for.
func (c *course) again(r Result, now time.Time) time.Time {
	if ends := r.After.State.ends(); len(ends) > 0 {
		c.ends = ends
	}
	plan := r.After.Plan
	isWaiting := !plan.Wait.IsZero()
	if len(r.Troubles) == 0 || isWaiting {
		c.failing = 0
	}
	if !r.IsLeftToOthers() {
		c.left = 0
	}
	if len(r.Troubles) > 0 || isWaiting || !plan.Obtain && len(plan.Deploy) == 0 {
		c.hurried = 0
	}
	switch {
	case len(r.Troubles) == 0 && !isWaiting && (plan.Obtain || len(plan.Deploy) > 0):
		// It got due while the pass was made. Should that happen again and again, something is wrong with the plan.
		c.hurried++
		return now.Add(min(time.Second<<min(c.hurried-1, 10), time.Minute))
	case len(r.Troubles) > 0 && !isWaiting:
		if c.left++; r.IsLeftToOthers() && c.left <= patientLooks {
			return now.Add(soonestLook)
		}
		// A pass that somebody wanted meanwhile makes nobody wait longer; a clock that was set back says nothing of the time.
		if left := c.retry.Sub(now); c.failing == 0 || left <= 0 || left > looks[len(looks)-1] {
			c.failing++
			c.retry = now.Add(looks[min(c.failing, len(looks))-1])
		}
		return c.afterFailure(now, r.Stage() == StageLook)
	default:
		return time.Time{}
	}
}

// blindLook is how often to look while the store cannot be read and nothing was ever seen of a certificate: how much is left
// of it nobody knows, and the look costs next to nothing.
const blindLook = 20 * time.Second

// afterFailure sets the next look after a guard, a lock or a disk failed: soon at first, then as often as what is left
// of the certificate allows. Where there is none the schedule will do.
func (c *course) afterFailure(now time.Time, blind bool) time.Time {
	var latest time.Time
	switch {
	case len(c.ends) > 0:
		latest = latestLook(c.ends, now)
	case blind:
		latest = now.Add(blindLook)
	}
	if c.failing > len(looks) {
		return latest
	}
	return earlier(latest, c.retry)
}

// sleepUntil returns false when the context ended. A clock that was set back ends the sleep: nobody knows what it is worth.
func (d *Daemon) sleepUntil(ctx context.Context, at time.Time) bool {
	nap := d.Nap
	if nap == 0 {
		nap = usualNap
	}
	for before := d.now(); ; {
		now := d.now()
		if ctx.Err() == nil && (!now.Before(at) || now.Before(before)) {
			return true
		}
		before = now
		if d.Alive != nil {
			d.Alive()
		}
		timer := time.NewTimer(min(at.Sub(now), nap))
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
