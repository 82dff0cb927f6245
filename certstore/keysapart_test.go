package certstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/world"
)

func TestAKeeperInMemory(t *testing.T) {
	t.Parallel()
	storetest.RunKeeper(t, func(*testing.T) (a, b certstore.KeyKeeper) {
		k := storetest.NewKeeper()
		return k, k
	})
}

func TestAStoreWhoseKeysAreKeptApart(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		dir, keys := filepath.Join(t.TempDir(), "store"), storetest.NewKeeper()
		for _, store := range []*certstore.Store{&a, &b} {
			*store = certstore.NewKeysApart(certstore.NewFileStore(world.OS{}, dir), keys, time.Now)
		}
		return a, b
	})
}

// apart is a store of files with keys kept apart, and a base that fails on demand.
type apart struct {
	*certstore.KeysApart
	base *refusing
	keys *storetest.Keeper
	dir  string
	now  time.Time
}

type refusing struct {
	certstore.Store
	err error
}

func (r *refusing) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	if r.err != nil {
		return "", r.err
	}
	return r.Store.Write(ctx, name, data, prev)
}

func newApart(t *testing.T) *apart {
	t.Helper()
	a := &apart{keys: storetest.NewKeeper(), dir: t.TempDir(), now: time.Now()}
	a.base = &refusing{Store: certstore.NewFileStore(world.OS{}, a.dir)}
	a.KeysApart = certstore.NewKeysApart(a.base, a.keys, func() time.Time { return a.now })
	return a
}

// requireNoKey looks for keys in all files of the store.
func (a *apart) requireNoKey(t *testing.T) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(a.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		require.NotContains(t, string(text), "PRIVATE KEY", path)
		return err
	}))
}

// A version, the account and an order keep their keys apart, and go with them.
func TestKeysGoWithTheirDocuments(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	bundle, next := issue(t, authority(t), "maas.example.internal"), issue(t, authority(t), "maas.example.internal")
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = &certstore.Order{URL: "u", Key: string(bundle.KeyPEM())} }))
	require.Len(t, a.keys.Names(), 1)
	version, err := ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: bundle})
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = nil }))
	require.Len(t, a.keys.Names(), 1, "the order's has gone with it")
	account := certstore.Account{V: 1, Key: string(bundle.KeyPEM()), NextKey: string(next.KeyPEM())}
	revision, err := certstore.SaveAccount(ctx, a, account, "")
	require.NoError(t, err)
	require.Len(t, a.keys.Names(), 3)
	a.requireNoKey(t)

	read, err := certstore.LoadVersion(ctx, a, "maas", version.Number)
	require.NoError(t, err)
	require.Nil(t, read.Bundle.Key())
	require.Empty(t, read.Bundle.KeyPEM())
	require.Equal(t, bundle.Fingerprint(), read.Bundle.Fingerprint())
	whole, err := read.Bundle.WithKey(ctx)
	require.NoError(t, err)
	require.Equal(t, string(bundle.KeyPEM()), string(whole.KeyPEM()))

	account, _, err = certstore.LoadAccount(ctx, a)
	require.NoError(t, err)
	text, err := certstore.KeyText(ctx, a, "account", account.NextKey)
	require.NoError(t, err)
	require.Equal(t, string(next.KeyPEM()), text)
	account.Key, account.NextKey = account.NextKey, ""
	_, err = certstore.SaveAccount(ctx, a, account, revision)
	require.NoError(t, err)
	require.Len(t, a.keys.Names(), 2)

	require.NoError(t, ledger.Prune(ctx, nil, 0))
	require.Len(t, a.keys.Names(), 1, "the account's")
	require.True(t, strings.HasPrefix(a.keys.Names()[0], "account/"))
}

// While keys cannot be had, nothing is written that has one, and everything is read.
func TestKeysThatCannotBeHad(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	bundle := issue(t, authority(t), "maas.example.internal")
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	version, err := ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: bundle})
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Current = version.Number }))

	a.keys.Away(errors.New("it is sealed"))
	require.ErrorIs(t, a.ReadyKeys(ctx), certstore.ErrKeysAway)
	ledger, err = certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	read, err := ledger.Version(ctx, version.Number)
	require.NoError(t, err)
	_, err = read.Bundle.WithKey(ctx)
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Failures++ }), "what holds no key is written")
	err = ledger.Update(ctx, func(r *certstore.Record) {
		r.Order = &certstore.Order{Key: string(issue(t, authority(t), "maas.example.internal").KeyPEM())}
	})
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	_, err = ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: issue(t, authority(t), "maas.example.internal")})
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	a.requireNoKey(t)

	a.keys.Away(nil)
	record, _, err := certstore.LoadRecord(ctx, a, "maas")
	require.NoError(t, err)
	require.Nil(t, record.Order)
	require.Len(t, a.keys.Names(), 1)
}

// A key whose document could not be written is swept away after a day, and none before, and none that is named.
func TestKeysThatNobodyNamesAreSweptAway(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: issue(t, authority(t), "maas.example.internal")})
	require.NoError(t, err)
	a.base.err = errors.New("disk full")
	_, err = ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: issue(t, authority(t), "maas.example.internal")})
	require.ErrorContains(t, err, "disk full")
	a.base.err = nil
	require.Len(t, a.keys.Names(), 2)
	for _, days := range []int{0, 1} {
		a.now = a.now.AddDate(0, 0, 2*days)
		require.NoError(t, a.Sweep(ctx, "versions/maas"))
		require.Len(t, a.keys.Names(), 2-days)
	}
	version, err := certstore.LoadVersion(ctx, a, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.NoError(t, err, "it is the one that is named")
}

// What a CA says looks like no key, wherever it stands.
func TestNobodyNamesAKeyFromOutside(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	bundle := issue(t, authority(t), "maas.example.internal")
	key := string(bundle.KeyPEM())
	revision, err := certstore.SaveRecord(ctx, a, "maas", certstore.Record{V: 1, Order: &certstore.Order{Key: key}}, "")
	require.NoError(t, err)
	record, _, err := certstore.LoadRecord(ctx, a, "maas")
	require.NoError(t, err)
	reference := record.Order.Key
	require.True(t, certstore.IsKeptApart(reference))
	for _, text := range []string{reference, `"key": "` + reference + `"`, `\", "key": "` + reference} {
		record.Window = &certstore.Window{Explanation: text}
		record.Attempts = []certstore.Attempt{{Error: text}}
		revision, err = certstore.SaveRecord(ctx, a, "maas", record, revision)
		require.NoError(t, err)
		whole, _, err := certstore.ReadWhole(ctx, a, "state/maas")
		require.NoError(t, err)
		var doc certstore.Record
		require.NoError(t, json.Unmarshal(whole, &doc))
		require.Equal(t, key, doc.Order.Key)
		require.Equal(t, text, doc.Window.Explanation)
		require.Equal(t, text, doc.Attempts[0].Error)
		require.Equal(t, 1, strings.Count(string(whole), "BEGIN PRIVATE KEY"))
	}
	_, err = a.Write(ctx, "nodes/region1", []byte(key), "")
	require.ErrorContains(t, err, "would hold a private key")
}

// A key that was exchanged, or is gone, is no key of the document.
func TestAKeyThatIsAnotherOne(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: issue(t, authority(t), "maas.example.internal")})
	require.NoError(t, err)
	name := a.keys.Names()[0]
	require.NoError(t, a.keys.Delete(ctx, name))
	version, err := certstore.LoadVersion(ctx, a, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorIs(t, err, certstore.ErrNotFound)
	require.NoError(t, a.keys.Put(ctx, name, issue(t, authority(t), "maas.example.internal").KeyPEM()))
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorContains(t, err, "is another one")

	plain := certstore.NewFileStore(world.OS{}, a.dir)
	version, err = certstore.LoadVersion(ctx, plain, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorContains(t, err, "this configuration does not say where")
}
