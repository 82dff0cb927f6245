package lifecycle

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// looksOf is when a daemon looks within a while, in seconds since its start, given what each pass came to.
func looksOf(t *testing.T, within time.Duration, pass func(n int) Result) []int {
	t.Helper()
	schedule, err := cron.ParseStandard("@every 12h")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	begun := time.Now()
	var at []int
	(&Daemon{Schedule: schedule, Now: time.Now, Pass: func(context.Context) []Result {
		at = append(at, int(time.Since(begun).Seconds()))
		return []Result{pass(len(at))}
	}}).Run(ctx)
	return at
}

// R1: what got due while a pass was made is done at once, and not when the schedule says.
func TestR1WhatGotDueDuringAPassIsDoneAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := looksOf(t, time.Hour, func(n int) Result {
			return Result{Name: "maas", After: View{Plan: Plan{Obtain: n == 1}}}
		})
		require.Equal(t, []int{0, 1}, at)
	})
	synctest.Test(t, func(t *testing.T) {
		at := looksOf(t, time.Hour, func(int) Result { return Result{Name: "maas", After: View{Plan: Plan{Obtain: true}}} })
		require.LessOrEqual(t, len(at), 70, "a plan that never ends is not run without a pause")
	})
}

// R2: a guard that fails for hours does not cost a certificate its life.
func TestR2AGuardThatFailsIsAskedAgainBeforeTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		authority, err := certtest.NewAuthority()
		require.NoError(t, err)
		bundle, err := authority.Issue(certstore.EC256, 12*time.Hour, 24*time.Hour, "a.example")
		require.NoError(t, err)
		state := State{Now: time.Now(), Current: &certstore.Version{Number: 1, Bundle: bundle}}
		at := looksOf(t, 12*time.Hour, func(int) Result {
			return Result{Name: "maas", Troubles: []Trouble{{Stage: StageGuard, Err: errors.New("no")}}, After: View{State: state, Plan: Plan{Obtain: true}}}
		})
		for i := 1; i < len(at); i++ {
			left := 12*3600 - at[i-1]
			require.LessOrEqual(t, at[i]-at[i-1], max(left/10, 10)+1, "look %d at %d s", i, at[i])
		}
	})
}

// R4: the daemon goes by the wall alone, which goes on while a machine is suspended, and notices when it is set back.
func TestR4TheDaemonGoesByTheWall(t *testing.T) {
	t.Parallel()
	require.NotContains(t, (&Daemon{Now: time.Now}).now().String(), "m=", "what stands still while the machine sleeps does not count")
	for _, jump := range []time.Duration{25 * time.Hour, -25 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var ahead atomic.Int64
			d := &Daemon{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}
			begun := time.Now()
			time.AfterFunc(time.Hour, func() { ahead.Store(int64(jump)) })
			require.True(t, d.sleepUntil(t.Context(), begun.Add(12*time.Hour)))
			require.Less(t, time.Since(begun), time.Hour+time.Minute)
		})
	}
}

// A record whose current version is lost while an expired one is served has no lifetime to go by.
func TestAnOrderWithoutAVersionHasNoBoundOfOurs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := State{Now: now, Known: map[string]certstore.VersionInfo{"f": {Number: 1, NotAfter: now.Add(-time.Hour)}}, Targets: []TargetState{{Name: "maas"}}}
	s.Record.Deployments = map[string]certstore.Deployment{"maas": {Verified: 1}}
	require.Zero(t, s.orderTime())
	require.Equal(t, now.Add(lateLook), s.latestLook())
}
