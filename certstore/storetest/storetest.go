// Package storetest is what every certificate store must do.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// Run runs the suite. open returns two stores that work on the same, empty place, as two processes would.
func Run(t *testing.T, open func(t *testing.T) (a, b certstore.Store)) {
	for name, test := range map[string]func(t *testing.T, a, b certstore.Store){
		"a document that was never written is not found":       missing,
		"what one writes the other reads":                      shared,
		"a write needs the revision that was read":             compareAndSwap,
		"a new document is made only once":                     madeOnce,
		"of many writers at once exactly one wins each round":  contended,
		"a deleted document is not found and can be made anew": deleted,
		"a folder lists its own documents":                     listed,
		"a lock keeps others out until it is released":         locked,
		"a lock's context ends when it is released":            lockContext,
		"locks of different names do not touch":                lockNames,
		"a waiting lock is taken when it gets free":            lockWaits,
		"a lock's store refuses once it is released":           lockStore,
		"who finds a lock taken is told who has it":            lockHolder,
		"locks taken side by side do not disturb each other":   locksSideBySide,
		"the same bundle twice is one in the index":            twice,
		"a ledger keeps what two hosts write at once":          ledgers,
		"names that could leave the store are refused":         badNames,
		"an account and a record are kept as they were":        documents,
		"a store that works can be written":                    writable,
		"S1: what could not be read again is not written":      tooLarge,
		"what hosts say of themselves is kept for 30 days":     nodes,
		"what is read ahead is what is read":                   readAhead,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := open(t)
			test(t, a, b)
		})
	}
}

func missing(t *testing.T, a, _ certstore.Store) {
	_, _, err := a.Read(t.Context(), "state/maas")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	names, err := a.List(t.Context(), "versions/maas")
	require.NoError(t, err)
	require.Empty(t, names)
}

func shared(t *testing.T, a, b certstore.Store) {
	written, err := a.Write(t.Context(), "versions/maas/1", []byte("one"), "")
	require.NoError(t, err)
	data, read, err := b.Read(t.Context(), "versions/maas/1")
	require.NoError(t, err)
	require.Equal(t, "one", string(data))
	require.Equal(t, written, read)
}

func compareAndSwap(t *testing.T, a, b certstore.Store) {
	first, err := a.Write(t.Context(), "state/maas", []byte("1"), "")
	require.NoError(t, err)
	second, err := b.Write(t.Context(), "state/maas", []byte("2"), first)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	_, err = a.Write(t.Context(), "state/maas", []byte("3"), first)
	require.ErrorIs(t, err, certstore.ErrConflict)
	data, _, err := a.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, "2", string(data))
}

func madeOnce(t *testing.T, a, b certstore.Store) {
	_, err := a.Write(t.Context(), "account", []byte("a"), "")
	require.NoError(t, err)
	_, err = b.Write(t.Context(), "account", []byte("b"), "")
	require.ErrorIs(t, err, certstore.ErrConflict)
}

func contended(t *testing.T, a, b certstore.Store) {
	var revision certstore.Revision
	for round := range 5 {
		var wins sync.Map
		var group sync.WaitGroup
		for writer := range 8 {
			group.Go(func() {
				store := []certstore.Store{a, b}[writer%2]
				next, err := store.Write(t.Context(), "state/maas", fmt.Appendf(nil, "%d by %d", round, writer), revision)
				if err == nil {
					wins.Store(writer, next)
				} else if !errors.Is(err, certstore.ErrConflict) {
					t.Errorf("a loser should see a conflict, saw %v", err)
				}
			})
		}
		group.Wait()
		won := 0
		wins.Range(func(_, next any) bool {
			won++
			revision = next.(certstore.Revision)
			return true
		})
		require.Equal(t, 1, won)
	}
}

func deleted(t *testing.T, a, b certstore.Store) {
	_, err := a.Write(t.Context(), "versions/maas/1", []byte("1"), "")
	require.NoError(t, err)
	require.NoError(t, b.Delete(t.Context(), "versions/maas/1"))
	require.NoError(t, b.Delete(t.Context(), "versions/maas/1"))
	_, _, err = a.Read(t.Context(), "versions/maas/1")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	_, err = a.Write(t.Context(), "versions/maas/1", []byte("1"), "")
	require.NoError(t, err)
}

func listed(t *testing.T, a, b certstore.Store) {
	for _, name := range []string{"versions/maas/2", "versions/maas/10", "versions/other/1", "state/maas"} {
		_, err := a.Write(t.Context(), name, []byte(name), "")
		require.NoError(t, err)
	}
	names, err := b.List(t.Context(), "versions/maas")
	require.NoError(t, err)
	require.Equal(t, []string{"10", "2"}, names)
}

func locked(t *testing.T, a, b certstore.Store) {
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	for _, store := range []certstore.Store{a, b} {
		_, err = store.Lock(t.Context(), "maas")
		require.ErrorIs(t, err, certstore.ErrLocked)
	}
	held.Unlock()
	held, err = b.Lock(t.Context(), "maas")
	require.NoError(t, err)
	held.Unlock()
}

func lockContext(t *testing.T, a, _ certstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held, err := a.Lock(ctx, "maas")
	require.NoError(t, err)
	require.NoError(t, held.Context().Err())
	held.Unlock()
	<-held.Context().Done()
	require.NoError(t, ctx.Err())
}

func lockStore(t *testing.T, a, b certstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	held, err := a.Lock(ctx, "maas")
	require.NoError(t, err)
	cancel() // as when a run is interrupted: what has happened is written down all the same
	revision, err := held.Write(t.Context(), "state/maas", []byte("1"), "")
	require.NoError(t, err)
	held.Unlock()
	_, err = held.Write(t.Context(), "state/maas", []byte("2"), revision)
	require.ErrorIs(t, err, certstore.ErrLockLost)
	require.ErrorIs(t, held.Delete(t.Context(), "state/maas"), certstore.ErrLockLost)
	data, _, err := held.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, "1", string(data))
	held.Unlock() // does no harm
	again, err := b.Lock(t.Context(), "maas")
	require.NoError(t, err)
	held.Unlock()
	_, err = again.Write(t.Context(), "state/maas", []byte("3"), revision)
	require.NoError(t, err)
	again.Unlock()
}

func lockHolder(t *testing.T, a, b certstore.Store) {
	holder, err := b.Holder(t.Context(), "maas")
	require.NoError(t, err)
	require.Nil(t, holder, "nobody ever had it")
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	_, err = b.Lock(t.Context(), "maas")
	var locked *certstore.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, os.Getpid(), locked.Holder.PID)
	require.WithinDuration(t, time.Now(), locked.Holder.Since, testPatience)
	require.ErrorContains(t, err, "locked by another run")
	holder, err = b.Holder(t.Context(), "maas")
	require.NoError(t, err)
	require.Equal(t, locked.Holder, *holder)
	held.Unlock()
	holder, err = b.Holder(t.Context(), "maas")
	require.NoError(t, err)
	require.Nil(t, holder)
}

func locksSideBySide(t *testing.T, a, b certstore.Store) {
	var group sync.WaitGroup
	for name, store := range map[string]certstore.Store{"maas": a, "other": b} {
		group.Go(func() {
			for range 50 {
				held, err := store.Lock(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				if holder, err := store.Holder(t.Context(), name); err != nil || holder == nil || holder.Since.IsZero() {
					t.Errorf("%s: %v, %v", name, holder, err)
				}
				held.Unlock()
			}
		})
	}
	group.Wait()
}

func twice(t *testing.T, a, b certstore.Store) {
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "a.example")
	require.NoError(t, err)
	ledger, err := certstore.OpenLedger(t.Context(), a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(t.Context(), certstore.Version{Origin: certstore.FromACME, Created: time.Now(), Bundle: bundle})
	require.NoError(t, err)
	data, _, err := a.Read(t.Context(), "versions/maas/1")
	require.NoError(t, err)
	_, err = a.Write(t.Context(), "versions/maas/2", bytes.Replace(data, []byte(`"number": 1`), []byte(`"number": 2`), 1), "")
	require.NoError(t, err)
	ledger, err = certstore.OpenLedger(t.Context(), b, "maas")
	require.NoError(t, err)
	require.NoError(t, ledger.Update(t.Context(), func(*certstore.Record) {}))
	for range 3 {
		require.NoError(t, ledger.Reread(t.Context()))
		require.True(t, ledger.IsIndexed())
		require.Len(t, ledger.Versions(), 1)
	}
	pair, err := authority.Issue(certstore.EC256, 0, time.Hour, "stranger.example")
	require.NoError(t, err)
	_, err = ledger.Add(t.Context(), certstore.Version{Origin: certstore.FromMAAS, Created: time.Now(), Bundle: pair})
	require.NoError(t, err)
	require.Empty(t, ledger.Versions()[pair.Fingerprint()].Names, "S1: a stranger's names do not swell the record")
	require.Equal(t, []string{"a.example"}, ledger.Versions()[bundle.Fingerprint()].Names)
}

func ledgers(t *testing.T, a, b certstore.Store) {
	var all []*certstore.Ledger
	for _, store := range []certstore.Store{a, b} {
		ledger, err := certstore.OpenLedger(t.Context(), store, "maas")
		require.NoError(t, err)
		all = append(all, ledger)
	}
	var group sync.WaitGroup
	for i, ledger := range all {
		group.Go(func() {
			for n := range 20 {
				err := ledger.Update(t.Context(), func(r *certstore.Record) {
					r.Failures++
					r.Fail(fmt.Sprint(i), certstore.Attempt{Stage: "deploy", Error: fmt.Sprint(n)})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for _, ledger := range all {
		require.NoError(t, ledger.Reread(t.Context()))
		require.Equal(t, 40, ledger.Record().Failures)
		require.Equal(t, "19", ledger.Record().Deployments["0"].Failure.Error)
		require.Equal(t, "19", ledger.Record().Deployments["1"].Failure.Error)
	}
}

func lockNames(t *testing.T, a, b certstore.Store) {
	first, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	defer first.Unlock()
	second, err := b.Lock(t.Context(), "other")
	require.NoError(t, err)
	second.Unlock()
}

func lockWaits(t *testing.T, a, b certstore.Store) {
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	_, err = certstore.LockWithin(t.Context(), b, "maas", 0)
	require.ErrorIs(t, err, certstore.ErrLocked)
	taken := make(chan error)
	go func() {
		second, err := certstore.LockWithin(t.Context(), b, "maas", testPatience)
		if err == nil {
			second.Unlock()
		}
		taken <- err
	}()
	held.Unlock()
	require.NoError(t, <-taken)
}

func badNames(t *testing.T, a, _ certstore.Store) {
	for _, name := range []string{"", "/", "../x", "state/../../x", "state/.x", "a//b", "a/", "/a", "a b", "a\x00b"} {
		_, err := a.Write(t.Context(), name, []byte("x"), "")
		require.Errorf(t, err, "write %q", name)
		_, _, err = a.Read(t.Context(), name)
		require.Errorf(t, err, "read %q", name)
		require.Errorf(t, a.Delete(t.Context(), name), "delete %q", name)
		_, err = a.Lock(t.Context(), name)
		require.Errorf(t, err, "lock %q", name)
	}
}

func writable(t *testing.T, a, b certstore.Store) {
	require.NoError(t, a.Writable(t.Context()))
	_, err := b.Write(t.Context(), "state/maas", []byte("x"), "")
	require.NoError(t, err)
	require.NoError(t, a.Writable(t.Context()))
}

func tooLarge(t *testing.T, a, b certstore.Store) {
	most := make([]byte, certstore.MaxDocument-certstore.Overhead)
	revision, err := a.Write(t.Context(), "state/maas", most, "")
	require.NoError(t, err)
	_, err = a.Write(t.Context(), "state/maas", make([]byte, certstore.MaxDocument+1), revision)
	require.ErrorContains(t, err, "more than a document may have")
	data, _, err := b.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Len(t, data, len(most))
}

func nodes(t *testing.T, a, b certstore.Store) {
	now := time.Now()
	pass := func(store certstore.Store, host string, at time.Time) {
		require.NoError(t, certstore.UpdateNode(t.Context(), store, host, func(n *certstore.Node) { n.LastPass, n.Version = at, n.Version+"." }))
	}
	pass(a, "region2", now.Add(-certstore.NodeAge/2))
	pass(a, "region1", now)
	kept, err := certstore.LoadNodes(t.Context(), b, now)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	later := now.Add(certstore.NodeAge * 3 / 4)
	pass(b, "region1", later)
	own, _, err := certstore.LoadNode(t.Context(), a, "region1")
	require.NoError(t, err)
	require.Equal(t, "region1..", own.Node+own.Version)
	hosts, err := a.List(t.Context(), "nodes")
	require.NoError(t, err)
	require.Equal(t, []string{"region1"}, hosts)
}

func readAhead(t *testing.T, a, b certstore.Store) {
	for _, name := range []string{"account", "nodes/region1", "nodes/region2", "state/maas", "versions/maas/1", "versions/maas/10", "versions/other/1"} {
		_, err := a.Write(t.Context(), name, []byte("first "+name), "")
		require.NoError(t, err)
	}
	ahead := certstore.Ahead(t.Context(), b, certstore.Wanted{
		Documents: []string{"account", "state/maas", "state/none"}, Folders: []string{"nodes", "answers"}, Lists: []string{"versions/maas"},
	})
	for _, name := range []string{"account", "nodes/region2", "state/maas", "versions/maas/10"} {
		want, at, err := b.Read(t.Context(), name)
		require.NoError(t, err)
		got, revision, err := ahead.Read(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
		require.Equal(t, at, revision)
	}
	for _, name := range []string{"state/none", "nodes/region3", "answers/region1", "state/other"} {
		_, _, err := ahead.Read(t.Context(), name)
		require.ErrorIs(t, err, certstore.ErrNotFound)
	}
	for _, folder := range []string{"nodes", "versions/maas", "versions/other", "answers", "state"} {
		want, err := b.List(t.Context(), folder)
		require.NoError(t, err)
		got, err := ahead.List(t.Context(), folder)
		require.NoError(t, err)
		require.Equal(t, append([]string{}, want...), append([]string{}, got...), folder)
	}

	// Whoever writes, however that ends, reads what there is then.
	_, revision, err := ahead.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	_, err = a.Write(t.Context(), "state/maas", []byte("faster"), revision)
	require.NoError(t, err)
	_, err = ahead.Write(t.Context(), "state/maas", []byte("slower"), revision)
	require.ErrorIs(t, err, certstore.ErrConflict)
	data, _, err := ahead.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, "faster", string(data))
	require.NoError(t, ahead.Delete(t.Context(), "nodes/region1"))
	left, err := ahead.List(t.Context(), "nodes")
	require.NoError(t, err)
	require.Equal(t, []string{"region2"}, left)
	_, _, err = ahead.Read(t.Context(), "nodes/region1")
	require.ErrorIs(t, err, certstore.ErrNotFound)
}

func documents(t *testing.T, a, b certstore.Store) {
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue("ec256", 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	key := string(bundle.KeyPEM())
	account := certstore.Account{V: 1, Key: key, Registrations: map[string]certstore.Registration{"d": {URL: "u"}}}
	_, err = certstore.SaveAccount(t.Context(), a, account, "")
	require.NoError(t, err)
	got, _, err := certstore.LoadAccount(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, account.Registrations["d"].URL, got.Registrations["d"].URL)
	text, err := certstore.KeyText(t.Context(), b, "account", got.Key)
	require.NoError(t, err)
	require.Equal(t, key, text)

	record := certstore.Record{V: 1, Current: 3, Order: &certstore.Order{URL: "o", Key: key}}
	revision, err := certstore.SaveRecord(t.Context(), b, "maas", record, "")
	require.NoError(t, err)
	read, again, err := certstore.LoadRecord(t.Context(), a, "maas")
	require.NoError(t, err)
	require.Equal(t, revision, again)
	require.Equal(t, "o", read.Order.URL)
	require.Equal(t, 3, read.Current)
	text, err = certstore.KeyText(t.Context(), a, "state/maas", read.Order.Key)
	require.NoError(t, err)
	require.Equal(t, key, text)
}

// testPatience bounds a wait that ends at once unless the store is broken.
const testPatience = 30 * time.Second
