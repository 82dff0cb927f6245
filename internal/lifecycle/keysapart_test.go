package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
)

// keeper keeps keys apart, and is away for a while before what a test wants.
type keeper struct {
	*storetest.Keeper
	before func(what string)
}

func (k *keeper) happen(what string) {
	if k.before != nil {
		k.before(what)
	}
}

func (k *keeper) Put(ctx context.Context, name string, key []byte) error {
	k.happen("put " + name)
	return k.Keeper.Put(ctx, name, key)
}

func (k *keeper) Get(ctx context.Context, name string) ([]byte, error) {
	k.happen("get " + name)
	return k.Keeper.Get(ctx, name)
}

func (k *keeper) Delete(ctx context.Context, name string) error {
	k.happen("delete " + name)
	return k.Keeper.Delete(ctx, name)
}

func (k *keeper) Age(ctx context.Context, name string) (time.Duration, error) {
	k.happen("age " + name)
	return k.Keeper.Age(ctx, name)
}

func (k *keeper) List(ctx context.Context, folder string) (keys, folders []string, err error) {
	k.happen("list " + folder)
	return k.Keeper.List(ctx, folder)
}

func (k *keeper) Ready(ctx context.Context) error {
	k.happen("ready")
	return k.Keeper.Ready(ctx)
}

var errSealed = hint.Add(errors.New("it is sealed"), "unseal it there")

// While keys cannot be had nothing is ordered, what is served stays served, and people can see why; as soon as they can, the daemon goes on by
// itself, and no failure is counted.
func TestTheDaemonWaitsForKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		keys := &keeper{Keeper: storetest.NewKeeper()}
		store := certstore.NewKeysApart(newMemory(e), keys)
		issuer, target := newCA(t, e, 30*day), newPlace(e, "a", "b")
		eng := engine(e, store, issuer, target)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		schedule, err := cron.ParseStandard("@every 12h")
		require.NoError(t, err)
		var last lifecycle.Result
		done := make(chan struct{})
		go func() {
			defer close(done)
			(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Pass: func(ctx context.Context) []lifecycle.Result {
				results := eng.Pass(ctx, lifecycle.Options{})
				last = results[0]
				return results
			}}).Run(ctx)
		}()
		time.Sleep(day)
		synctest.Wait()
		require.NoError(t, last.Err())
		require.Equal(t, 1, last.After.Version())
		served := target.serves["a"].Fingerprint()

		keys.Away(errSealed)
		time.Sleep(27 * day) // it got due long ago
		synctest.Wait()
		require.ErrorIs(t, last.Err(), certstore.ErrKeysAway)
		require.Len(t, issuer.made, 1, "nothing was ordered")
		require.Zero(t, last.After.State.Record.Failures)
		require.Equal(t, served, target.serves["b"].Fingerprint())
		require.Equal(t, lifecycle.StateFailed, last.After.Summary)
		view, err := eng.Look(t.Context(), eng.Certificates[0])
		require.NoError(t, err)
		troubles := view.Troubles(eng.Certificates[0])
		require.NotEmpty(t, troubles)
		require.ErrorIs(t, troubles[0].Err, certstore.ErrKeysAway)
		require.Contains(t, hint.Of(troubles[0].Err), "unseal it there")

		keys.Away(nil)
		time.Sleep(3 * time.Hour) // of which two days are left
		synctest.Wait()
		require.NoError(t, last.Err())
		require.Equal(t, 2, last.After.Version())
		require.Len(t, issuer.made, 2)
		require.NotEqual(t, served, target.serves["a"].Fingerprint())
		cancel()
		<-done
	})
}

// Before whatever request the keeper goes away, and comes back later: no key is lost, one order at the most is made besides, and the next pass
// leaves everything as it should be.
func TestKeysGoAwayAtAnyMoment(t *testing.T) {
	t.Parallel()
	count := 0 // of an undisturbed renewal, which is the first
	for at := 0; at <= count; at++ {
		synctest.Test(t, func(t *testing.T) {
			e := new(effects)
			keys := &keeper{Keeper: storetest.NewKeeper()}
			base := newMemory(e)
			store := certstore.NewKeysApart(base, keys)
			issuer, target := newCA(t, e, 90*day), newPlace(e, "a", "b")
			eng := engine(e, store, issuer, target)
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
			n := 0 // counts requests
			var when string
			keys.before = func(what string) {
				if n++; n == at {
					when = what
					keys.Away(errSealed)
				}
			}
			time.Sleep(65 * day) // it is due
			first := eng.Pass(t.Context(), lifecycle.Options{})[0]
			if at == 0 {
				count = n
			}
			keys.before = nil
			for endpoint, bundle := range target.serves {
				require.NotNil(t, bundle, endpoint)
			}
			keys.Away(nil)
			time.Sleep(time.Minute)
			last := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.NoError(t, last.Err(), "%s: %v", when, first.Err())
			require.Len(t, issuer.made, 2, when)
			require.Equal(t, 2, last.After.Version(), when)
			require.Zero(t, last.After.State.Record.Failures, when)
			for endpoint, bundle := range target.serves {
				require.Equal(t, last.After.State.Current.Bundle.Fingerprint(), bundle.Fingerprint(), endpoint)
			}
			time.Sleep(2 * day) // what could not be removed is swept away with the next renewal
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
			var kept []string
			for _, name := range keys.Names() {
				if _, below, _ := strings.Cut(name, "/"); below != "deployment" && !strings.HasPrefix(below, "generation/") {
					kept = append(kept, below)
				}
			}
			require.Len(t, kept, 3, "%s: one for each version: %v", when, kept)
		})
	}
	require.Greater(t, count, 15)
	t.Logf("%d requests", count)
}

// A key that somebody deleted is made up for, once nobody can have mistaken a server that is behind for that: the version counts as lost.
func TestKeysThatSomebodyDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		keys := &keeper{Keeper: storetest.NewKeeper()}
		store := certstore.NewKeysApart(newMemory(e), keys)
		issuer, target := newCA(t, e, 90*day), newPlace(e, "a", "b")
		eng := engine(e, store, issuer, target)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		for _, name := range keys.Names() {
			if strings.Contains(name, "/versions/") {
				require.NoError(t, keys.Delete(t.Context(), name))
			}
		}
		for range 3 {
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.ErrorIs(t, r.Err(), certstore.ErrKeysAway)
			require.Len(t, issuer.made, 1)
		}
		time.Sleep(time.Hour)
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.Equal(t, 2, r.After.Version())
		require.Len(t, issuer.made, 2)

		// Nothing of the deployment is there: another place is looked at, and nothing is ordered because of that.
		time.Sleep(time.Hour)
		for _, name := range keys.Names() {
			require.NoError(t, keys.Delete(t.Context(), name))
		}
		r = eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.ErrorIs(t, r.Err(), certstore.ErrKeysAway)
		require.Len(t, issuer.made, 2)
		require.Equal(t, 2, r.After.Version(), "what is served is still known")
	})
}

// An order was finalized, and its key is not given: within an hour that may be a server which is behind, and the certificate is had with it later;
// after that the order goes on with another key.
func TestAnOrderWhoseKeyIsNotThere(t *testing.T) {
	t.Parallel()
	for _, comesBack := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := new(effects)
			keys := storetest.NewKeeper()
			issuer, target := newCA(t, e, 90*day), newPlace(e, "a")
			eng := engine(e, certstore.NewKeysApart(newMemory(e), keys), issuer, target)
			e.at = func(name string) error {
				if name == "download" {
					return errEffect
				}
				return nil
			}
			require.ErrorIs(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err(), errEffect)
			e.at = nil
			at := keys.Names()[slices.IndexFunc(keys.Names(), func(name string) bool { return strings.Contains(name, "/state/") })]
			text, err := keys.Get(t.Context(), at)
			require.NoError(t, err)
			require.NoError(t, keys.Delete(t.Context(), at))
			time.Sleep(20 * time.Minute)
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.ErrorIs(t, r.Err(), certstore.ErrKeysAway)
			require.Equal(t, 1, r.After.State.Record.Failures, "that of the download")
			require.NotNil(t, r.After.State.Record.Order)
			if comesBack {
				require.NoError(t, keys.Put(t.Context(), at, text))
			} else {
				time.Sleep(40 * time.Minute)
			}
			r = eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.NoError(t, r.Err())
			require.Equal(t, 1, r.After.Version())
			require.Len(t, issuer.made, 1)
			require.Equal(t, comesBack, string(target.serves["a"].KeyPEM()) == string(text))
		})
	}
}

// Passes that somebody wants while keys cannot be had put off none that was to be made.
func TestWhoWakesADaemonPutsNothingOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		keys := &keeper{Keeper: storetest.NewKeeper()}
		keys.Away(errSealed)
		issuer := newCA(t, e, 30*day)
		eng := engine(e, certstore.NewKeysApart(newMemory(e), keys), issuer, newPlace(e, "a"))
		schedule, err := cron.ParseStandard("@every 12h")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		wake, done := make(chan struct{}), make(chan struct{})
		began, times := time.Now(), make(chan time.Duration, 20)
		go func() {
			defer close(done)
			(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Wake: wake, Pass: func(ctx context.Context) []lifecycle.Result {
				times <- time.Since(began).Round(time.Second)
				return eng.Pass(ctx, lifecycle.Options{})
			}}).Run(ctx)
		}()
		for range 5 {
			time.Sleep(2 * time.Second)
			wake <- struct{}{}
		}
		time.Sleep(55 * time.Second)
		synctest.Wait()
		var passes []time.Duration
		for len(times) > 0 {
			passes = append(passes, <-times)
		}
		require.Len(t, passes, 7, "%v", passes)
		require.Equal(t, time.Minute, passes[6], "%v", passes)
		keys.Away(nil)
		time.Sleep(5 * time.Minute)
		cancel()
		<-done
		require.Len(t, issuer.made, 1)
	})
}
