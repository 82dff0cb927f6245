package certstore_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/world"
)

// goldenStore is a copy of a store as the first maascert wrote it. Its files are never changed: they load for ever.
func goldenStore(t *testing.T) (*certstore.FileStore, string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/v1")))
	return certstore.NewFileStore(world.OS{}, dir), dir
}

func TestGoldenFilesLoad(t *testing.T) {
	t.Parallel()
	store, _ := goldenStore(t)
	ctx := t.Context()

	version, err := certstore.LoadVersion(ctx, store, "maas", 3)
	require.NoError(t, err)
	require.Equal(t, certstore.FromACME, version.Origin)
	require.Equal(t, "https://ca.example/acme/directory", version.Directory)
	require.Equal(t, "https://ca.example/acme/account/1", version.Account)
	require.Equal(t, []string{"10.0.0.10", "maas.example.internal"}, certstore.CertificateNames(version.Bundle.Leaf()))
	require.Equal(t, certstore.EC256, version.Bundle.KeyType())
	require.Len(t, version.Bundle.Chain(), 1)

	backup, err := certstore.LoadVersion(ctx, store, "maas", 2)
	require.NoError(t, err)
	require.Equal(t, certstore.FromMAAS, backup.Origin)

	record, _, err := certstore.LoadRecord(ctx, store, "maas")
	require.NoError(t, err)
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	require.Equal(t, 3, record.Current)
	require.Equal(t, []string{"maas.example.internal", "10.0.0.10"}, record.Wish.Names)
	require.Equal(t, record.Wish.Hash(), record.WishHash, "the hash of a wish never changes")
	require.Equal(t, record.WishHash, record.WishByHost["region1"])
	require.Equal(t, "https://ca.example/acme/order/7", record.Order.URL)
	require.Equal(t, "https://ca.example/acme/account/1", record.Order.Account)
	require.NotEmpty(t, record.Order.Key)
	require.Equal(t, at, record.Attempt.At)
	require.Equal(t, 1, record.CutOff)
	require.Equal(t, 2, record.Failures)
	require.Equal(t, at.Add(10*time.Minute), record.NextAttempt)
	require.Equal(t, at.Add(time.Hour), record.RetryAfter)
	require.Equal(t, at.Add(168*time.Hour), record.HeldUntil)
	require.Equal(t, "obtain", record.Attempts[0].Stage)
	d := record.Deployments["maas"]
	require.Equal(t, []int{2, 3, 2, 1}, []int{d.Verified, d.Version, d.Tries, d.RolledBack})
	require.Equal(t, "none", d.Laggards["10.0.0.12:5443"])
	require.Equal(t, at, d.Since)
	require.Equal(t, at.Add(5*time.Minute), d.Told)

	record, _, err = certstore.LoadRecord(ctx, store, "later")
	require.NoError(t, err)
	require.Equal(t, "dns-01 *.example.com token thumbprint", strings.Join([]string{
		record.Answers[0].Type, record.Answers[0].Name, record.Answers[0].Token, record.Answers[0].Thumbprint}, " "))
	require.Equal(t, at, record.Answers[0].At)
	require.Equal(t, 3, record.Attempts[0].Times)
	require.Equal(t, uint(1), record.Revocation(3).Reason)
	require.True(t, record.Revocation(3).Done.IsZero())
	require.Nil(t, record.Revocation(4))
	require.Equal(t, 4, record.Window.Version)
	require.Equal(t, at.AddDate(0, 1, 2), record.Window.End)

	account, _, err := certstore.LoadAccount(ctx, store)
	require.NoError(t, err)
	_, err = account.Signer(ctx, store)
	require.NoError(t, err)
	require.Equal(t, "https://ca.example/acme/account/1", account.Registrations["https://ca.example/acme/directory"].URL)
}

// What MAAS said of its names, regions and roots loads for ever as well.
func TestGoldenNamesLoad(t *testing.T) {
	t.Parallel()
	store, _ := goldenStore(t)
	record, _, err := certstore.LoadRecord(t.Context(), store, "names")
	require.NoError(t, err)
	require.Equal(t, record.Wish.Hash(), record.WishHash)
	require.Equal(t, []string{"10.0.0.11", "region1.maas"}, record.Discovered.Names)
	seen := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	require.Equal(t, seen, record.Discovered.Added["region3.maas"])
	require.Equal(t, seen.Add(-time.Hour), record.Discovered.Missing["10.0.0.11"])
	require.Equal(t, "maas.example.internal", record.Discovered.ByHost["region1"])
	require.Equal(t, seen, record.Doubts["region1"])
	require.Equal(t, "10.0.0.12", record.Deployments["maas"].Regions["sys002"])
	require.Equal(t, seen, record.Deployments["maas"].Unlisted["sys002"])
	require.Equal(t, "CN=present", record.Roots[1].Subject)
	require.True(t, record.Roots[1].Until.IsZero())
}

func TestUnknownFieldsSurviveANewVersion(t *testing.T) {
	t.Parallel()
	store, dir := goldenStore(t)
	record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	record.Deployments["maas"] = record.Deployments["maas"].For(4)
	_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "state", "maas"))
	require.NoError(t, err)
	var doc struct {
		Deployments map[string]map[string]any `json:"deployments"`
	}
	require.NoError(t, json.Unmarshal(text, &doc))
	require.Equal(t, []any{1.0, 2.0}, doc.Deployments["maas"]["later"])
	require.Equal(t, 4.0, doc.Deployments["maas"]["version"])
}

// The golden files hold fields of a maascert that does not exist yet, at every level: a rewrite keeps them.
func TestUnknownFieldsSurviveARewrite(t *testing.T) {
	t.Parallel()
	store, dir := goldenStore(t)
	ctx := t.Context()
	record, revision, err := certstore.LoadRecord(ctx, store, "maas")
	require.NoError(t, err)
	_, err = certstore.SaveRecord(ctx, store, "maas", record, revision)
	require.NoError(t, err)
	record, revision, err = certstore.LoadRecord(ctx, store, "later")
	require.NoError(t, err)
	_, err = certstore.SaveRecord(ctx, store, "later", record, revision)
	require.NoError(t, err)
	record, revision, err = certstore.LoadRecord(ctx, store, "names")
	require.NoError(t, err)
	_, err = certstore.SaveRecord(ctx, store, "names", record, revision)
	require.NoError(t, err)
	account, revision, err := certstore.LoadAccount(ctx, store)
	require.NoError(t, err)
	_, err = certstore.SaveAccount(ctx, store, account, revision)
	require.NoError(t, err)
	for _, name := range []string{"state/maas", "state/later", "state/names", "account"} {
		want, err := os.ReadFile(filepath.Join("testdata/v1", name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "the rewritten file is the same byte for byte")
	}
}

func TestADocumentOfALaterFormatIsRefused(t *testing.T) {
	t.Parallel()
	store := certstore.NewFileStore(world.OS{}, t.TempDir())
	for name, row := range map[string]struct{ text, want string }{
		"later":   {`{"v":2,"current":1}`, "was written by a later maascert"},
		"damaged": {`{"v":1,"current":"-----BEGIN PRIVATE KEY-----"}`, "field current is no int"},
		"cut":     {`{"v":1,"order":{"key":"-----BEGIN PRI`, "no JSON at byte"},
		"empty":   {`{}`, "has no format version"},
	} {
		_, err := store.Write(t.Context(), "state/"+name, []byte(row.text), "")
		require.NoError(t, err)
		_, _, err = certstore.LoadRecord(t.Context(), store, name)
		require.ErrorContains(t, err, row.want)
		require.NotContains(t, err.Error(), "PRI", "no key in an error")
	}
}
