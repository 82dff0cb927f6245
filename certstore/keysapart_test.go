package certstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/hint"
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
			*store = certstore.NewKeysApart(certstore.NewFileStore(world.OS{}, dir), keys)
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
	a.keys.Now = func() time.Time { return a.now }
	a.KeysApart = certstore.NewKeysApart(a.base, a.keys)
	return a
}

// ordered is a version with a bundle of the CA's.
func (a *apart) ordered(bundle *certstore.Bundle) certstore.Version {
	return certstore.Version{Origin: certstore.FromACME, Created: a.now, Bundle: bundle}
}

// anyBundle is one of a CA of its own.
func anyBundle(t *testing.T) *certstore.Bundle {
	t.Helper()
	return issue(t, authority(t), "maas.example.internal")
}

// kept are the names of the keys, without the deployment's folder and its mark.
func (a *apart) kept() (names []string) {
	for _, name := range a.keys.Names() {
		if _, below, _ := strings.Cut(name, "/"); below != "deployment" && !strings.HasPrefix(below, "generation/") {
			names = append(names, below)
		}
	}
	return names
}

// folder is where the deployment's keys are.
func (a *apart) folder() string {
	folder, _, _ := strings.Cut(a.keys.Names()[0], "/")
	return folder
}

// requireNoKeyIn looks for a key in one document.
func (a *apart) requireNoKeyIn(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, name))
	require.NoError(t, err)
	require.NotContains(t, string(text), "PRIVATE KEY")
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
	bundle, next := anyBundle(t), anyBundle(t)
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = &certstore.Order{URL: "u", Key: string(bundle.KeyPEM())} }))
	require.Len(t, a.kept(), 1)
	version, err := ledger.Add(ctx, a.ordered(bundle))
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = nil }))
	require.Len(t, a.kept(), 1, "the order's has gone with it")
	account := certstore.Account{V: 1, Key: string(bundle.KeyPEM()), NextKey: string(next.KeyPEM())}
	revision, err := certstore.SaveAccount(ctx, a, account, "")
	require.NoError(t, err)
	require.Len(t, a.kept(), 3)
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
	require.Len(t, a.kept(), 2)

	require.NoError(t, ledger.Prune(ctx, nil, 0))
	require.Len(t, a.kept(), 1, "the account's")
	require.True(t, strings.HasPrefix(a.kept()[0], "account/"))
}

// While keys cannot be had, nothing is written that has one, and everything is read.
func TestKeysThatCannotBeHad(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	bundle := anyBundle(t)
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	version, err := ledger.Add(ctx, a.ordered(bundle))
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Current = version.Number }))

	a.keys.Away(errors.New("it is sealed"))
	require.ErrorIs(t, certstore.ReadyKeys(ctx, a), certstore.ErrKeysAway)
	require.NotErrorIs(t, a.Writable(ctx), certstore.ErrKeysAway, "documents can be written")
	ledger, err = certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	read, err := ledger.Version(ctx, version.Number)
	require.NoError(t, err)
	require.ErrorIs(t, read.Bundle.CheckKey(ctx), certstore.ErrKeysAway)
	_, err = read.Bundle.WithKey(ctx)
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Failures++ }), "what holds no key is written")
	err = ledger.Update(ctx, func(r *certstore.Record) {
		r.Order = &certstore.Order{Key: string(anyBundle(t).KeyPEM())}
	})
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	a.requireNoKey(t)

	a.keys.Away(nil)
	record, _, err := certstore.LoadRecord(ctx, a, "maas")
	require.NoError(t, err)
	require.Nil(t, record.Order)
	require.Len(t, a.kept(), 1)
}

// A key whose document could not be written is swept away after a day, and none before, and none that is named.
func TestKeysThatNobodyNamesAreSweptAway(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
	require.NoError(t, err)
	a.base.err = errors.New("disk full")
	_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
	require.ErrorContains(t, err, "disk full")
	a.base.err = nil
	require.Len(t, a.kept(), 2)
	for _, days := range []int{0, 1} {
		a.now = a.now.AddDate(0, 0, 2*days)
		require.NoError(t, certstore.SweepKeys(ctx, a, "versions/maas", true))
		require.Len(t, a.kept(), 2-days)
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
	bundle := anyBundle(t)
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

	// Nor does a key stand where something from outside may, which is no error.
	record.Attempts = []certstore.Attempt{{Error: key}}
	_, err = certstore.SaveRecord(ctx, a, "maas", record, revision)
	require.NoError(t, err)
}

// Whoever may write the documents chooses no key: neither by one that stands there, nor by a name that leads elsewhere.
func TestADocumentChoosesNoKey(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	key := string(anyBundle(t).KeyPEM())
	plain := certstore.NewFileStore(world.OS{}, a.dir)
	for _, one := range []string{key, "kept apart: thumbprint:../../maas/global/tls", "kept apart: thumbprint:", "kept apart: thumbprint:" + strings.Repeat("A", 64)} {
		require.NoError(t, plain.Delete(ctx, "account"))
		_, err := certstore.SaveAccount(ctx, plain, certstore.Account{V: 1, Key: one}, "")
		require.NoError(t, err)
		_, _, err = certstore.LoadAccount(ctx, a)
		require.ErrorContains(t, err, "account does not name its private key")
		require.NotContains(t, err.Error(), "BEGIN")
		require.Contains(t, hint.Of(err), "maascert store copy")
	}
	require.Empty(t, a.keys.Names())
}

// A document that others could read in two ways is refused: a key in it would be chosen by whoever wrote it, or would be written in clear.
func TestADocumentIsReadInOneWay(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	key := string(anyBundle(t).KeyPEM())
	quoted, err := json.Marshal(key)
	require.NoError(t, err)
	plain := certstore.NewFileStore(world.OS{}, a.dir)
	for name, texts := range map[string][]string{
		"account": {
			`{"v":1,"key":` + string(quoted) + `,"order":5}`, `{"v":1,"key":"","KEY":` + string(quoted) + `}`, `{"v":1,"key":` + string(quoted) + `,"key":""}`, `{"v":1,"NEXT_KEY":""}`,
			`{"v":1,"key":null}`, `{"v":1,"key":["x"]}`,
		},
		"state/maas": {
			`{"v":1,"order":{"key":` + string(quoted) + `},"next_key":5}`, `{"v":1,"order":{"key":` + string(quoted) + `},"ORDER":null}`, `{"v":1,"order":{"Key":` + string(quoted) + `}}`,
			`{"v":1,"Next_Key":[]}`, `{"v":1,"order":[]}`, `{"v":1,"order":{"key":` + string(quoted) + `}}`,
		},
		"versions/maas/1": {`{"v":1,"key":` + string(quoted) + `}`, `{"v":1,"kEy":` + string(quoted) + `}`},
	} {
		for _, text := range texts {
			require.NoError(t, plain.Delete(ctx, name))
			_, err := plain.Write(ctx, name, []byte(text), "")
			require.NoError(t, err)
			_, _, err = a.Read(ctx, name)
			require.Error(t, err, text)
			require.NotContains(t, err.Error(), "BEGIN")
			_, err = a.Write(ctx, "state/other", []byte(strings.Replace(text, `"key":`+string(quoted), `"key": `+string(quoted), 1)), "")
			if err == nil { // it was written with the key kept apart
				a.requireNoKeyIn(t, "state/other")
				require.NoError(t, a.Delete(ctx, "state/other"))
			}
		}
	}
}

// A document that somebody wrote with other spaces cannot have its key put in, and is not copied without it.
func TestADocumentIsCopiedWithItsKeyOrNotAtAll(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	key := string(anyBundle(t).KeyPEM())
	_, err := certstore.SaveAccount(ctx, a, certstore.Account{V: 1, Key: key}, "")
	require.NoError(t, err)
	data, revision, err := a.Read(ctx, "account")
	require.NoError(t, err)
	whole, _, err := certstore.ReadWhole(ctx, a, "account")
	require.NoError(t, err)
	require.Contains(t, string(whole), "BEGIN PRIVATE KEY")
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, data))
	_, err = certstore.NewFileStore(world.OS{}, a.dir).Write(ctx, "account", compact.Bytes(), revision)
	require.NoError(t, err)
	_, _, err = certstore.ReadWhole(ctx, a, "account")
	require.ErrorContains(t, err, "account is damaged")
	require.NotContains(t, err.Error(), "BEGIN")
}

// Of two copies of a store the one that renewed last removes keys, and the other leaves them to it.
func TestACopyOfAStoreRemovesNothing(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	add := func(store certstore.Store) {
		ledger, err := certstore.OpenLedger(ctx, store, "maas")
		require.NoError(t, err)
		_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
		require.NoError(t, err)
	}
	add(a)
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(a.dir)))
	other := certstore.NewKeysApart(certstore.NewFileStore(world.OS{}, dir), a.keys)
	add(a)
	require.NoError(t, certstore.SweepKeys(ctx, a, "versions/maas", true))
	a.now = a.now.Add(48 * time.Hour)
	require.ErrorContains(t, certstore.SweepKeys(ctx, other, "versions/maas", true), "stay where they are")
	require.NoError(t, other.Delete(ctx, "versions/maas/1"))
	require.Len(t, a.kept(), 2)
	require.NoError(t, certstore.SweepKeys(ctx, a, "versions/maas", true))
	require.Len(t, a.kept(), 2)
	require.NoError(t, certstore.OwnsKeys(ctx, a))
	require.Error(t, certstore.OwnsKeys(ctx, other))
	removed, err := certstore.RemoveKeys(ctx, other)
	require.Error(t, err)
	require.Zero(t, removed)

	// Where the other one is no more, or what marks this one's place was restored from an older copy, a person says so.
	require.NoError(t, certstore.AcceptLostKeys(ctx, other))
	require.NoError(t, certstore.OwnsKeys(ctx, other))
	require.NoError(t, certstore.SweepKeys(ctx, other, "versions/maas", true))
}

// All keys of a deployment are removed, also those that no document names any more, and where that ended early it is done again.
func TestAllKeysAreRemoved(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	for range 3 {
		bundle := anyBundle(t)
		_, err = ledger.Add(ctx, a.ordered(bundle))
		require.NoError(t, err)
		require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = &certstore.Order{Key: string(bundle.KeyPEM())} }))
	}
	require.NoError(t, a.Store.Delete(ctx, "versions/maas/2"), "a run was killed before it removed the key")
	require.Len(t, a.kept(), 4)
	a.keys.DeletesOnly(2)
	removed, err := certstore.RemoveKeys(ctx, a)
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.Equal(t, 2, removed)
	a.keys.DeletesOnly(-1)
	removed, err = certstore.RemoveKeys(ctx, a)
	require.NoError(t, err)
	require.Equal(t, 2, removed)
	require.Empty(t, a.keys.Names())
	removed, err = certstore.RemoveKeys(ctx, a)
	require.NoError(t, err)
	require.Zero(t, removed)
}

// A document that nobody understands keeps its key, and so does a store whose word about the folder is lost.
func TestWhatNobodyUnderstandsIsNotSwept(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
	require.NoError(t, err)
	plain := certstore.NewFileStore(world.OS{}, a.dir)
	data, revision, err := plain.Read(ctx, "versions/maas/1")
	require.NoError(t, err)
	later := strings.Replace(strings.Replace(string(data), `"v": 1`, `"v": 2`, 1), `"key":`, `"private":`, 1)
	_, err = plain.Write(ctx, "versions/maas/1", []byte(later+"damage"), revision)
	require.NoError(t, err)
	a.now = a.now.Add(48 * time.Hour)
	require.NoError(t, certstore.SweepKeys(ctx, a, "versions/maas", true))
	require.Len(t, a.kept(), 1)

	require.NoError(t, plain.Delete(ctx, "keys"))
	_, revision, err = plain.Read(ctx, "versions/maas/1")
	require.NoError(t, err)
	_, err = plain.Write(ctx, "versions/maas/1", data, revision)
	require.NoError(t, err)
	version, err := certstore.LoadVersion(ctx, a, "maas", 1)
	require.NoError(t, err)
	for _, err := range []error{version.Bundle.CheckKey(ctx), a.Delete(ctx, "state/none")} {
		if err != nil {
			require.ErrorIs(t, err, certstore.ErrKeysAway)
			require.Contains(t, hint.Of(err), "restore it")
		}
	}
	ledger, err = certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, a.ordered(anyBundle(t)))
	require.ErrorIs(t, err, certstore.ErrKeysAway, "no other folder is made")
	require.Len(t, a.kept(), 1)
}

// Deployments that share a place for keys know nothing of each other's, whatever is deleted and swept.
func TestDeploymentsShareAPlaceForKeys(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	other := certstore.NewKeysApart(certstore.NewFileStore(world.OS{}, t.TempDir()), a.keys)
	bundle := anyBundle(t)
	for _, store := range []certstore.Store{a, other} {
		ledger, err := certstore.OpenLedger(ctx, store, "maas")
		require.NoError(t, err)
		_, err = ledger.Add(ctx, a.ordered(bundle))
		require.NoError(t, err)
	}
	require.NoError(t, other.Delete(ctx, "versions/maas/1"))
	require.NoError(t, certstore.SweepKeys(ctx, other, "versions/maas", false))
	require.Len(t, a.kept(), 1)
	version, err := certstore.LoadVersion(ctx, a, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.NoError(t, err)
}

// Of hosts that keep the first key at once each finds it afterwards.
func TestManyKeepTheFirstKeyAtOnce(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	bundles := make([]*certstore.Bundle, 8)
	for i := range bundles {
		bundles[i] = anyBundle(t)
	}
	var group sync.WaitGroup
	for i, bundle := range bundles {
		group.Go(func() {
			store := certstore.NewKeysApart(a.base, a.keys)
			ledger, err := certstore.OpenLedger(ctx, store, fmt.Sprint("maas", i))
			if err == nil {
				_, err = ledger.Add(ctx, a.ordered(bundle))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Len(t, a.kept(), len(bundles))
	for i := range bundles {
		version, err := certstore.LoadVersion(ctx, a, fmt.Sprint("maas", i), 1)
		require.NoError(t, err)
		_, err = version.Bundle.WithKey(ctx)
		require.NoError(t, err)
	}
}

// A key that was exchanged is no key of the document; one that is gone is lost, unless nothing of the deployment is there.
func TestAKeyThatIsAnotherOne(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	ledger, err := certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	bundle := anyBundle(t)
	_, err = ledger.Add(ctx, a.ordered(bundle))
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = &certstore.Order{URL: "u", Key: string(bundle.KeyPEM())} }))
	folder, names := a.folder(), a.kept()
	require.Len(t, names, 2)
	for _, name := range names {
		require.NoError(t, a.keys.Delete(ctx, folder+"/"+name))
	}
	version, err := certstore.LoadVersion(ctx, a, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorIs(t, err, certstore.ErrKeyLost)
	require.ErrorIs(t, version.Bundle.CheckKey(ctx), certstore.ErrKeyLost)
	order, err := ledger.Order(ctx)
	require.ErrorIs(t, err, certstore.ErrKeyLost)
	require.Equal(t, "u", order.URL)

	// The same bundle again is another version, whose key is there.
	ledger, err = certstore.OpenLedger(ctx, a, "maas")
	require.NoError(t, err)
	again, err := ledger.Add(ctx, a.ordered(bundle))
	require.NoError(t, err)
	require.Equal(t, 2, again.Number)
	read, err := certstore.LoadVersion(ctx, a, "maas", 2)
	require.NoError(t, err)
	require.NoError(t, read.Bundle.CheckKey(ctx))

	require.NoError(t, a.keys.Delete(ctx, folder+"/deployment"))
	for _, err := range []error{version.Bundle.CheckKey(ctx), certstore.ReadyKeys(ctx, a)} {
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.NotErrorIs(t, err, certstore.ErrKeyLost)
		require.Contains(t, hint.Of(err), "address, namespace, mount and path")
	}
	for _, name := range names {
		if strings.HasPrefix(name, "versions/") {
			require.NoError(t, a.keys.Put(ctx, folder+"/"+name, anyBundle(t).KeyPEM()))
		}
	}
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorIs(t, err, certstore.ErrOtherKey)

	plain := certstore.NewFileStore(world.OS{}, a.dir)
	version, err = certstore.LoadVersion(ctx, plain, "maas", 1)
	require.NoError(t, err)
	_, err = version.Bundle.WithKey(ctx)
	require.ErrorContains(t, err, "this configuration does not say where")
}

// A rehearsal reads keys, keeps none and removes none.
func TestARehearsalKeepsNoKeys(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	overlay := certstore.NewOverlay(a)
	ledger, err := certstore.OpenLedger(ctx, overlay, "maas")
	require.NoError(t, err)
	bundle := anyBundle(t)
	_, err = ledger.Add(ctx, a.ordered(bundle))
	require.NoError(t, err)
	require.NoError(t, ledger.Update(ctx, func(r *certstore.Record) { r.Order = &certstore.Order{URL: "u", Key: string(bundle.KeyPEM())} }))
	require.Empty(t, a.keys.Names())
	require.NoError(t, a.keys.Put(ctx, "FOLDER/versions/maas/1/aa", bundle.KeyPEM()))
	require.NoError(t, certstore.SweepKeys(ctx, overlay, "versions/maas", false))
	require.Len(t, a.keys.Names(), 1)
	order, err := ledger.Order(ctx)
	require.NoError(t, err)
	require.Equal(t, string(bundle.KeyPEM()), order.Key)
}

// The account's thumbprint is known without its key.
func TestTheThumbprintNeedsNoKey(t *testing.T) {
	t.Parallel()
	a, ctx := newApart(t), t.Context()
	account := certstore.Account{V: 1, Key: string(anyBundle(t).KeyPEM())}
	want, err := account.Thumbprint()
	require.NoError(t, err)
	_, err = certstore.SaveAccount(ctx, a, account, "")
	require.NoError(t, err)
	a.keys.Away(errors.New("it is sealed"))
	read, _, err := certstore.LoadAccount(ctx, a)
	require.NoError(t, err)
	got, err := read.Thumbprint()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Len(t, got, 43)
}
