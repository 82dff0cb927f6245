package certstore_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
)

// storedSeeds are the documents of the first store there was.
func storedSeeds(f *testing.F, folder string) {
	f.Helper()
	err := filepath.WalkDir(filepath.Join("testdata", "v1", folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		f.Add(text)
		return err
	})
	require.NoError(f, err)
}

// quotesNothing checks that an error tells nothing of a document but where it is wrong: it may hold keys.
func quotesNothing(t *testing.T, err error, text []byte) {
	t.Helper()
	require.Less(t, len(err.Error()), 300)
	for word := range strings.FieldsSeq(string(text)) {
		if len(word) > 20 {
			require.NotContains(t, err.Error(), word)
		}
	}
}

// A record that can be read is written as it was read, with what a later maascert may have put into it.
func FuzzRecord(f *testing.F) {
	storedSeeds(f, "state")
	f.Add([]byte(`{"v":1,"current":3,"later":{"a":[1,2]},"order":{"url":"https://ca.example","also":true}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		store := certstore.NewOverlay(nil)
		_, err := store.Write(t.Context(), "state/maas", text, "")
		if err != nil {
			return // it is too long
		}
		record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
		if err != nil {
			quotesNothing(t, err, text)
			return
		}
		_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
		require.NoError(t, err)
		again, _, err := certstore.LoadRecord(t.Context(), store, "maas")
		require.NoError(t, err)
		first, err := json.Marshal(record)
		require.NoError(t, err)
		second, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(first), string(second))
		var fields, kept map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(text, &fields))
		require.NoError(t, json.Unmarshal(second, &kept))
		for name := range fields {
			if strings.HasPrefix(name, "later") {
				require.Contains(t, kept, name, "a field of a later maascert")
			}
		}
		ledger, err := certstore.OpenLedger(t.Context(), store, "maas")
		require.NoError(t, err)
		require.NoError(t, ledger.Update(t.Context(), func(r *certstore.Record) {
			r.Remember(certstore.Attempt{At: time.Unix(0, 0), Error: "it failed"})
		}))
	})
}

// A version, an account and a host's document that can be read are whole, and no error quotes them.
func FuzzDocuments(f *testing.F) {
	storedSeeds(f, "versions")
	text, err := os.ReadFile(filepath.Join("testdata", "v1", "account"))
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"v":1,"node":"region1","ok":true,"last_pass":"2026-11-26T12:00:00Z","targets":[{"certificate":"maas","name":"maas","version":3}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		store := certstore.NewOverlay(nil)
		for _, name := range []string{"versions/maas/1", "account", "nodes/region1"} {
			if _, err := store.Write(t.Context(), name, text, ""); err != nil {
				return // it is too long
			}
		}
		version, err := certstore.LoadVersion(t.Context(), store, "maas", 1)
		if err == nil {
			require.Equal(t, 1, version.Number)
			if bundle, err := version.Bundle.WithKey(t.Context()); err == nil {
				again, err := certstore.Parse(bundle.KeyPEM(), bundle.FullChainPEM())
				require.NoError(t, err)
				require.Equal(t, bundle.Fingerprint(), again.Fingerprint())
			} else {
				require.ErrorContains(t, err, "kept apart")
			}
		} else {
			quotesNothing(t, err, text)
		}
		if account, _, err := certstore.LoadAccount(t.Context(), store); err == nil {
			_, _ = account.Signer(t.Context(), store) // which may be no key
		} else {
			quotesNothing(t, err, text)
		}
		if _, _, err := certstore.LoadNode(t.Context(), store, "region1"); err != nil {
			quotesNothing(t, err, text)
		}
		_, err = certstore.LoadNodes(t.Context(), store, time.Now())
		require.NoError(t, err)
	})
}

// A name that can be read is its own canonical form, and says whether it is an address.
func FuzzCanonicalName(f *testing.F) {
	for _, name := range []string{"maas.example.internal", "*.Example.COM.", "10.0.0.1", "2001:DB8::1", "::ffff:10.0.0.1", "bücher.example", "a..b", "fe80::1%eth0"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		canonical, err := certstore.CanonicalName(name)
		if err != nil {
			return
		}
		again, err := certstore.CanonicalName(canonical)
		require.NoError(t, err)
		require.Equal(t, canonical, again)
		require.LessOrEqual(t, len(canonical), 253)
		names, addresses := certstore.SplitNames([]string{canonical})
		require.Equal(t, certstore.IsAddress(canonical), len(addresses) == 1)
		require.Equal(t, 1, len(names)+len(addresses))
	})
}
