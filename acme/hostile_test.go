package acme_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
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
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/loopback"
)

// leftBehind makes a run that is killed when it has finalized its order, and returns the order that it saved.
func leftBehind(t *testing.T, ca *acmetest.CA, c *acme.Client) certstore.Order {
	t.Helper()
	ctx, kill := context.WithCancelCause(t.Context())
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(w, r)
		if strings.Contains(r.URL.Path, acmetest.Finalize) {
			kill(errors.New("killed"))
			panic(http.ErrAbortHandler)
		}
	})
	saved := new(saves)
	asked := request("a.example")
	asked.Save = saved.save
	_, err := c.Obtain(ctx, asked)
	require.ErrorContains(t, err, "killed")
	ca.Intercept(nil)
	return saved.last()
}

// A CA that cannot say how an order stands gets the same question later; a new order would lose the certificate.
func TestAnOrderWhoseStateCannotBeHadIsKept(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	left := leftBehind(t, ca, c)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, acmetest.Order) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", "3600")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down"}`)
	})
	asked := request("a.example")
	asked.Resume = &left
	_, err := c.Obtain(t.Context(), asked)
	require.True(t, acme.IsRateLimited(err))
	require.False(t, acme.IsRefusal(err), "the order is not over")
	ca.Intercept(nil)
	_, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, 1, ca.Count(acmetest.NewOrder))
	require.Len(t, ca.Issued(), 1)
}

// An order whose certificate can never be used must not stand in the way of the next one.
func TestACertificateThatExpiredMeanwhileEndsItsOrder(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{Validity: time.Hour})
	now := time.Now()
	c := client(t, ca, func(c *acme.Config) { c.Now = func() time.Time { return now } })
	left := leftBehind(t, ca, c)
	now = now.Add(2 * time.Hour)
	asked := request("a.example")
	asked.Resume = &left
	_, err := c.Obtain(t.Context(), asked)
	require.ErrorIs(t, err, acme.ErrUnfit)
	require.True(t, acme.IsRefusal(err), "so the order is dropped")
}

func TestOnlyALimitsRetryAfterIsAnInstruction(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", "315360000")
		w.WriteHeader(http.StatusForbidden)
	})
	_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	_, told := acme.RetryAfter(err)
	require.False(t, told)
}

// Retry-After: 0, or one that is past by our clock, is no leave to ask without a pause.
func TestAnOrderIsNotPolledWithoutAPause(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{Sleep: 2})
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		maps.Copy(w.Header(), recorder.Header())
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(recorder.Code)
		w.Write(recorder.Body.Bytes())
	})
	_, err := client(t, ca).Obtain(t.Context(), request(names(3)...))
	require.NoError(t, err)
	require.Less(t, ca.Count(acmetest.Order), 20, acmetest.Paths(ca.Requests()))
}

// What a CA says is shown in one line of bounded length, without anything that a terminal would obey.
func TestACAsWordsAreTamed(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"type":"urn:ietf:params:acme:error:unauthorized\u001b[2J","detail":"no\u001b]0;owned\u0007 %s"}`, strings.Repeat("x", 1<<19))
	})
	_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	require.Less(t, len(err.Error()), 1000)
	require.NotContains(t, err.Error(), "\x1b")
	require.NotContains(t, err.Error(), "\x07")
}

// rewriteAnswers has a CA change the bodies of its answers at paths.
func rewriteAnswers(ca *acmetest.CA, paths []string, change func(body string) string) {
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(r.URL.Path, path) }) {
			next.ServeHTTP(w, r)
			return
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		maps.Copy(w.Header(), recorder.Header())
		w.Header().Del("Content-Length")
		w.WriteHeader(recorder.Code)
		fmt.Fprint(w, change(recorder.Body.String()))
	})
}

func TestTooManyAuthorizationsAreRefused(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	many := strings.Repeat(`"https://ca.example/authz",`, 5000)
	rewriteAnswers(ca, []string{acmetest.NewOrder}, func(body string) string {
		return strings.Replace(body, `"authorizations": [`, `"authorizations": [`+many, 1)
	})
	_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "the CA wants 5001 authorizations for 1 names")
}

// A CA cannot make us, as root, ask other servers in the clear.
func TestURLsThatAreNoHTTPSAreNotAsked(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(inside.Close)
	ca := acmetest.New(t, acmetest.Options{})
	issued, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"newNonce":"https://x/","newAccount":"https://x/","newOrder":"https://x/","renewalInfo":%q}`, inside.URL)
	})
	_, err = client(t, ca).Window(t.Context(), issued.Bundle.Leaf())
	require.ErrorContains(t, err, "no https")
	require.Zero(t, asked.Load())
}

// A document that is no directory is not remembered as one.
func TestADirectoryIsRememberedOnlyWhenItIsWhole(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"status":"starting"}`)
	})
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	ca.Intercept(nil)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
}

// R6: a run that ends keeps the challenge address for as long as another run on this host uses it, so that there is no
// moment in which nobody answers.
func TestR6ABorrowedChallengeAddressIsKeptByItsLender(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	store := certstore.NewOverlay(nil)
	use := func(c *acme.Config) { c.Store = store }
	first, second := client(t, ca, use), client(t, ca, use)
	_, err := first.Obtain(t.Context(), request("warm.example")) // makes and registers the account
	require.NoError(t, err)

	// The first run ends while the second, which borrows its address, has the CA look.
	hold, held := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			if once.CompareAndSwap(false, true) {
				close(held)
				<-hold
				w.WriteHeader(http.StatusForbidden)
				return
			}
			close(hold)
		}
		next.ServeHTTP(w, r)
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := first.Obtain(t.Context(), request("first.example")); err == nil {
			t.Error("the first run should have been refused")
		}
	}()
	select {
	case <-held:
	case <-ended:
		require.FailNow(t, "the first run ended before it ordered")
	}
	_, err = second.Obtain(t.Context(), request("second.example"))
	require.NoError(t, err)
	<-ended
}

// R6: a lender that is killed leaves the address to whoever borrows it.
func TestR6ABorrowedChallengeAddressIsTakenOver(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	thumbprint, err := c.Thumbprint(t.Context())
	require.NoError(t, err)
	lent, kill := context.WithCancel(t.Context())
	dead := make(chan error, 1)
	listening := make(chan struct{})
	address := "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)
	go func() {
		dead <- challenge.Respond(lent, func(network, address string) (net.Listener, error) {
			defer close(listening)
			return net.Listen(network, address)
		}, address, thumbprint)
	}()
	<-listening
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			kill()
			if err := <-dead; err != nil {
				t.Error(err)
			}
		}
		next.ServeHTTP(w, r)
	})
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
}

// S5: whoever holds connections at the challenge address keeps nobody out, from one address or from many.
func TestS5HeldConnectionsDoNotStarveTheAnswer(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	_, err := c.Obtain(t.Context(), request("warm.example"))
	require.NoError(t, err)
	var held []net.Conn
	var once sync.Once
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			once.Do(func() {
				for n := range 400 {
					dialer := net.Dialer{}
					if n%2 == 0 {
						dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 7, byte(n/200), byte(1+n%200))}
					}
					conn, err := dialer.Dial("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
					if err == nil {
						// Half a request, so that the other end waits for the rest.
						_, _ = conn.Write([]byte("GET /.well-known/acme-challenge/x HTTP/1.1\r\n"))
						held = append(held, conn)
					}
				}
			})
		}
		next.ServeHTTP(w, r)
	})
	_, err = c.Obtain(t.Context(), request(names(10)...))
	require.NoError(t, err)
	require.Len(t, held, 400)
	for _, conn := range held {
		require.NoError(t, conn.Close())
	}
}

// S5: a CA that validates many names at the same moment comes from one address, and so does all that comes through a proxy: here one that
// lets nothing through before all is there, for which the CA waits longer than for its resolver.
func TestS5ManyNamesAreValidatedFromOneAddress(t *testing.T) {
	t.Parallel()
	const many = 60
	ca := acmetest.New(t, acmetest.Options{})
	front, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
	require.NoError(t, err)
	t.Cleanup(func() { _ = front.Close() })
	port, err := loopback.Port()
	require.NoError(t, err)
	behind := "127.0.0.1:" + strconv.Itoa(port)
	isTime := make(chan struct{})
	come := sync.OnceFunc(func() { close(isTime) })
	t.Cleanup(come)
	var came atomic.Int32
	pass := func(outer net.Conn) {
		defer outer.Close()
		asked := make([]byte, 4096)
		n, err := outer.Read(asked)
		if err != nil {
			return
		}
		if came.Add(1) == many {
			come()
		}
		<-isTime
		inner, err := net.Dial("tcp", behind)
		if err != nil {
			return // and the CA says what it missed
		}
		defer inner.Close()
		// As whoever comes by itself does: no crowd is waited for in between.
		if _, err := inner.Write(asked[:n]); err == nil {
			_, _ = io.Copy(outer, inner)
		}
	}
	go func() {
		for {
			outer, err := front.Accept()
			if err != nil {
				return
			}
			go pass(outer)
		}
	}()
	_, err = client(t, ca, func(c *acme.Config) { c.Solve = always(&challenge.Responder{Address: behind}) }).Obtain(t.Context(), request(names(many)...))
	require.NoError(t, err)
	require.GreaterOrEqual(t, came.Load(), int32(many))
}

// S1: what a CA names for later is a bounded https URL, or it is refused; nothing of it is stored.
func TestS1URLsThatAreToBeStoredAreBounded(t *testing.T) {
	t.Parallel()
	for name, location := range map[string]string{
		"5 MB": "https://ca.example/" + strings.Repeat("x", 5<<20), "3 KB": "https://ca.example/" + strings.Repeat("x", 3<<10),
		"plain http": "http://ca.example/1", "a password": "https://a:b@ca.example/1", "no URL": "%%%", "nothing": "",
	} {
		for _, what := range []string{"sign-me-up", acmetest.NewOrder} {
			t.Run(name+" at "+what, func(t *testing.T) {
				t.Parallel()
				ca := acmetest.New(t, acmetest.Options{})
				store := certstore.NewOverlay(nil)
				saved := new(saves)
				asked := request("a.example")
				asked.Save = saved.save
				c := client(t, ca, func(c *acme.Config) { c.Store = store })
				ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if strings.Contains(r.URL.Path, what) {
						recorder := httptest.NewRecorder()
						next.ServeHTTP(recorder, r)
						maps.Copy(w.Header(), recorder.Header())
						w.Header().Set("Location", location)
						w.WriteHeader(recorder.Code)
						w.Write(recorder.Body.Bytes())
						return
					}
					next.ServeHTTP(w, r)
				})
				_, err := c.Obtain(t.Context(), asked)
				require.Error(t, err)
				require.Less(t, len(err.Error()), 1000)
				require.Empty(t, saved.orders)
				text, _, err := store.Read(t.Context(), "account")
				require.NoError(t, err)
				require.Less(t, len(text), 4<<10)
				ca.Intercept(nil)
				_, err = c.Obtain(t.Context(), asked)
				require.NoError(t, err, "the real CA works afterwards")
			})
		}
	}
}

// S1: a stranger in the CA's place has a certificate of his own, whose names are told in an error.
func TestS1AStrangersCertificateDoesNotFillAnError(t *testing.T) {
	t.Parallel()
	var many []string
	for n := range 95 {
		many = append(many, fmt.Sprintf("%s%02d.%s.example", strings.Repeat("a", 60), n, strings.Repeat(strings.Repeat("b", 60)+".", 2)))
	}
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, many...)
	require.NoError(t, err)
	stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
	stranger.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{bundle.Leaf().Raw}, PrivateKey: bundle.Key()}}}
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	ca := acmetest.New(t, acmetest.Options{})
	_, err = client(t, ca, func(c *acme.Config) { c.Directory = stranger.URL }).Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	require.Less(t, len(err.Error()), 2000)
}

// A CA quotes who answered it: whoever that is cannot pass another name off as one that failed.
func TestAQuotedStrangerAccusesNoOtherName(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	ca.DNS.Fail("b.example", dns.RcodeNameError)
	rewriteAnswers(ca, []string{acmetest.Authz, acmetest.Challenge}, func(body string) string {
		return strings.ReplaceAll(body, `"detail": "`, `"detail": "it says: hello; validation: a.example: no`)
	})
	_, err := client(t, ca).Obtain(t.Context(), request("a.example", "b.example"))
	require.ErrorContains(t, err, "it says: hello, validation: a.example: no")
	require.NotContains(t, err.Error(), acme.BetweenFailures)
}

// S10: headers are bounded, and so is the number of chains that a CA may offer.
func TestS10HeadersAreBounded(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		for n := range 100 {
			w.Header().Add("X-More", strings.Repeat(strconv.Itoa(n%10), 10_000))
		}
		next.ServeHTTP(w, r)
	})
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	ca.Intercept(nil)

	asked := 0
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Certificate) {
			asked++
			for n := range 200 {
				w.Header().Add("Link", fmt.Sprintf(`<https://%s/%s/alternate/%d>;rel="alternate"`, r.Host, strings.Trim(r.URL.Path, "/"), n))
			}
		}
		next.ServeHTTP(w, r)
	})
	c = client(t, ca, func(c *acme.Config) { c.PreferredChain = "nowhere" })
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.LessOrEqual(t, asked, 60)
}

// S9: a token that is none is refused before any solver sees it.
func TestS9TokensAreCheckedForEverySolver(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	var presented atomic.Bool
	c := client(t, ca, func(c *acme.Config) {
		c.Solve = always(&challenge.DNS{Connect: func(context.Context) (challenge.Records, error) {
			presented.Store(true)
			return nil, errors.New("not wanted here")
		}})
	})
	c2 := client(t, ca)
	rewriteAnswers(ca, []string{acmetest.Authz}, func(body string) string {
		return regexp.MustCompile(`"token": "[^"]*"`).ReplaceAllLiteralString(body, `"token": "../../etc/x; $(id)"`)
	})
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.Error(t, err)
	_, err = c2.Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "the CA's token is none")
}

// R8: what goes wrong with a nonce is the same as what goes wrong with anything else.
func TestR8NoncesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	var count atomic.Int32
	fault := func(times int32, answer func(w http.ResponseWriter)) {
		count.Store(0)
		ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead && count.Add(1) <= times {
				answer(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	fault(2, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	fault(1, func(http.ResponseWriter) { panic(http.ErrAbortHandler) })
	_, err = c.Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		fault(1000, func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "7200")
			w.WriteHeader(status)
		})
		_, err = c.Obtain(t.Context(), request("c.example"))
		require.True(t, acme.IsRateLimited(err), "%v", err)
		at, told := acme.RetryAfter(err)
		require.True(t, told)
		require.WithinDuration(t, time.Now().Add(2*time.Hour), at, time.Minute)
	}
}

// R8: one stream that is reset, as HTTP/2 servers do when they restart, is no failure.
func TestR8AResetStreamIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, path := range []string{acmetest.Order, acmetest.Finalize, acmetest.Challenge} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			var once atomic.Bool
			ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.Contains(r.URL.Path, path) && once.CompareAndSwap(false, true) {
					if r.ProtoMajor != 2 {
						t.Error("this is about HTTP/2")
					}
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(w, r)
			})
			_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
			require.NoError(t, err)
		})
	}
}

// R12: a clock that is a hundred days wrong is named before it costs an order.
func TestR12AWrongClockIsNamedBeforeAnOrder(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, func(c *acme.Config) { c.Now = func() time.Time { return time.Now().Add(100 * 24 * time.Hour) } })
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "clock is 2400h0m")
	require.ErrorContains(t, err, "ahead of the CA's")
	require.Contains(t, hint.Of(err), "timedatectl")
	require.Zero(t, ca.Orders())
}

// H2: a CA cannot send what is signed for it to another host.
func TestH2RedirectsOfSignedRequestsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	ca := acmetest.New(t, acmetest.Options{})
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err := client(t, ca).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "redirects")
	require.Zero(t, asked.Load())
}

// Two rehearsals in a row on a host without an account: the first one's throw-away account is gone for good.
func TestRehearsalsFollowEachOther(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, func(c *acme.Config) { c.Store = certstore.NewOverlay(nil) })
	for range 2 {
		_, err := c.Rehearse(t.Context(), request("a.example"), false)
		require.NoError(t, err)
	}
	require.Empty(t, ca.Issued())
	require.Equal(t, 2, ca.Count(acmetest.NewAccount))
}

// An order that is under way elsewhere may share authorizations with a rehearsal, which then leaves them alone.
func TestARehearsalBesideAnOrderDeactivatesNothing(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{AuthzReuse: 100})
	c := client(t, ca)
	_, err := c.Obtain(t.Context(), request("warm.example"))
	require.NoError(t, err)
	_, err = c.Rehearse(t.Context(), request("a.example"), true)
	require.NoError(t, err)
	proven := ca.Count(acmetest.Challenge)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.Equal(t, proven, ca.Count(acmetest.Challenge), "the authorization is still good")
}
