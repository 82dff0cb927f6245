package certstore_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

func issue(t testing.TB, a *certtest.Authority, names ...string) *certstore.Bundle {
	t.Helper()
	bundle, err := a.Issue(certstore.EC256, 0, time.Hour, names...)
	require.NoError(t, err)
	return bundle
}

func authority(t testing.TB) *certtest.Authority {
	t.Helper()
	a, err := certtest.NewAuthority()
	require.NoError(t, err)
	return a
}

func pemOf(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, cert := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return text
}

func TestParse(t *testing.T) {
	t.Parallel()
	a := authority(t)
	one, other := issue(t, a, "a.example"), issue(t, a, "b.example")
	stranger := authority(t)
	ed, err := func() ([]byte, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	}()
	require.NoError(t, err)
	for name, row := range map[string]struct {
		key, chain []byte
		want       string
	}{
		"a pair":                                {one.KeyPEM(), one.FullChainPEM(), ""},
		"a pair with its root":                  {one.KeyPEM(), append(one.FullChainPEM(), pemOf(a.Root)...), ""},
		"a leaf alone":                          {one.KeyPEM(), one.LeafPEM(), ""},
		"another's key":                         {other.KeyPEM(), one.FullChainPEM(), "does not belong"},
		"a chain in the wrong order":            {one.KeyPEM(), pemOf(one.Leaf(), a.Root, a.Intermediate), "did not sign"},
		"a stranger's intermediate":             {one.KeyPEM(), pemOf(one.Leaf(), stranger.Intermediate), "did not sign"},
		"the leaf twice":                        {one.KeyPEM(), pemOf(one.Leaf(), one.Leaf()), "did not sign"},
		"no certificate":                        {one.KeyPEM(), nil, "no PEM certificate"},
		"no key":                                {nil, one.FullChainPEM(), "no PEM private key"},
		"a key in the chain":                    {one.KeyPEM(), append(one.LeafPEM(), one.KeyPEM()...), "expected only certificates"},
		"an encrypted key":                      {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), one.LeafPEM(), "passphrase"},
		"a key that MAAS cannot load":           {ed, one.LeafPEM(), "cannot be used"},
		"a key block that holds something else": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}), one.LeafPEM(), `cannot read the "PRIVATE KEY" block`},
	} {
		bundle, err := certstore.Parse(row.key, row.chain)
		if row.want != "" {
			require.ErrorContains(t, err, row.want, name)
			continue
		}
		require.NoError(t, err, name)
		require.LessOrEqual(t, len(bundle.Chain()), 1, "the root is left out")
		again, err := certstore.Parse(bundle.KeyPEM(), bundle.FullChainPEM())
		require.NoError(t, err)
		require.Equal(t, bundle.Fingerprint(), again.Fingerprint())
	}
}

func TestABundleNeverShowsItsKey(t *testing.T) {
	t.Parallel()
	bundle := issue(t, authority(t), "a.example")
	version := certstore.Version{Number: 1, Bundle: bundle}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "bundle", bundle, "version", version)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "bundle", bundle)
	block, _ := pem.Decode(bundle.KeyPEM())
	for _, text := range []string{
		fmt.Sprint(bundle), fmt.Sprintf("%v %+v %#v %s %q", bundle, bundle, bundle, bundle, bundle), fmt.Sprintf("%+v %#v", version, version), log.String(),
	} {
		require.NotContains(t, text, "PRIVATE")
		require.NotContains(t, text, base64.StdEncoding.EncodeToString(block.Bytes)[:20])
		require.NotContains(t, text, "D:") // an EC key's secret number
	}
}

func TestChainOf(t *testing.T) {
	t.Parallel()
	a, stranger := authority(t), authority(t)
	leaf := issue(t, a, "a.example").Leaf()
	got := certstore.ChainOf(leaf, []*x509.Certificate{leaf, stranger.Intermediate, a.Root, a.Intermediate, a.Intermediate})
	require.Equal(t, []*x509.Certificate{leaf, a.Intermediate, a.Root}, got)
	require.Equal(t, []*x509.Certificate{leaf}, certstore.ChainOf(leaf, nil))
}

func TestCanonicalName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"MAAS.Example.Internal": "maas.example.internal", "maas.example.": "maas.example", "bücher.example": "xn--bcher-kva.example",
		"*.Example.com": "*.example.com", "10.0.0.10": "10.0.0.10", "2001:DB8::0:1": "2001:db8::1", "::ffff:10.0.0.1": "10.0.0.1", "maas": "maas",
	} {
		got, err := certstore.CanonicalName(name)
		require.NoError(t, err, name)
		require.Equal(t, want, got)
		again, err := certstore.CanonicalName(got)
		require.NoError(t, err)
		require.Equal(t, got, again, "a canonical name is its own")
	}
	for _, name := range []string{"", ".", "a..b", "a b", "under_score.example", "fe80::1%eth0", "10.0.0.256", "1.2.3", "-a.example", "a.*.example", "https://a.example", "a.example:443", string(make([]byte, 300))} {
		_, err := certstore.CanonicalName(name)
		require.Errorf(t, err, "%q", name)
	}
}

// Whatever is read, a bundle that comes of it is whole: its key fits and its parts read back.
func FuzzParse(f *testing.F) {
	a := authority(f)
	bundle := issue(f, a, "a.example")
	f.Add(bundle.KeyPEM(), bundle.FullChainPEM())
	f.Add(bundle.KeyPEM(), append(bundle.FullChainPEM(), pemOf(a.Root)...))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----"), []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, key, chain []byte) {
		bundle, err := certstore.Parse(key, chain)
		if err != nil {
			return
		}
		again, err := certstore.Parse(bundle.KeyPEM(), bundle.FullChainPEM())
		require.NoError(t, err)
		require.Equal(t, bundle.Fingerprint(), again.Fingerprint())
		require.Equal(t, bundle.KeyPEM(), again.KeyPEM())
	})
}
