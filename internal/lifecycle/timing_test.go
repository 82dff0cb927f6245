package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/maintenance"
)

func windows(t *testing.T, texts ...string) maintenance.Windows {
	t.Helper()
	var all maintenance.Windows
	for _, text := range texts {
		w, err := maintenance.Parse(text)
		require.NoError(t, err)
		all = append(all, w)
	}
	return all
}

func left(t *testing.T, text string) certstore.Left {
	t.Helper()
	l, err := certstore.ParseLeft(text)
	require.NoError(t, err)
	return l
}

// For a year the daemon renews when it is told to, and in no other hours.
func TestAYearOfRenewalsInTheirTime(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		before   string
		windows  []string
		lifetime time.Duration
		left     [2]float64 // of the lifetime, at each renewal
		orders   [2]int     // in a year, the first among them
	}{
		"as usual":                      {"", nil, 90 * day, [2]float64{0.32, 0.34}, [2]int{6, 7}},
		"with half left":                {"50%", nil, 90 * day, [2]float64{0.49, 0.51}, [2]int{8, 9}},
		"20 days before":                {"480h", nil, 90 * day, [2]float64{0.21, 0.23}, [2]int{5, 6}},
		"no more than two thirds":       {"10000h", nil, 90 * day, [2]float64{0.65, 0.67}, [2]int{12, 13}},
		"short lived, with a third":     {"34%", nil, 6 * day, [2]float64{0.33, 0.35}, [2]int{91, 94}},
		"on Saturdays":                  {"", []string{"Sat 02:00-05:00"}, 90 * day, [2]float64{0.25, 0.34}, [2]int{5, 7}},
		"at night, with half left":      {"50%", []string{"22:00-04:00"}, 90 * day, [2]float64{0.48, 0.51}, [2]int{8, 9}},
		"short lived, at night":         {"", []string{"02:00-05:00"}, 6 * day, [2]float64{0.3, 0.51}, [2]int{100, 122}},
		"on the first nights of a week": {"", []string{"Mon-Wed 23:30-00:30"}, 90 * day, [2]float64{0.27, 0.34}, [2]int{5, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, row.lifetime), newPlace(e, "a", "b")
				eng := engine(e, store, issuer, target)
				if row.before != "" {
					eng.Certificates[0].Timing.Before = left(t, row.before)
				}
				eng.Certificates[0].Timing.Windows = windows(t, row.windows...)
				ctx, cancel := context.WithTimeout(t.Context(), 365*day)
				defer cancel()
				schedule, err := cron.ParseStandard("@every 12h")
				require.NoError(t, err)
				orders := 0
				(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Nap: 10 * time.Minute, Pass: func(ctx context.Context) []lifecycle.Result {
					results := eng.Pass(ctx, lifecycle.Options{})
					if r := results[0]; ctx.Err() == nil {
						require.NoError(t, r.Err())
						require.True(t, r.After.Summary.IsHealthy())
						if before := r.Before.State.Current; r.Obtained && before != nil {
							now, leaf := time.Now(), before.Bundle.Leaf()
							share := float64(leaf.NotAfter.Sub(now)) / float64(leaf.NotAfter.Sub(leaf.NotBefore))
							require.True(t, share >= row.left[0] && share <= row.left[1], "%.3f of the lifetime is left", share)
							require.True(t, eng.Certificates[0].Timing.Windows.Contains(now), "%v is in no window", now)
						}
						if r.Obtained {
							orders++
						}
					}
					return results
				}}).Run(ctx)
				require.True(t, orders >= row.orders[0] && orders <= row.orders[1], "%d orders", orders)
			})
		})
	}
}

// Nothing but time is held back by a window: neither what is missing, nor other names, nor the last tenth.
func TestAWindowHoldsTimeBackAndNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b")
		eng := engine(e, store, issuer, target)
		closed := fmt.Sprintf("%s 00:00-00:01", time.Now().Add(-24*time.Hour).Format("Mon"))
		eng.Certificates[0].Timing.Windows = windows(t, closed)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err(), "missing")
		eng.Certificates[0].Wish.Names = append(eng.Certificates[0].Wish.Names, "another.example")
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.True(t, r.Obtained, "other names")
		require.True(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Obtained, "forced")

		time.Sleep(60*day + time.Hour)
		held := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, held.Err())
		require.False(t, held.Obtained)
		require.True(t, held.After.Summary.IsHealthy(), "it is not overdue: it is held back")
		require.True(t, eng.Certificates[0].Timing.Windows.Contains(held.After.Plan.RenewAt), "%v", held.After.Plan.RenewAt)

		// In its hour the CA is away: outside it nothing is tried, and it is not hidden.
		time.Sleep(time.Until(held.After.Plan.RenewAt))
		issuer.fail = errors.New("the CA is away")
		require.Error(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		time.Sleep(time.Hour)
		issuer.fail = nil
		missed := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.False(t, missed.Obtained)
		require.Equal(t, lifecycle.StateWaiting, missed.After.Summary)
		require.True(t, missed.IsNotNow())
		require.ErrorContains(t, missed.Err(), "the CA is away")

		time.Sleep(day) // its hour has passed
		require.Equal(t, lifecycle.StateWaiting, eng.Pass(t.Context(), lifecycle.Options{})[0].After.Summary)
		forgotten := eng.Certificates[0]
		record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
		require.NoError(t, err)
		record.Failures = 0
		_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
		require.NoError(t, err)
		view, err := eng.Look(t.Context(), forgotten)
		require.NoError(t, err)
		require.Equal(t, lifecycle.StateOverdue, view.Summary, "nobody came in the hour")
		require.Contains(t, hint.Of(view.Troubles(forgotten)[0].Err), "maascert renew --force")

		time.Sleep(20 * day) // the last tenth
		late := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, late.Err())
		require.True(t, late.Obtained)
	})
}

// Windows that open too rarely for the certificate that there is are an error, before it matters.
func TestWindowsThatOpenTooRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 6*day), newPlace(e, "a", "b")
		eng := engine(e, store, issuer, target)
		eng.Certificates[0].Timing.Windows = windows(t, "Sat 02:00-05:00")
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.Equal(t, lifecycle.StateFailed, r.After.Summary)
		require.ErrorContains(t, r.Err(), "the windows of the configuration open")
		require.Contains(t, hint.Of(r.Err()), "renew_before")
		eng.Certificates[0].Timing.Windows = windows(t, "02:00-05:00")
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	})
}

// A CA that moves its window to the past wants the certificate replaced now, whatever the hour; one whose window passes while a renewal waits for
// its hour does not.
func TestARecallWaitsForNoWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		state := w.state(61*day, 90*day)
		leaf := state.Current.Bundle.Leaf()
		state.Timing.Windows = windows(t, fmt.Sprintf("%s 00:00-00:01", w.now.Add(-24*time.Hour).Format("Mon")))
		passed := acme.Window{Start: leaf.NotBefore.Add(58 * day), End: leaf.NotBefore.Add(60 * day)}
		state.Record.Window = &certstore.Window{Version: state.Current.Number, Start: passed.Start, End: passed.End}
		state.Window = &passed
		require.False(t, lifecycle.Decide(state).Obtain, "its window passed while it waited for the hour")
		recalled := acme.Window{Start: leaf.NotBefore.Add(20 * day), End: leaf.NotBefore.Add(21 * day)}
		state.Window = &recalled
		plan := lifecycle.Decide(state)
		require.True(t, plan.Obtain)
		require.Equal(t, lifecycle.ARI, plan.Why)
		require.False(t, plan.RenewAt.After(w.now))
		state.Record.Window = nil
		require.True(t, lifecycle.Decide(state).Obtain, "nobody remembers the former one")
	})
}

// A host with a daemon counts as silent before a certificate ends that only it can bring to what it serves, however seldom the schedule is;
// one whose timer fires as seldom as that is not silent in between.
func TestSilenceEndsBeforeCertificatesDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long, short, tiny := w.state(day, 90*day), w.state(time.Hour, day), w.state(0, 2*time.Minute)
	const missed = 24*time.Hour + lifecycle.PassTime // two passes
	for name, row := range map[string]struct {
		states []lifecycle.State
		want   time.Duration
	}{
		"nothing seen": {[]lifecycle.State{{}}, missed},
		"long":         {[]lifecycle.State{{}, long}, missed},
		"short":        {[]lifecycle.State{long, short}, 8 * time.Hour},
		"tiny":         {[]lifecycle.State{tiny}, time.Minute},
	} {
		var views []lifecycle.View
		for _, state := range row.states {
			views = append(views, lifecycle.View{State: state})
		}
		silence := lifecycle.SilenceOf(12*time.Hour, views...)
		require.Equal(t, row.want, silence.Of(certstore.Node{}).Round(time.Minute), name)
		require.Equal(t, missed, silence.Of(certstore.Node{ByTimer: true}), name)
	}
}
