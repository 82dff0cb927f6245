package acme_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/certstore"
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
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
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

func TestTooManyAuthorizationsAreRefused(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
			next.ServeHTTP(w, r)
			return
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		w.WriteHeader(recorder.Code)
		many := strings.Repeat(`"https://ca.example/authz",`, 5000)
		fmt.Fprint(w, strings.Replace(recorder.Body.String(), `"authorizations": [`, `"authorizations": [`+many, 1))
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

// Whoever answered for us at the challenge address may end before we do; then we answer ourselves.
func TestABorrowedChallengeAddressIsTakenOver(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	store := certstore.NewOverlay(nil)
	use := func(c *acme.Config) { c.Store = store }
	first, second := client(t, ca, use), client(t, ca, use)
	_, err := first.Obtain(t.Context(), request("warm.example")) // makes and registers the account
	require.NoError(t, err)

	// The first run has the address until its validation is answered; the second comes meanwhile and borrows it.
	hold, held, firstEnded := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) && once.CompareAndSwap(false, true) {
			close(held)
			<-hold
			w.WriteHeader(http.StatusForbidden) // the first run ends here
			return
		}
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			close(hold)
			// The CA looks only when the first run has ended and the address is answered again, by the second.
			<-firstEnded
			require.Eventually(t, func() bool {
				conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
				if err == nil {
					conn.Close()
				}
				return err == nil
			}, 10*time.Second, time.Millisecond)
		}
		next.ServeHTTP(w, r)
	})
	go func() {
		defer close(firstEnded)
		if _, err := first.Obtain(t.Context(), request("first.example")); err == nil {
			t.Error("the first run should have been refused")
		}
	}()
	<-held
	_, err = second.Obtain(t.Context(), request("second.example"))
	require.NoError(t, err)
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
