package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/notify"
)

// outage is an error of a CA that has trouble of its own.
func outage() error { return &acme.Error{Op: "newOrder", Status: 503, Detail: "try later"} }

var weekly = lifecycle.Rehearsals{Weekly: true, Config: "c"}

// A rehearsal is made now, at a time, or not at all.
func TestRehearseDue(t *testing.T) {
	t.Parallel()
	const now, never = time.Duration(0), time.Duration(-1)
	before := func(w *world, ago time.Duration, change func(*certstore.Rehearsal)) *certstore.Rehearsal {
		at := w.now.Add(-ago)
		r := &certstore.Rehearsal{At: at, Tried: at, Node: "region1", By: "region1", Configs: map[string]string{"region1": "c"}}
		if change != nil {
			change(r)
		}
		return r
	}
	hourly, err := cron.ParseStandard("@every 1h")
	require.NoError(t, err)
	for name, row := range map[string]struct {
		lifetime time.Duration // 90 days when 0
		age      time.Duration // 10 days when 0
		policy   *lifecycle.Rehearsals
		change   func(w *world, s *lifecycle.State)
		ends     time.Duration // of another certificate, which has to be looked at
		started  time.Duration // ago; 0: before all that
		want     time.Duration // from now
	}{
		"the first is made at once":          {want: now},
		"the next a week later":              {change: func(w *world, s *lifecycle.State) { s.Record.Rehearsal = before(w, day, nil) }, want: 6 * day},
		"one that is due is made":            {change: func(w *world, s *lifecycle.State) { s.Record.Rehearsal = before(w, 7*day, nil) }, want: now},
		"none where nobody wants any":        {policy: &lifecycle.Rehearsals{}, want: never},
		"none where lifetimes are short":     {lifetime: 13 * day, age: day * 3, want: never},
		"but as a schedule says, also then":  {lifetime: 13 * day, age: day * 3, policy: &lifecycle.Rehearsals{Schedule: hourly}, want: now},
		"a schedule says when the next is":   {policy: &lifecycle.Rehearsals{Schedule: hourly, Config: "c"}, change: func(w *world, s *lifecycle.State) { s.Record.Rehearsal = before(w, 30*time.Minute, nil) }, want: 30 * time.Minute},
		"none before there is a certificate": {change: func(_ *world, s *lifecycle.State) { s.Current = nil }, want: never},
		"none where nobody renews":           {change: func(_ *world, s *lifecycle.State) { s.Watched = true }, want: never},
		"none while an order is under way":   {change: func(_ *world, s *lifecycle.State) { s.Record.Order = &certstore.Order{} }, want: never},
		"none within a day after an order": {change: func(w *world, s *lifecycle.State) {
			s.Record.Attempts = []certstore.Attempt{{At: w.now.Add(-time.Hour), Why: "lifetime"}}
		}, want: 23 * time.Hour},
		"none within a day before a renewal": {age: 59*day + time.Hour, want: never},
		"none when one is due":               {age: 61 * day, want: never},
		"the configuration changed": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 2*day, func(r *certstore.Rehearsal) { r.Configs["region1"] = "b" })
		}, want: now},
		"but not twice an hour": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 20*time.Minute, func(r *certstore.Rehearsal) { r.Configs["region1"] = "b" })
		}, want: 40 * time.Minute},
		"one that failed is made again soon": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 10*time.Minute, func(r *certstore.Rehearsal) { r.Failed = r.At })
		}, want: 50 * time.Minute},
		"and at once when somebody starts the daemon anew": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 2*time.Hour, func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true })
		}, started: time.Hour, want: now},
		"while it fails twice a day": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 2*time.Hour, func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true })
		}, want: 10 * time.Hour},
		"while the CA is away soon at first": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 10*time.Minute, func(r *certstore.Rehearsal) { r.Skipped = r.At })
		}, want: 50 * time.Minute},
		"and then twice a day": {change: func(w *world, s *lifecycle.State) {
			s.Record.Rehearsal = before(w, 2*time.Hour, func(r *certstore.Rehearsal) { r.Skipped = r.At.Add(-day) })
		}, want: 10 * time.Hour},
		"not when another certificate ends":    {ends: 9 * time.Minute, want: never},
		"but when that leaves it a while":      {ends: 11 * time.Minute, want: now},
		"a clock that was ahead delays it not": {change: func(w *world, s *lifecycle.State) { s.Record.Rehearsal = before(w, -300*day, nil) }, want: now},
		"another host's turn is waited for": {change: func(w *world, s *lifecycle.State) {
			s.Nodes = others(w, 50)
		}, want: 12 * time.Hour},
		"but not that of one that is not there": {change: func(w *world, s *lifecycle.State) {
			s.Nodes = others(w, 50)
			for i := range s.Nodes {
				s.Nodes[i].LastRun = w.now.Add(-3 * day)
			}
		}, want: now},
		"a configuration of its own is nobody else's turn": {change: func(w *world, s *lifecycle.State) {
			s.Nodes = others(w, 50)
			s.Record.Rehearsal = before(w, 2*day, func(r *certstore.Rehearsal) { r.Configs["region1"] = "b" })
		}, want: now},
		"whoever found a failure looks again": {change: func(w *world, s *lifecycle.State) {
			s.Nodes = others(w, 50)
			s.Record.Rehearsal = before(w, time.Hour, func(r *certstore.Rehearsal) { r.Failed = r.At })
		}, want: now},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			state := w.state(cmpOr(row.age, 10*day), cmpOr(row.lifetime, 90*day))
			if row.change != nil {
				row.change(w, &state)
			}
			policy := weekly
			if row.policy != nil {
				policy = *row.policy
			}
			eng := engine(new(effects), newMemory(new(effects)), nil, newPlace(new(effects)))
			_, err := certstore.SaveRecord(t.Context(), eng.Store, "maas", recordOf(state), "")
			require.NoError(t, err)
			eng.Now, eng.Certificates[0].Rehearsals = func() time.Time { return w.now }, policy
			if row.started > 0 {
				eng.Started = w.now.Add(-row.started)
			}
			made := 0
			results := []lifecycle.Result{{Name: "maas", After: lifecycle.View{State: state}}}
			if row.ends > 0 {
				results = append(results, lifecycle.Result{Name: "other", After: lifecycle.View{State: w.state(day-row.ends, day)}})
			}
			next := eng.RehearseDue(t.Context(), results, func(context.Context, string) lifecycle.Rehearsed {
				made++
				return lifecycle.Rehearsed{Level: lifecycle.Issued}
			})
			switch row.want {
			case never:
				require.Zero(t, made)
				require.True(t, next.IsZero(), "%v", next)
			case now:
				require.Equal(t, 1, made)
				require.Equal(t, w.now.UTC(), results[0].After.State.Record.Rehearsal.At)
			default:
				require.Zero(t, made)
				require.WithinDuration(t, w.now.Add(row.want), next, time.Second)
			}
		})
	}
}

// recordOf is the record of a state as the store has it.
func recordOf(state lifecycle.State) certstore.Record {
	record := state.Record
	record.V = 1
	return record
}

func cmpOr(a, b time.Duration) time.Duration {
	if a != 0 {
		return a
	}
	return b
}

// others are so many hosts with daemons, beside this one.
func others(w *world, n int) []certstore.Node {
	var nodes []certstore.Node
	for i := range n {
		nodes = append(nodes, certstore.Node{Node: "other" + string(rune('A'+i)), LastRun: w.now, LastPass: w.now})
	}
	return nodes
}

// Hosts that share a store rehearse a certificate once a week together, whoever is there.
func TestADeploymentRehearsesOnceAWeek(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := newMemory(new(effects))
	_, err := certstore.SaveRecord(t.Context(), store, "maas", recordOf(w.state(day, 900*day)), "")
	require.NoError(t, err)
	hosts, made := []string{"region1", "region2", "region3"}, map[string]int{}
	now := w.now
	for range 20 * 7 * 4 { // twenty weeks, a look each six hours
		now = now.Add(6 * time.Hour)
		var nodes []certstore.Node
		for _, host := range hosts {
			nodes = append(nodes, certstore.Node{Node: host, LastRun: now, LastPass: now})
		}
		for _, host := range hosts {
			eng := engine(new(effects), store, nil, newPlace(new(effects)))
			eng.Node, eng.Now, eng.Certificates[0].Rehearsals = host, func() time.Time { return now }, weekly
			record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
			require.NoError(t, err)
			state := w.state(day, 900*day)
			state.Now, state.Node, state.Nodes, state.Record.Rehearsal = now, host, nodes, record.Rehearsal
			eng.RehearseDue(t.Context(), []lifecycle.Result{{Name: "maas", After: lifecycle.View{State: state}}}, func(context.Context, string) lifecycle.Rehearsed {
				made[host]++
				return lifecycle.Rehearsed{}
			})
		}
	}
	total := made["region1"] + made["region2"] + made["region3"]
	require.InDelta(t, 20+len(hosts), total, 3, "%v: each host its own configuration once", made)
	for _, host := range hosts {
		require.Greater(t, made[host], 2, "%v", made)
	}
}

// What a rehearsal came to counts as a failure when it failed twice, an hour apart; what says nothing of the next renewal does not.
func TestWhatARehearsalCameTo(t *testing.T) {
	t.Parallel()
	fails := func(err error, atCA bool) lifecycle.Rehearsed {
		return lifecycle.Rehearsed{AtCA: atCA, Result: lifecycle.Result{Troubles: []lifecycle.Trouble{{Stage: lifecycle.StageObtain, Err: hint.Add(err, "open it")}}}}
	}
	closed := errors.New("the port is closed")
	type made struct {
		after    time.Duration
		came     lifecycle.Rehearsed
		failing  bool // it is known to fail
		skipping bool
	}
	for name, rows := range map[string][]made{
		"twice within an hour is once":      {{0, fails(closed, true), false, false}, {30 * time.Minute, fails(closed, true), false, false}, {time.Hour, fails(closed, true), true, false}, {day, lifecycle.Rehearsed{}, false, false}},
		"healed between is no failure":      {{0, fails(closed, true), false, false}, {time.Hour, lifecycle.Rehearsed{}, false, false}, {day, fails(closed, true), false, false}},
		"a CA for dry runs may be away":     {{0, fails(outage(), false), false, true}, {30 * day, fails(outage(), false), false, true}, {day, lifecycle.Rehearsed{}, false, false}},
		"the CA itself not for days":        {{0, fails(outage(), true), false, true}, {2 * day, fails(outage(), true), false, true}, {day, fails(outage(), true), true, true}, {day, lifecycle.Rehearsed{}, false, false}},
		"an outage heals nothing":           {{0, fails(closed, true), false, false}, {time.Hour, fails(closed, true), true, false}, {day, fails(outage(), false), true, true}},
		"another run's lock says nothing":   {{0, lifecycle.Rehearsed{Result: lifecycle.Result{Troubles: []lifecycle.Trouble{{Stage: lifecycle.StageLock, NotNow: true, Err: errors.New("locked")}}}}, false, true}},
		"a failure beside an outage is one": {{0, lifecycle.Rehearsed{Result: lifecycle.Result{Troubles: []lifecycle.Trouble{{Stage: lifecycle.StageObtain, Err: outage()}, {Target: "front", Stage: lifecycle.StageGuard, Err: closed}}}}, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			eng := engine(new(effects), newMemory(new(effects)), nil, newPlace(new(effects)))
			now, state := w.now, w.state(day, 900*day)
			eng.Now, eng.Certificates[0].Rehearsals = func() time.Time { return now }, lifecycle.Rehearsals{Schedule: everyMinute(t), Config: "c"}
			_, err := certstore.SaveRecord(t.Context(), eng.Store, "maas", recordOf(state), "")
			require.NoError(t, err)
			for i, row := range rows {
				now = now.Add(row.after)
				record, revision, err := certstore.LoadRecord(t.Context(), eng.Store, "maas")
				require.NoError(t, err)
				if record.Rehearsal != nil {
					record.Rehearsal.Configs = nil // each is made as if the configuration had changed
					record.Rehearsal.Tried = record.Rehearsal.Tried.Add(-day)
					_, err = certstore.SaveRecord(t.Context(), eng.Store, "maas", record, revision)
					require.NoError(t, err)
				}
				state.Record.Rehearsal = record.Rehearsal
				results := []lifecycle.Result{{Name: "maas", After: lifecycle.View{State: state}}}
				eng.RehearseDue(t.Context(), results, func(context.Context, string) lifecycle.Rehearsed { return row.came })
				after := results[0].After.State.Record.Rehearsal
				require.NotNil(t, after)
				require.Equal(t, row.failing, after.Proven, "%d", i)
				require.Equal(t, row.skipping, !after.Skipped.IsZero(), "%d", i)
				if row.failing && i == 2 && !row.skipping {
					require.Equal(t, []string{"obtain", "the port is closed", "open it"}, []string{after.Stage, after.Error, after.Hint})
				}
			}
		})
	}
}

func everyMinute(t *testing.T) cron.Schedule {
	schedule, err := cron.ParseStandard("@every 1m")
	require.NoError(t, err)
	return schedule
}

// A year in which the CA for dry runs has ten outages, of an hour to two weeks: nothing is told that is not so, and nothing is left out.
func TestAYearOfRehearsals(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 3, 4} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 0))
				began := time.Now()
				away := map[int]bool{} // by hour
				for range 10 {
					at := rng.IntN(365 * 24)
					for hour := range 1 + rng.IntN(14*24) {
						away[at+hour] = true
					}
				}
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
				eng := engine(e, store, issuer, target)
				eng.Certificates[0].Rehearsals = weekly
				usual, all := &heard{}, &heard{}
				teller := &lifecycle.Teller{
					Channels: []notify.Channel{{Name: "usual", Notifier: usual}, {Name: "all", Notifier: all, Kinds: []notify.Kind{notify.RehearsalSkipped, notify.RehearsalFailed, notify.Recovered}}},
					Store:    store, Node: "region1", Period: (day - lifecycle.PassTime) / 2, Now: time.Now, Log: slog.New(slog.DiscardHandler),
				}
				ctx, cancel := context.WithTimeout(t.Context(), 365*day)
				defer cancel()
				schedule, err := cron.ParseStandard("@every 24h")
				require.NoError(t, err)
				made, skipped := 0, 0
				(&lifecycle.Daemon{
					Schedule: schedule, Now: time.Now, Nap: time.Hour,
					Pass: func(ctx context.Context) []lifecycle.Result { return eng.Pass(ctx, lifecycle.Options{}) },
					After: func(ctx context.Context, results []lifecycle.Result, next time.Time) time.Time {
						rehearsing := eng.RehearseDue(ctx, results, func(context.Context, string) lifecycle.Rehearsed {
							if away[int(time.Since(began).Hours())] {
								skipped++
								return lifecycle.Rehearsed{Result: lifecycle.Result{Troubles: []lifecycle.Trouble{{Stage: lifecycle.StageObtain, Err: outage()}}}}
							}
							made++
							return lifecycle.Rehearsed{Level: lifecycle.Issued}
						})
						_, again := teller.Tell(ctx, eng.Certificates, results)
						if again.IsZero() || !rehearsing.IsZero() && rehearsing.Before(again) {
							return rehearsing
						}
						return again
					},
				}).Run(ctx)
				require.Empty(t, usual.take(), "nothing was wrong")
				told := all.take()
				require.NotContains(t, told, "rehearsal_failed")
				require.Equal(t, skipped > 0, slices.Contains(told, "rehearsal_skipped"))
				require.Greater(t, made, 30)
				require.Less(t, made, 60)
				require.Less(t, skipped, 300)
				require.LessOrEqual(t, len(issuer.issued), 7)
			})
		})
	}
}

// A renewal ends what was known of its rehearsal when that failed, and says nothing of a rehearsal that worked.
func TestARenewalEndsARehearsalThatFailed(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store := newMemory(e)
	eng := engine(e, store, newCA(t, e, 90*day), newPlace(e, "a"))
	_, err := certstore.SaveRecord(t.Context(), store, "maas", certstore.Record{V: 1, Rehearsal: &certstore.Rehearsal{
		At: time.Now(), Failed: time.Now(), Proven: true, Error: "the port is closed", Configs: map[string]string{"region1": "c"},
	}}, "")
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	left := r.After.State.Record.Rehearsal
	require.True(t, left.At.IsZero() && left.Failed.IsZero() && !left.Proven && left.Error == "", "%+v", left)
	require.Equal(t, map[string]string{"region1": "c"}, left.Configs)
}

// What a CA's server says of itself is an outage; that its certificate is not trusted is none.
func TestOutages(t *testing.T) {
	t.Parallel()
	require.True(t, acme.IsOutage(outage()))
	require.False(t, acme.IsOutage(printable.Tame(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})), "another server's")
	require.True(t, acme.IsOutage(&acme.Error{Status: 500}))
	require.True(t, acme.IsOutage(&acme.Error{Type: "rateLimited", Status: 429}))
	require.False(t, acme.IsOutage(&acme.Error{Type: "unauthorized", Status: 403}))
	require.False(t, acme.IsOutage(&acme.Error{Op: acme.FailedValidation + "maas", Type: "connection"}))
	require.False(t, acme.IsOutage(&net.OpError{Op: "dial", Err: errors.New("refused")}), "somebody else was dialled")
}
