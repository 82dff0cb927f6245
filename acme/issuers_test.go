package acme_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/internal/hint"
)

// A key made for these tests: known to everybody and worth nothing.
const macKey = "Nct7Wj63aDEyky48OYJjeKh1yIo-ewxn2R5dICdjyS5nDenHBrjpi8YYe6YyeMgK"

func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{RequireEAB: true, MACKeys: map[string]string{"kid-1": macKey}})
	bind := func(id, key string) func(*acme.Config) {
		return func(c *acme.Config) { c.External = &acme.ExternalAccount{KeyID: id, HMAC: key} }
	}
	_, err := client(t, ca, bind("kid-1", macKey)).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	_, err = client(t, ca, bind("kid-2", macKey)).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "newAccount: ")
	_, err = client(t, ca, bind("kid-1", strings.Repeat("A", 64))).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "the CA takes no account that is bound to kid-1: newAccount: ")
	require.Contains(t, hint.Of(err), "is key_id what the CA's operator gave you")
	require.NotContains(t, err.Error(), "AAAA")
	_, err = client(t, ca).Obtain(t.Context(), request("a.example"))
	require.ErrorIs(t, err, acme.ErrExternalAccount)
	require.Contains(t, hint.Of(err), "acme.eab")
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", &acme.ExternalAccount{KeyID: "k", HMAC: macKey}, &acme.ExternalAccount{HMAC: macKey}, &acme.ExternalAccount{HMAC: macKey}), macKey)

	// A rehearsal binds nothing: such a key can often be used only once.
	accounts := ca.Count(acmetest.NewAccount)
	_, err = client(t, ca, bind("kid-1", macKey)).Rehearse(t.Context(), request("a.example"), false)
	require.ErrorIs(t, err, acme.ErrExternalAccount)
	require.Equal(t, accounts, ca.Count(acmetest.NewAccount))
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	issued, err := client(t, ca, func(c *acme.Config) { c.Profile = "default" }).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.Equal(t, "default", issued.Profile)
	_, err = client(t, ca, func(c *acme.Config) { c.Profile = "tlsclient" }).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, `the CA has no profile "tlsclient"`)
	require.Equal(t, "it has: default", hint.Of(err))
	require.Equal(t, 1, ca.Orders(), "one that the directory does not name is not asked for")
}

func TestPreferredChain(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{AlternateRoots: 2})
	roots := acmetest.Pool(ca.Root(0), ca.Root(1), ca.Root(2))
	second, err := certstore.ParseCertificates(ca.Root(1))
	require.NoError(t, err)
	for name, row := range map[string]struct {
		want    string
		root    int
		warning string
	}{
		"by the root's name":        {second[0].Subject.CommonName, 1, ""},
		"by the root's fingerprint": {certstore.Fingerprint(second[0]), 1, ""},
		"one that is not offered":   {"Example Root X9", 0, `the CA offers no chain to "Example Root X9"; its default is used`},
		"none":                      {"", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			issued, err := client(t, ca, func(c *acme.Config) { c.IssuerRoots, c.PreferredChain = roots, row.want }).Obtain(t.Context(), request("a.example"))
			require.NoError(t, err)
			root, err := certstore.ParseCertificates(ca.Root(row.root))
			require.NoError(t, err)
			chain := issued.Bundle.Chain()
			require.NoError(t, chain[len(chain)-1].CheckSignatureFrom(root[0]))
			require.Equal(t, root[0].Subject.CommonName, chain[len(chain)-1].Issuer.CommonName)
			require.Equal(t, row.warning, strings.Join(issued.Warnings, ""))
		})
	}
}

func TestReplacesIsSaidToTheCAThatIssued(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	issued, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	// Pebble does not find a certificate again whose serial number needs the leading zero byte of DER: one in 256.
	for issued.Bundle.Leaf().SerialNumber.BitLen()%8 == 0 {
		issued, err = c.Obtain(t.Context(), request("a.example"))
		require.NoError(t, err)
	}
	predecessor := &certstore.Version{Directory: issued.Directory, Account: issued.Account, Bundle: issued.Bundle}

	asked := request("a.example")
	asked.Predecessor = predecessor
	_, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	requests := ca.Count(acmetest.NewOrder)
	_, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err, "one that was replaced before is no obstacle")
	require.Equal(t, requests+2, ca.Count(acmetest.NewOrder), "the CA was told, refused, and asked again without")

	for name, change := range map[string]func(*certstore.Version){
		"another CA's":      func(v *certstore.Version) { v.Directory = "https://other.example/dir" },
		"another account's": func(v *certstore.Version) { v.Account = "https://ca.example/other" },
	} {
		other := *predecessor
		change(&other)
		asked.Predecessor = &other
		requests := ca.Count(acmetest.NewOrder)
		_, err = c.Obtain(t.Context(), asked)
		require.NoError(t, err, name)
		require.Equal(t, requests+1, ca.Count(acmetest.NewOrder), name)
	}
}

// Whatever a CA answers to replaces, the order is made without it.
func TestARefusedReplacesCostsNoCertificate(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 403, 404, 409, 500} {
		ca := acmetest.New(t, acmetest.Options{})
		c := client(t, ca)
		issued, err := c.Obtain(t.Context(), request("a.example"))
		require.NoError(t, err)
		refused := 0
		ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, acmetest.NewOrder) || slices.Contains([]int{1, 2}, refused) && status != 500 || refused > 1 {
				next.ServeHTTP(w, r)
				return
			}
			refused++
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:malformed","detail":"replaces: no"}`)
		})
		asked := request("a.example")
		asked.Predecessor = &certstore.Version{Directory: issued.Directory, Account: issued.Account, Bundle: issued.Bundle}
		_, err = c.Obtain(t.Context(), asked)
		require.NoError(t, err, status)
	}
}
