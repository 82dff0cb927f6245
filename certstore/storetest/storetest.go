// Package storetest is what every certificate store must do.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
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
		"names that could leave the store are refused":         badNames,
		"an account and a record are kept as they were":        documents,
		"a store that works can be written":                    writable,
		"S1: what could not be read again is not written":      tooLarge,
		"what hosts say of themselves is kept for 30 days":     nodes,
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
	_, unlock, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	for _, store := range []certstore.Store{a, b} {
		_, _, err = store.Lock(t.Context(), "maas")
		require.ErrorIs(t, err, certstore.ErrLocked)
	}
	unlock()
	_, unlock, err = b.Lock(t.Context(), "maas")
	require.NoError(t, err)
	unlock()
}

func lockContext(t *testing.T, a, _ certstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held, unlock, err := a.Lock(ctx, "maas")
	require.NoError(t, err)
	require.NoError(t, held.Err())
	unlock()
	<-held.Done()
	require.NoError(t, ctx.Err())
}

func lockNames(t *testing.T, a, b certstore.Store) {
	_, first, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	defer first()
	_, second, err := b.Lock(t.Context(), "other")
	require.NoError(t, err)
	second()
}

func lockWaits(t *testing.T, a, b certstore.Store) {
	_, unlock, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	_, _, err = certstore.LockWithin(t.Context(), b, "maas", 0)
	require.ErrorIs(t, err, certstore.ErrLocked)
	taken := make(chan error)
	go func() {
		_, second, err := certstore.LockWithin(t.Context(), b, "maas", testPatience)
		if err == nil {
			second()
		}
		taken <- err
	}()
	unlock()
	require.NoError(t, <-taken)
}

func badNames(t *testing.T, a, _ certstore.Store) {
	for _, name := range []string{"", "/", "../x", "state/../../x", "state/.x", "a//b", "a/", "/a", "a b", "a\x00b"} {
		_, err := a.Write(t.Context(), name, []byte("x"), "")
		require.Errorf(t, err, "write %q", name)
		_, _, err = a.Read(t.Context(), name)
		require.Errorf(t, err, "read %q", name)
		require.Errorf(t, a.Delete(t.Context(), name), "delete %q", name)
		_, _, err = a.Lock(t.Context(), name)
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
	most := make([]byte, certstore.MaxDocument)
	revision, err := a.Write(t.Context(), "state/maas", most, "")
	require.NoError(t, err)
	_, err = a.Write(t.Context(), "state/maas", append(most, 'x'), revision)
	require.ErrorContains(t, err, "more than a document may have")
	data, _, err := b.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Len(t, data, certstore.MaxDocument)
}

func nodes(t *testing.T, a, b certstore.Store) {
	now := time.Now()
	for host, at := range map[string]time.Time{"region1": now, "region2": now.Add(-certstore.NodeAge / 2)} {
		require.NoError(t, certstore.SaveNode(t.Context(), a, certstore.Node{V: 1, Node: host, LastPass: at}, ""))
	}
	kept, err := certstore.LoadNodes(t.Context(), b, now)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	later := now.Add(certstore.NodeAge * 3 / 4)
	_, revision, err := certstore.LoadNode(t.Context(), b, "region1")
	require.NoError(t, err)
	require.NoError(t, certstore.SaveNode(t.Context(), b, certstore.Node{V: 1, Node: "region1", LastPass: later}, revision))
	hosts, err := a.List(t.Context(), "nodes")
	require.NoError(t, err)
	require.Equal(t, []string{"region1"}, hosts)
}

func documents(t *testing.T, a, b certstore.Store) {
	account := certstore.Account{V: 1, Key: "k", Registrations: map[string]certstore.Registration{"d": {URL: "u"}}}
	_, err := certstore.SaveAccount(t.Context(), a, account, "")
	require.NoError(t, err)
	got, _, err := certstore.LoadAccount(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, account.Registrations["d"].URL, got.Registrations["d"].URL)

	record := certstore.Record{V: 1, Current: 3, Order: &certstore.Order{URL: "o", Key: "k"}}
	revision, err := certstore.SaveRecord(t.Context(), b, "maas", record, "")
	require.NoError(t, err)
	read, again, err := certstore.LoadRecord(t.Context(), a, "maas")
	require.NoError(t, err)
	require.Equal(t, revision, again)
	require.Equal(t, "o", read.Order.URL)
	require.Equal(t, 3, read.Current)
}

// testPatience bounds a wait that ends at once unless the store is broken.
const testPatience = 30 * time.Second
