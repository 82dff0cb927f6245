package certstore_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// S1: however much is said from outside, the record stays small, printable and readable.
func TestS1WhatIsRememberedIsBounded(t *testing.T) {
	t.Parallel()
	store := certstore.NewFileStore(world.OS{}, filepath.Join(t.TempDir(), "store"))
	var revision certstore.Revision
	for n := range 40 {
		record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
		require.NoError(t, err)
		record.Remember(certstore.Attempt{
			At: time.Now(), Stage: "obtain", Error: strings.Repeat(string(rune('a'+n%20))+"<\"\x1b[2J\u202e\n", 300_000), Hint: strings.Repeat("&", 1<<20),
		})
		revision, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
		require.NoError(t, err)
	}
	data, _, err := store.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.LessOrEqual(t, len(data), 64<<10)
	record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.NotEmpty(t, record.Attempts)
	for _, a := range record.Attempts {
		require.LessOrEqual(t, len(a.Error), 2010)
		require.NotContains(t, a.Error, "\x1b")
		require.NotContains(t, a.Error, "\u202e")
	}
}

// S11: a key of a million bits is refused before anything is verified with it.
func TestS11HugeKeysAreRefused(t *testing.T) {
	t.Parallel()
	huge := new(big.Int).Lsh(big.NewInt(1), 100_000)
	huge.SetBit(huge, 0, 1)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "huge"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &rsa.PublicKey{N: huge, E: 65537}, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	_, err = certstore.ParseCertificates(certstore.EncodeCertificates([]*x509.Certificate{cert}))
	require.ErrorContains(t, err, "too long")
	begun := time.Now()
	_, err = certstore.Verify(cert, []*x509.Certificate{cert}, x509.NewCertPool(), time.Now())
	require.ErrorContains(t, err, "too long")
	require.Less(t, time.Since(begun), time.Second)
}

// R9: every folder that will be written is asked.
func TestR9AFolderThatCannotBeWrittenIsSeenBeforehand(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		// Root may write anywhere; a file in a folder's place is as good.
		dir := filepath.Join(t.TempDir(), "store")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "versions"), nil, 0o600))
		require.Error(t, certstore.NewFileStore(world.OS{}, dir).Writable(t.Context()))
		return
	}
	dir := filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "versions", "maas"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(dir, "versions", "maas"), 0o500))
	require.Error(t, certstore.NewFileStore(world.OS{}, dir).Writable(t.Context()))
}

// R12: damage names what heals it, and a document of a later maascert names that.
func TestR12DamageNamesWhatHealsIt(t *testing.T) {
	t.Parallel()
	store := certstore.NewOverlay(nil)
	for text, want := range map[string]string{"{": "is damaged", "": "is damaged", `{"v":0}`: "is damaged", `{"v":2}`: "later maascert"} {
		_, revision, err := store.Read(t.Context(), "account")
		if err != nil {
			revision = ""
		}
		_, err = store.Write(t.Context(), "account", json.RawMessage(text), revision)
		require.NoError(t, err)
		_, _, err = certstore.LoadAccount(t.Context(), store)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, hint.Of(err))
	}
}
