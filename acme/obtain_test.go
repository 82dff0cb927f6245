package acme_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// client is a client of the CA with a store of its own.
func client(t *testing.T, ca *acmetest.CA, change ...func(*acme.Config)) *acme.Client {
	t.Helper()
	config := acme.Config{
		Directory: ca.Directory, Roots: acmetest.Pool(ca.DirectoryRoot()), IssuerRoots: acmetest.Pool(ca.Root(0)),
		UserAgent: "maascert/test", AcceptTerms: true, Store: certstore.NewFileStore(world.OS{}, t.TempDir()),
		Solve: always(&challenge.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)}),
	}
	for _, f := range change {
		f(&config)
	}
	c := acme.New(config)
	t.Cleanup(c.Close)
	return c
}

func always(solver challenge.Solver) func(string) challenge.Solver {
	return func(string) challenge.Solver { return solver }
}

// saves remembers every order that was saved.
type saves struct {
	mu     sync.Mutex
	orders []certstore.Order
	fail   error
}

func (s *saves) save(order certstore.Order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = append(s.orders, order)
	return s.fail
}

func (s *saves) last() certstore.Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orders[len(s.orders)-1]
}

func request(names ...string) acme.Request {
	return acme.Request{Names: names, KeyType: certstore.EC256, Save: new(saves).save}
}

func names(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("region%d.maas.example", i))
	}
	return all
}

func TestObtainBringsExactlyWhatWasAsked(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{ChainLength: 2})
	asked := request("maas.example.internal", "region1.example.internal", "127.0.0.1")
	asked.KeyType = certstore.RSA3072
	issued, err := client(t, ca).Obtain(t.Context(), asked)
	require.NoError(t, err)
	leaf := issued.Bundle.Leaf()
	require.Equal(t, []string{"127.0.0.1", "maas.example.internal", "region1.example.internal"}, certstore.CertificateNames(leaf))
	require.Empty(t, leaf.Subject.CommonName)
	require.Equal(t, certstore.RSA3072, issued.Bundle.KeyType())
	require.Len(t, issued.Bundle.Chain(), 2)
	require.Contains(t, string(issued.Bundle.KeyPEM()), "BEGIN PRIVATE KEY")
	_, err = certstore.Verify(leaf, issued.Bundle.Chain(), acmetest.Pool(ca.Root(0)), time.Now())
	require.NoError(t, err)
	require.Equal(t, len(ca.Requests()), issued.Requests)
	require.LessOrEqual(t, issued.Requests, 3*2+14)
}

func TestObtainRegistersOnceAndMakesAFreshKeyEachTime(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	first, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	second, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.NotEqual(t, first.Bundle.KeyPEM(), second.Bundle.KeyPEM())
	require.Equal(t, first.Account, second.Account)
	require.Equal(t, 1, ca.Count(acmetest.NewAccount))
}

func TestObtainSavesURLAndKeyBeforeFinalizing(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	saved := new(saves)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Finalize) && (saved.last().URL == "" || saved.last().Key == "") {
			t.Error("finalized before the order and its key were saved")
		}
		next.ServeHTTP(w, r)
	})
	asked := request("a.example")
	asked.Save = saved.save
	_, err := client(t, ca).Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Len(t, saved.orders, 2)
	require.Empty(t, saved.orders[0].Key)
}

func TestAnOrderThatCannotBeSavedIsNotFinalized(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	saved := &saves{fail: errors.New("disk full")}
	asked := request("a.example")
	asked.Save = saved.save
	_, err := client(t, ca).Obtain(t.Context(), asked)
	require.ErrorContains(t, err, "disk full")
	require.Zero(t, ca.Count(acmetest.Finalize))
	require.Empty(t, ca.Issued())
}

// A run that is cut off at any request must be continued by the next one: no second certificate from a second order,
// and the certificate that was issued is the one that is returned.
func TestAnOrderCutOffAnywhereIsTakenUp(t *testing.T) {
	t.Parallel()
	whole := acmetest.New(t, acmetest.Options{})
	_, err := client(t, whole).Obtain(t.Context(), request(names(2)...))
	require.NoError(t, err)
	for n := 1; n <= len(whole.Requests())+1; n++ {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("request %d, answer lost %v", n, lost), func(t *testing.T) {
				t.Parallel()
				ca := acmetest.New(t, acmetest.Options{AuthzReuse: 0})
				store := certstore.NewFileStore(world.OS{}, t.TempDir())
				c := client(t, ca, func(c *acme.Config) { c.Store = store })
				ctx, kill := context.WithCancelCause(t.Context())
				var count atomic.Int32
				ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					now := count.Add(1) == int32(n)
					if now && !lost {
						next.ServeHTTP(w, r)
					}
					if now {
						kill(errors.New("killed"))
						panic(http.ErrAbortHandler)
					}
					next.ServeHTTP(w, r)
				})
				saved := new(saves)
				asked := request(names(2)...)
				asked.Save = saved.save
				_, err := c.Obtain(ctx, asked)
				if count.Load() >= int32(n) {
					require.ErrorContains(t, err, "killed")
				}
				if len(saved.orders) > 0 {
					left := saved.last()
					asked.Resume = &left
				}
				c = client(t, ca, func(c *acme.Config) { c.Store, c.UserAgent = store, "the next run" })
				var ordered atomic.Bool
				ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if r.UserAgent() == "the next run" && r.URL.Path == acmetest.NewOrder {
						ordered.Store(true) // one of the killed run's may arrive late
					}
					next.ServeHTTP(w, r)
				})
				asked.FetchOnly = true // nothing is ordered or finalized then
				fetched, err := c.Obtain(t.Context(), asked)
				if require.False(t, ordered.Load()); err == nil {
					require.Equal(t, []string{fmt.Sprintf("%x", fetched.Bundle.Leaf().SerialNumber.Bytes())}, ca.Issued())
				} else {
					require.ErrorIs(t, err, acme.ErrNotIssued)
					require.Empty(t, ca.Issued())
				}
				asked.FetchOnly = false
				issued, err := c.Obtain(t.Context(), asked)
				require.NoError(t, err)
				require.LessOrEqual(t, ca.Count(acmetest.NewOrder), 2)
				if asked.Resume != nil {
					require.Len(t, ca.Issued(), 1)
					require.Equal(t, fmt.Sprintf("%x", issued.Bundle.Leaf().SerialNumber.Bytes()), ca.Issued()[0])
				}
			})
		}
	}
}

func TestObtainFails(t *testing.T) {
	t.Parallel()
	unavailable := func(header http.Header, status int, kind, body, path string) func(*acmetest.CA) {
		return func(ca *acmetest.CA) {
			ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.Contains(r.URL.Path, path) {
					next.ServeHTTP(w, r)
					return
				}
				maps.Copy(w.Header(), header)
				w.Header().Set("Content-Type", kind)
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			})
		}
	}
	for name, row := range map[string]struct {
		options acmetest.Options
		prepare func(*acmetest.CA)
		change  func(*acme.Config)
		want    string
		hint    string
		orders  int
	}{
		"at once and in the CA's words when a name does not validate": {
			prepare: func(ca *acmetest.CA) { ca.DNS.Fail("b.example", dns.RcodeNameError) },
			want:    "validation: b.example: connection: Get", hint: "port 80", orders: 1,
		},
		"before ordering when the CA blocks a name": {
			options: acmetest.Options{Blocked: []string{"b.example"}},
			want:    `newOrder: rejectedIdentifier: Order included an identifier for which issuance is forbidden by policy: "b.example"`,
			orders:  1,
		},
		"before ordering when the directory is a web page": {
			prepare: unavailable(nil, 200, "text/html", "<html>\n<b>hello</b>", "/dir"),
			want:    "not an ACME answer: text/html", hint: "acme.directory",
		},
		"before ordering when the directory is an error page": {
			prepare: unavailable(nil, 404, "text/html", "<html>\nno", "/dir"),
			want:    "404 Not Found (text/html, not an ACME answer)", hint: "acme.directory",
		},
		"before ordering when the directory's certificate is not trusted": {
			change: func(c *acme.Config) { c.Roots = nil },
			want:   "certificate signed by unknown authority", hint: "acme.root",
		},
		"before ordering when the terms are not accepted": {
			change: func(c *acme.Config) { c.AcceptTerms = false },
			want:   "terms of service: data:text/plain", hint: "accept_terms",
		},
		"before ordering when the challenge address cannot be bound": {
			change: func(c *acme.Config) { c.Solve = always(&challenge.Responder{Address: "192.0.2.1:80"}) },
			want:   "http-01: listen tcp 192.0.2.1:80", hint: "the challenge's listen",
		},
		"before ordering when the CA wants an external account": {
			options: acmetest.Options{RequireEAB: true}, want: "EAB",
		},
		"with the time to wait when the CA limits the rate": {
			prepare: unavailable(http.Header{"Retry-After": {"3600"}}, 429, "application/problem+json",
				`{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\ncertificates"}`, acmetest.NewOrder),
			want: "newOrder: rateLimited: too many certificates", orders: 1,
		},
		"after a few tries when the CA's server fails": {
			prepare: unavailable(nil, 502, "text/html", "<html>", acmetest.NewOrder),
			want:    "newOrder: 502 Bad Gateway (text/html, not an ACME answer)", orders: 2,
		},
		"when the chain does not lead to the trusted root": {
			change: func(c *acme.Config) { c.IssuerRoots = c.Roots },
			want:   "refused: x509: certificate signed by unknown authority", hint: "issuer_root", orders: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, row.options)
			if row.prepare != nil {
				row.prepare(ca)
			}
			c := client(t, ca)
			if row.change != nil {
				c = client(t, ca, row.change)
			}
			begun := time.Now()
			_, err := c.Obtain(t.Context(), request("a.example", "b.example", "c.example"))
			require.ErrorContains(t, err, row.want)
			require.NotContains(t, err.Error(), "\n")
			require.Contains(t, hint.Of(err), row.hint)
			require.Equal(t, row.orders, ca.Count(acmetest.NewOrder))
			require.Less(t, time.Since(begun), 20*time.Second)
		})
	}
}

func TestACertificateThatWasNotAskedForIsRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		names []string
		want  string
	}{
		"of another key":                 {[]string{"a.example"}, "the private key does not belong to the certificate"},
		"of another key and other names": {[]string{"b.example"}, "the private key does not belong to the certificate"},
		"of another name":                {[]string{"b.example", "a.example"}, "its names are a.example, b.example instead of a.example"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			key, err := certstore.EC256.Generate()
			require.NoError(t, err)
			same := func(c *acme.Config) {
				c.NewKey = func(certstore.KeyType) (crypto.Signer, error) { return key, nil }
			}
			c := client(t, ca, same)
			if len(row.names) == 1 {
				same = func(*acme.Config) {}
			}
			other, err := client(t, ca, same).Obtain(t.Context(), request(row.names...))
			require.NoError(t, err)
			ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.Contains(r.URL.Path, acmetest.Certificate) {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/pem-certificate-chain")
				w.Write(other.Bundle.FullChainPEM())
			})
			_, err = c.Obtain(t.Context(), request("a.example"))
			require.ErrorContains(t, err, "refused: "+row.want)
		})
	}
}

func TestARateLimitNamesItsEnd(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"seconds", "date"} {
		ca := acmetest.New(t, acmetest.Options{})
		end := time.Now().Add(time.Hour)
		ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Retry-After", map[string]string{"seconds": "3600", "date": end.UTC().Format(http.TimeFormat)}[form])
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down"}`)
		})
		_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
		require.True(t, acme.IsRateLimited(err), form)
		at, ok := acme.RetryAfter(err)
		require.True(t, ok, form)
		require.WithinDuration(t, end, at, 10*time.Second, form)
	}
}

func TestRetryAfterOfAnOrderIsObeyed(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{RetryAfterOrder: 2})
	begun := time.Now()
	_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.Greater(t, time.Since(begun), time.Second)
	require.LessOrEqual(t, ca.Count(acmetest.Order), 4, acmetest.Paths(ca.Requests()))
}

func TestNinetyPercentOfNoncesRefusedIsSurvived(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{NonceReject: 90})
	_, err := client(t, ca).Obtain(t.Context(), request(names(3)...))
	require.NoError(t, err)
}

func TestAnAccountThatTheCALostIsRegisteredAnew(t *testing.T) {
	t.Parallel()
	store := certstore.NewFileStore(world.OS{}, t.TempDir())
	use := func(c *acme.Config) { c.Store = store }
	before := acmetest.New(t, acmetest.Options{})
	_, err := client(t, before, use).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)

	after := acmetest.New(t, acmetest.Options{})
	account, revision, err := certstore.LoadAccount(t.Context(), store)
	require.NoError(t, err)
	registration := account.Registrations[before.Directory]
	registration.URL = strings.Replace(registration.URL, strings.TrimSuffix(before.Directory, "/dir"), strings.TrimSuffix(after.Directory, "/dir"), 1)
	account.Registrations = map[string]certstore.Registration{after.Directory: registration}
	_, err = certstore.SaveAccount(t.Context(), store, account, revision)
	require.NoError(t, err)

	issued, err := client(t, after, use).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.NotEqual(t, registration.URL, issued.Account)
	account, _, err = certstore.LoadAccount(t.Context(), store)
	require.NoError(t, err)
	require.Equal(t, issued.Account, account.Registrations[after.Directory].URL)
}

func TestTheChallengeAddressIsSharedAndFreedAgain(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	store := certstore.NewFileStore(world.OS{}, t.TempDir())
	use := func(c *acme.Config) { c.Store = store }
	_, err := client(t, ca, use).Obtain(t.Context(), request("first.example"))
	require.NoError(t, err)
	// Two clients with the same account and each with a responder of its own: the second finds the address taken by
	// the first and uses it.
	var group sync.WaitGroup
	for i := range 2 {
		c := client(t, ca, use)
		group.Go(func() {
			_, err := c.Obtain(t.Context(), request(fmt.Sprintf("n%d.example", i)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
	require.NoError(t, err, "the address is free again")
	require.NoError(t, listener.Close())
}

func TestRehearseProvesEverythingAndIssuesNothing(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{AuthzReuse: 100})
	c := client(t, ca)
	rehearsed, err := c.Rehearse(t.Context(), request(names(3)...), false)
	require.NoError(t, err)
	require.Equal(t, len(ca.Requests()), rehearsed.Requests)
	require.Empty(t, ca.Issued())
	require.Zero(t, ca.Count(acmetest.Finalize))
	require.Equal(t, 3, ca.Count(acmetest.Challenge))
}

func TestRehearseLeavesReusedAuthorizationsAlone(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{AuthzReuse: 100})
	c := client(t, ca)
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	proven := ca.Count(acmetest.Challenge)
	_, err = c.Rehearse(t.Context(), request("a.example", "b.example"), false)
	require.NoError(t, err)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.Equal(t, proven+1, ca.Count(acmetest.Challenge), "only b.example had to be proven since")
	_, err = c.Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
	require.Equal(t, proven+2, ca.Count(acmetest.Challenge), "b.example is proven again: its rehearsal was deactivated")
}

func TestWindow(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	issued, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	leaf := issued.Bundle.Leaf()
	start := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	for name, row := range map[string]struct {
		response string
		status   int
		want     string
	}{
		"a window is returned":                        {response: acmetest.RenewalWindow(start, start.Add(time.Hour))},
		"a window that ends before it starts is none": {response: acmetest.RenewalWindow(start, start.Add(-time.Hour)), want: "does not begin before"},
		"an empty document is no window":              {response: `{}`, want: "does not begin before"},
		"a document that is no JSON is no window":     {response: `once upon a time`, want: "not an ACME answer"},
		"an error document is no window":              {status: 404, want: "renewalInfo"},
		"a server's failure is no window":             {status: 500, want: "renewalInfo"},
		"an error page is no window":                  {status: 503, want: "renewalInfo"},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, ca)
			require.NoError(t, ca.SetRenewalInfo(leaf, row.response))
			ca.Intercept(nil)
			if row.status != 0 {
				ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if strings.Contains(r.URL.Path, acmetest.RenewalInfo) {
						w.WriteHeader(row.status)
						return
					}
					next.ServeHTTP(w, r)
				})
			}
			window, err := c.Window(t.Context(), leaf)
			if row.want != "" {
				require.ErrorContains(t, err, row.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, start, window.Start.UTC())
			require.Equal(t, start.Add(time.Hour), window.End.UTC())
			moment := window.Moment()
			require.False(t, moment.Before(window.Start) || !moment.Before(window.End))
			asked := len(ca.Requests())
			again, err := c.Window(t.Context(), leaf)
			require.NoError(t, err)
			require.Equal(t, moment, again.Moment())
			require.Len(t, ca.Requests(), asked, "the answer is kept until it should be asked for again")
		})
	}
	require.False(t, slices.ContainsFunc(ca.Requests(), func(r acmetest.Request) bool { return strings.HasSuffix(r.Path, "//") }))
}

// A window that no document can hold must not stop the pass that hears of it.
func TestAWindowInNoYear(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	issued, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("west", -12*3600))
	_, err = acme.NewWindow(issued.Bundle.Leaf(), time.Now(), end)
	require.ErrorContains(t, err, "in no year that can be written down")
	_, err = acme.NewWindow(issued.Bundle.Leaf(), time.Now(), end.Add(-24*time.Hour))
	require.NoError(t, err)
}

// A rehearsal that is given up takes back what the CA is still looking at. The CA of the tests must not stand still after that.
func TestTheCAGoesOnAfterARehearsalIsGivenUp(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ca.DNS.OnAsked(func(name string) {
		if strings.HasPrefix(name, "slow.") {
			once.Do(func() { close(asked) })
			<-answer
		}
	})
	c := client(t, ca)
	ctx, giveUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.Rehearse(ctx, request("slow.example", "b.example"), false)
		ended <- err
	}()
	<-asked
	giveUp()
	require.Error(t, <-ended)
	close(answer)
	_, err := c.Obtain(t.Context(), request("slow.example", "b.example"))
	require.NoError(t, err)
}

// The nonces for many names are fetched beside the order, side by side and no more than are needed; that none can be had ahead
// costs nothing but the time.
func TestNoncesAreFetchedAhead(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"they come": false, "they are refused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			c := client(t, ca)
			_, err := c.Obtain(t.Context(), request(names(1)...)) // which makes the account
			require.NoError(t, err)
			before := ca.Count(acmetest.NewNonce)
			var asked, late atomic.Int32
			enough := make(chan struct{}) // nonces were asked for: the order's own and seven ahead
			ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == acmetest.NewOrder {
					select {
					case <-enough:
					case <-r.Context().Done():
					}
				}
				if r.URL.Path == acmetest.NewNonce {
					n := asked.Add(1)
					if n == 8 {
						close(enough)
					}
					if n > 8 {
						late.Add(1)
					}
					if refused && n <= 7 {
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
				}
				next.ServeHTTP(w, r)
			})
			_, err = c.Obtain(t.Context(), request(names(8)...))
			require.NoError(t, err)
			if !refused {
				require.Zero(t, late.Load())
				require.Equal(t, before+8, ca.Count(acmetest.NewNonce))
			}
		})
	}
}
