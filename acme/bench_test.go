package acme_test

import (
	"crypto"
	"crypto/tls"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/go-acme/lego/v4/certcrypto"
	"github.com/go-acme/lego/v4/certificate"
	"github.com/go-acme/lego/v4/challenge/http01"
	"github.com/go-acme/lego/v4/lego"
	"github.com/go-acme/lego/v4/registration"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/certstore"
)

// BenchmarkTenNames issues one certificate for ten names on a CA that takes up to two seconds to validate each and sends
// no Retry-After, as Let's Encrypt does: first with this package, then with lego's own Obtain.
func BenchmarkTenNames(b *testing.B) {
	slow := acmetest.Options{Sleep: 3} // of thirty validators, one sleeps for the whole two seconds
	var ours, legos time.Duration
	b.Run("maascert", func(b *testing.B) {
		ca := acmetest.New(b, slow)
		store := certstore.NewOverlay(nil)
		for b.Loop() {
			c := acme.New(acme.Config{
				Directory: ca.Directory, Roots: acmetest.Pool(ca.DirectoryRoot()), IssuerRoots: acmetest.Pool(ca.Root(0)),
				UserAgent: "maascert/bench", AcceptTerms: true, Store: store,
				Solve: always(&acme.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)}),
			})
			begun := time.Now()
			_, err := c.Obtain(b.Context(), request(names(10)...))
			ours = time.Since(begun)
			require.NoError(b, err)
			c.Close()
		}
		b.ReportMetric(float64(len(ca.Requests()))/float64(b.N), "requests/op")
	})
	b.Run("lego", func(b *testing.B) {
		ca := acmetest.New(b, slow)
		for b.Loop() {
			begun := time.Now()
			legoObtain(b, ca)
			legos = time.Since(begun)
		}
		b.ReportMetric(float64(len(ca.Requests()))/float64(b.N), "requests/op")
	})
	if ours > 0 && legos > 0 {
		fmt.Printf("ten names, validation of 2 s, no Retry-After: maascert %.2f s, lego %.2f s: %.0f times\n", ours.Seconds(), legos.Seconds(), legos.Seconds()/ours.Seconds())
	}
}

type legoUser struct {
	key          crypto.PrivateKey
	registration *registration.Resource
}

func (u *legoUser) GetEmail() string                        { return "" }
func (u *legoUser) GetRegistration() *registration.Resource { return u.registration }
func (u *legoUser) GetPrivateKey() crypto.PrivateKey        { return u.key }

func legoObtain(b *testing.B, ca *acmetest.CA) {
	b.Helper()
	key, err := certcrypto.GeneratePrivateKey(certcrypto.EC256)
	require.NoError(b, err)
	user := &legoUser{key: key}
	config := lego.NewConfig(user)
	config.CADirURL = ca.Directory
	config.Certificate.KeyType = certcrypto.EC256
	config.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: acmetest.Pool(ca.DirectoryRoot())}}}
	client, err := lego.NewClient(config)
	require.NoError(b, err)
	require.NoError(b, client.Challenge.SetHTTP01Provider(http01.NewProviderServer("127.0.0.1", strconv.Itoa(ca.HTTPPort))))
	user.registration, err = client.Registration.Register(registration.RegisterOptions{TermsOfServiceAgreed: true})
	require.NoError(b, err)
	_, err = client.Certificate.Obtain(certificate.ObtainRequest{Domains: names(10), Bundle: true})
	require.NoError(b, err)
}
