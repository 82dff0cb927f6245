package sealed_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/certstore/sealed"
	"maascert/certstore/storetest"
	"maascert/internal/hint"
	"maascert/internal/world"
)

const (
	first  = "the first seal of thirty-two bytes"
	second = "another seal, also of enough bytes"
)

func seal(t *testing.T, base certstore.Store, seals ...string) *sealed.Store {
	t.Helper()
	s, err := sealed.New(base, seals...)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		dir := filepath.Join(t.TempDir(), "store")
		return seal(t, certstore.NewFileStore(world.OS{}, dir), first), seal(t, certstore.NewFileStore(world.OS{}, dir), first)
	})
}

func TestWhatIsKeptHoldsNoKey(t *testing.T) {
	t.Parallel()
	base := certstore.NewOverlay(nil)
	s := seal(t, base, first)
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "a.example")
	require.NoError(t, err)
	ledger, err := certstore.OpenLedger(t.Context(), s, "maas")
	require.NoError(t, err)
	_, err = ledger.Add(t.Context(), certstore.Version{Origin: certstore.FromACME, Created: time.Now(), Bundle: bundle})
	require.NoError(t, err)
	const token = "t0ken-of-an-answer"
	require.NoError(t, ledger.Update(t.Context(), func(r *certstore.Record) {
		r.Order = &certstore.Order{Key: string(bundle.KeyPEM())}
		r.Answers = []certstore.Answer{{Token: token}}
	}))
	_, err = certstore.SaveAccount(t.Context(), s, certstore.Account{V: 1, Key: string(bundle.KeyPEM())}, "")
	require.NoError(t, err)
	der := strings.Join(strings.Split(string(bundle.KeyPEM()), "\n")[1:3], "")
	raw, err := base64.StdEncoding.DecodeString(der[:len(der)/4*4])
	require.NoError(t, err)
	for _, name := range []string{"versions/maas/1", "state/maas", "account"} {
		kept, _, err := base.Read(t.Context(), name)
		require.NoError(t, err)
		for _, secret := range []string{"PRIVATE KEY", der[:40], string(raw[8:40]), hex.EncodeToString(raw[8:40]), token} {
			require.False(t, bytes.Contains(kept, []byte(secret)), "%s holds %q", name, secret)
		}
	}
	version, err := certstore.LoadVersion(t.Context(), seal(t, base, second, first), "maas", 1)
	require.NoError(t, err, "every seal opens")
	require.Equal(t, bundle.Fingerprint(), version.Bundle.Fingerprint())
}

// A document is what it was, where it was, or nothing.
func TestWhatWasTamperedWithIsRefused(t *testing.T) {
	t.Parallel()
	base := certstore.NewOverlay(nil)
	s := seal(t, base, first)
	_, err := s.Write(t.Context(), "versions/maas/1", []byte("one"), "")
	require.NoError(t, err)
	kept, revision, err := base.Read(t.Context(), "versions/maas/1")
	require.NoError(t, err)

	_, err = base.Write(t.Context(), "versions/maas/2", kept, "")
	require.NoError(t, err)
	_, _, err = s.Read(t.Context(), "versions/maas/2")
	require.ErrorContains(t, err, "moved to another name")
	for i := range kept {
		changed := bytes.Clone(kept)
		changed[i] ^= 1
		revision, err = base.Write(t.Context(), "versions/maas/1", changed, revision)
		require.NoError(t, err)
		_, _, err = s.Read(t.Context(), "versions/maas/1")
		require.Error(t, err, "byte %d", i)
		require.NotEmpty(t, hint.Of(err))
	}
	for n := range kept {
		revision, err = base.Write(t.Context(), "versions/maas/1", kept[:n], revision)
		require.NoError(t, err)
		_, _, err = s.Read(t.Context(), "versions/maas/1")
		require.Error(t, err, "cut after %d bytes", n)
	}
	_, err = base.Write(t.Context(), "versions/maas/1", []byte(`{"v":1,"key":"of somebody else"}`), revision)
	require.NoError(t, err)
	_, _, err = s.Read(t.Context(), "versions/maas/1")
	require.ErrorContains(t, err, "is not sealed")
}

func TestSeals(t *testing.T) {
	t.Parallel()
	_, err := sealed.New(certstore.NewOverlay(nil))
	require.Error(t, err)
	_, err = sealed.New(certstore.NewOverlay(nil), first, "short")
	require.ErrorContains(t, err, "seal 2 has 5 bytes; it takes 32 or more")
	base := certstore.NewOverlay(nil)
	_, err = seal(t, base, first).Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
	_, _, err = seal(t, base, second).Read(t.Context(), "account")
	require.ErrorContains(t, err, "sealed with a seal that store.seal does not have")
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", seal(t, base, first), seal(t, base, first), err), first)
	once, _, err := base.Read(t.Context(), "account")
	require.NoError(t, err)
	_, err = seal(t, certstore.NewOverlay(nil), first).Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
	again := certstore.NewOverlay(nil)
	_, err = seal(t, again, first).Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
	twice, _, err := again.Read(t.Context(), "account")
	require.NoError(t, err)
	require.NotEqual(t, once, twice, "the same document is never kept the same")
}

// A document that was sealed in November 2026 can be opened for ever, and by its seal alone.
func TestAGoldenDocumentOpens(t *testing.T) {
	t.Parallel()
	base := certstore.NewFileStore(world.OS{}, filepath.Join("testdata", "v1"))
	store, err := sealed.New(base, "the seal of the golden document, kept here")
	require.NoError(t, err)
	opened, _, err := store.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"current":3}`, string(opened))
	other, err := sealed.New(base, first)
	require.NoError(t, err)
	_, _, err = other.Read(t.Context(), "state/maas")
	require.Error(t, err)
}
