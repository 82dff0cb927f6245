package lifecycle_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/lifecycle"
)

// oracle suggests to renew a certificate in the hour that begins after so long.
type oracle struct {
	*ca
	after time.Duration
	down  bool
	none  bool // it offers no renewal information
	asked int
}

func (o *oracle) Window(_ context.Context, leaf *x509.Certificate) (acme.Window, error) {
	o.asked++
	if o.down {
		return acme.Window{}, errors.New("503 Service Unavailable")
	}
	if o.none {
		return acme.Window{Asked: time.Now(), AskAgain: time.Now().Add(6 * time.Hour)}, acme.ErrNoWindow
	}
	start := leaf.NotBefore.Add(o.after)
	w, err := acme.NewWindow(leaf, start, start.Add(time.Hour))
	w.Asked, w.AskAgain = time.Now(), time.Now().Add(6*time.Hour)
	return w, err
}

func daemon(t *testing.T, eng *lifecycle.Engine, runs time.Duration, each func(lifecycle.Result)) {
	t.Helper()
	schedule, err := cron.ParseStandard("@every 12h")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), runs)
	defer cancel()
	(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Pass: func(ctx context.Context) []lifecycle.Result {
		results := eng.Pass(ctx, lifecycle.Options{})
		if ctx.Err() == nil {
			each(results[0])
		}
		return results
	}}).Run(ctx)
}

// The daemon renews in the very minute that the CA's window and the certificate give.
func TestTheDaemonRenewsAtTheMomentExactToTheMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		issuer := &oracle{ca: newCA(t, e, 6*day), after: 4 * day}
		eng := engine(e, newMemory(e), issuer, newPlace(e, "a"))
		var due time.Time
		renewals := 0
		daemon(t, eng, 60*day, func(r lifecycle.Result) {
			require.NoError(t, r.Err())
			if r.Obtained && !due.IsZero() {
				renewals++
				require.Equal(t, lifecycle.ARI, r.Before.Plan.Why)
				require.WithinRange(t, time.Now(), due, due.Add(time.Minute))
			}
			due = r.After.Plan.RenewAt
		})
		require.GreaterOrEqual(t, renewals, 14)
	})
}

// An outage of the CA's renewal information renews nothing and blocks nothing: what the CA said last counts, also for a
// process that never heard it.
func TestAnOutageOfRenewalInformationRenewsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		issuer := &oracle{ca: newCA(t, e, 90*day), after: 75 * day}
		store, target := newMemory(e), newPlace(e, "a")
		require.NoError(t, engine(e, store, issuer, target).Pass(t.Context(), lifecycle.Options{})[0].Err())
		issuer.down = true
		begun := time.Now()
		daemon(t, engine(e, store, issuer, target), 80*day, func(r lifecycle.Result) {
			require.NoError(t, r.Err())
			if len(issuer.issued) == 1 {
				require.Less(t, time.Since(begun), 75*day+time.Hour)
			} else {
				require.Greater(t, time.Since(begun), 75*day-time.Minute, "later than two thirds of the lifetime")
			}
		})
		require.Len(t, issuer.issued, 2)
	})
}

// The CA is asked once within the time that it named, whichever process or host looks, and whether it offers renewal information
// or not; a clock that was set back makes it asked at once.
func TestTheCAIsAskedOnceWithinItsRetryAfter(t *testing.T) {
	t.Parallel()
	for name, none := range map[string]bool{"a window": false, "no renewal information": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				issuer := &oracle{ca: newCA(t, e, 90*day), after: 75 * day, none: none}
				store, target := newMemory(e), newPlace(e, "a")
				pass := func(ahead time.Duration) lifecycle.Result {
					eng := engine(e, store, issuer, target)
					eng.Now = func() time.Time { return time.Now().Add(ahead) }
					r := eng.Pass(t.Context(), lifecycle.Options{})[0]
					require.NoError(t, r.Err())
					require.Equal(t, none, r.After.State.Window == nil)
					return r
				}
				first := pass(0)
				asked := issuer.asked
				for range 5 {
					time.Sleep(time.Hour)
					again := pass(0)
					require.Equal(t, first.After.Plan.RenewAt, again.After.Plan.RenewAt)
				}
				require.Equal(t, asked, issuer.asked, "it is remembered")
				time.Sleep(2 * time.Hour)
				pass(0)
				pass(0)
				require.Equal(t, asked+1, issuer.asked, "it may be asked again, once")
				pass(-3 * time.Hour)
				require.Equal(t, asked+2, issuer.asked, "a clock that was set back")
			})
		})
	}
}

// A CA that moves its window for a version that was brought in from elsewhere recalls it, however often it was asked since.
func TestWhatWasSaidLastIsNoMeasureOfARecall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		issuer := &oracle{ca: newCA(t, e, 90*day), after: 75 * day}
		store, target := newMemory(e), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
		require.NoError(t, err)
		require.NotNil(t, record.Suggested)
		record.Window = nil // as of one that was not obtained here
		eng.Certificates[0].Timing.Windows = windows(t, "Sat 02:00-03:00")
		_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
		require.NoError(t, err)
		for time.Now().Weekday() != time.Monday {
			time.Sleep(day)
			require.False(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Obtained)
		}
		time.Sleep(2 * day)
		issuer.after = -day // its end is past
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.True(t, r.Obtained)
		require.Equal(t, lifecycle.ARI, r.Before.Plan.Why)
		record, _, err = certstore.LoadRecord(t.Context(), store, "maas")
		require.NoError(t, err)
		require.Equal(t, record.Current, record.Suggested.Version)
		require.Equal(t, record.Current, record.Window.Version)
	})
}

// A certificate of which nothing was ever heard is renewed by its lifetime.
func TestAnOutageFromTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		issuer := &oracle{ca: newCA(t, e, 90*day), after: 75 * day, down: true}
		eng := engine(e, newMemory(e), issuer, newPlace(e, "a"))
		daemon(t, eng, 61*day, func(r lifecycle.Result) { require.NoError(t, r.Err()) })
		require.Len(t, issuer.issued, 2)
	})
}

// What a killed run left visible is taken away although there is nothing to order.
func TestAnswersThatWereLeftAreTakenAway(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer := newMemory(e), newCA(t, e, 90*day)
	eng := engine(e, store, issuer, newPlace(e, "a"))
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	record.Answers = []certstore.Answer{{Type: "dns-01", Name: "a.example", Token: "t", Thumbprint: "p"}}
	_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.False(t, r.Obtained)
	require.Len(t, issuer.retracted, 1)
	record, _, err = certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Empty(t, record.Answers)
	before := e.n
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	require.Equal(t, before, e.n)
}
