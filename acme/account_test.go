package acme_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/hint"
)

const keyChange = "/rollover-account-key"

// stored is what a store holds of the account.
func stored(t *testing.T, store certstore.Store) certstore.Account {
	t.Helper()
	account, _, err := certstore.LoadAccount(t.Context(), store)
	require.NoError(t, err)
	return account
}

func public(t *testing.T, account certstore.Account) crypto.PublicKey {
	t.Helper()
	key, err := account.Signer(t.Context(), nil)
	require.NoError(t, err)
	return key.Public()
}

// two are clients of two CAs with one account.
func two(t *testing.T, ready bool) (store certstore.Store, cas []*acmetest.CA, clients []*acme.Client) {
	t.Helper()
	store = certstore.NewOverlay(nil)
	for range 2 {
		ca := acmetest.New(t, acmetest.Options{})
		c := client(t, ca, func(c *acme.Config) { c.Store = store })
		if ready {
			_, err := c.Obtain(t.Context(), request("a.example"))
			require.NoError(t, err)
		}
		cas, clients = append(cas, ca), append(clients, c)
	}
	return store, cas, clients
}

// A21: an address that changed in the configuration reaches the CA when a person says so.
func TestTheContactReachesTheCA(t *testing.T) {
	t.Parallel()
	store, ca := certstore.NewOverlay(nil), acmetest.New(t, acmetest.Options{})
	var told []string
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var signed struct{ Payload string }
		if err == nil && json.Unmarshal(body, &signed) == nil {
			payload, _ := base64.RawURLEncoding.DecodeString(signed.Payload)
			var account struct{ Contact []string }
			if json.Unmarshal(payload, &account) == nil {
				told = append(told, account.Contact...)
			}
		}
		next.ServeHTTP(w, r)
	})
	with := func(email string) *acme.Client {
		return client(t, ca, func(c *acme.Config) { c.Store, c.Email = store, email })
	}
	_, err := with("first@example.com").Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.Equal(t, "first@example.com", stored(t, store).Registrations[ca.Directory].Contact)
	changes, err := acme.UpdateContact(t.Context(), store, []*acme.Client{with("second@example.com")})
	require.NoError(t, err)
	require.Equal(t, "was told second@example.com", changes[0].What)
	require.Equal(t, "second@example.com", stored(t, store).Registrations[ca.Directory].Contact)
	require.Equal(t, []string{"mailto:first@example.com", "mailto:second@example.com"}, told)
	changes, err = acme.UpdateContact(t.Context(), store, []*acme.Client{with("")})
	require.NoError(t, err)
	require.Contains(t, changes[0].What, "was told nothing")
	_, err = acme.UpdateContact(t.Context(), store, nil)
	require.Error(t, err)
}

// Whoever has a certificate's key may have it revoked, whichever account ordered it; without the key the account has to be the one.
func TestAnybodysCertificateIsRevokedWithItsKey(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	owner := client(t, ca)
	issued, err := owner.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	other, err := owner.Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
	stranger := client(t, ca, func(c *acme.Config) { c.Store = certstore.NewOverlay(nil) })
	err = stranger.RevokeCertificate(t.Context(), issued.Bundle.Leaf(), nil, 4)
	require.ErrorContains(t, err, "no ACME account")
	require.Contains(t, hint.Of(err), "--key")
	require.Error(t, stranger.RevokeCertificate(t.Context(), issued.Bundle.Leaf(), other.Bundle.Key(), 4), "another certificate's key")
	require.False(t, ca.IsRevoked(issued.Bundle.Leaf()))
	require.NoError(t, stranger.RevokeCertificate(t.Context(), issued.Bundle.Leaf(), issued.Bundle.Key(), 1))
	require.NoError(t, owner.RevokeCertificate(t.Context(), other.Bundle.Leaf(), nil, 4))
	require.NoError(t, owner.RevokeCertificate(t.Context(), other.Bundle.Leaf(), nil, 4), "once more")
	require.True(t, ca.IsRevoked(issued.Bundle.Leaf()))
	require.True(t, ca.IsRevoked(other.Bundle.Leaf()))
}

func TestRolloverReplacesTheKeyAtEveryCA(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	require.Len(t, changes, 2)
	after := stored(t, store)
	require.NotEqual(t, public(t, before), public(t, after))
	require.Empty(t, after.NextKey)
	for i, c := range clients {
		require.Equal(t, before.Registrations[c.Directory()].URL, after.Registrations[c.Directory()].URL, "it is the same account")
		require.False(t, after.Registrations[c.Directory()].Next)
		require.Equal(t, "has the new key", changes[i].What)
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
		require.Equal(t, 1, cas[i].Count(acmetest.NewAccount))
	}
}

// One CA is down: the other has the new key and is used with it; the next rollover goes on.
func TestRolloverGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	broken := cas[1]
	broken.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == keyChange {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		next.ServeHTTP(w, r)
	})
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.ErrorContains(t, err, "1 of 2 directories failed")
	var failed error
	for _, change := range changes {
		failed = errors.Join(failed, change.Err)
	}
	require.ErrorContains(t, failed, "keyChange: 502 Bad Gateway")
	between := stored(t, store)
	require.Equal(t, before.Key, between.Key)
	require.NotEmpty(t, between.NextKey)
	for _, c := range clients {
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err, "each is used with the key that it knows")
	}
	broken.Intercept(nil)
	_, err = acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	require.Equal(t, between.NextKey, stored(t, store).Key)
	require.Equal(t, 1, cas[0].Count(keyChange))
	for _, c := range clients {
		_, err := c.Obtain(t.Context(), request("c.example"))
		require.NoError(t, err)
	}
}

// The CA changed the key, and the run was killed before it wrote that down.
func TestRolloverThatWasCutOff(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	ctx, cancel := context.WithCancelCause(t.Context())
	cas[0].Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(w, r)
		if r.URL.Path == keyChange {
			cancel(errors.New("killed"))
		}
	})
	_, err := acme.Rollover(ctx, store, clients)
	require.Error(t, err)
	cas[0].Intercept(nil)
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err, fmt.Sprint(changes))
	for i, c := range clients {
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
		require.NotContains(t, changes[i].What, "new account")
	}
}

// step-ca names a URL for it and answers 501; others name none.
func TestRolloverWhereTheCACannot(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	for _, ca := range cas {
		ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == keyChange {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusNotImplemented)
				fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:notImplemented","detail":"this operation is not implemented"}`)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	after := stored(t, store)
	for i, c := range clients {
		require.Contains(t, changes[i].What, "has a new account with the new key")
		require.NotEqual(t, before.Registrations[c.Directory()].URL, after.Registrations[c.Directory()].URL)
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
	}
}

func TestRolloverWithoutARegistration(t *testing.T) {
	t.Parallel()
	store, _, clients := two(t, false)
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	require.Empty(t, changes)
	_, err = clients[0].Thumbprint(t.Context())
	require.NoError(t, err)
	before := stored(t, store).Key
	_, err = acme.Rollover(t.Context(), store, clients[1:])
	require.NoError(t, err)
	require.NotEqual(t, before, stored(t, store).Key)
}

func TestRolloverForgetsADirectoryThatNobodyKnows(t *testing.T) {
	t.Parallel()
	store, _, clients := two(t, true)
	changes, err := acme.Rollover(t.Context(), store, clients[:1])
	require.NoError(t, err)
	require.Len(t, stored(t, store).Registrations, 1)
	require.Contains(t, changes[0].What+changes[1].What, "forgotten")
}

func TestDeactivate(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	_, err := acme.Deactivate(t.Context(), store, clients)
	require.NoError(t, err)
	require.Empty(t, stored(t, store).Key, "a CA lets nobody use the key again")
	for i, c := range clients {
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
		require.Equal(t, 2, cas[i].Count(acmetest.NewAccount))
	}
}

// Somebody else deactivated the account: that is told, and a rollover makes another.
func TestAnAccountThatIsDeactivated(t *testing.T) {
	t.Parallel()
	store, _, clients := two(t, true)
	mine := stored(t, store)
	theirs := certstore.NewOverlay(nil)
	_, err := certstore.SaveAccount(t.Context(), theirs, mine, "")
	require.NoError(t, err)
	_, err = acme.Deactivate(t.Context(), theirs, clients)
	require.NoError(t, err)
	// The clients share a store of ours; what they forgot is put back.
	_, revision, err := certstore.LoadAccount(t.Context(), store)
	require.NoError(t, err)
	_, err = certstore.SaveAccount(t.Context(), store, mine, revision)
	require.NoError(t, err)

	_, err = clients[0].Obtain(t.Context(), request("b.example"))
	require.ErrorIs(t, err, acme.ErrDeactivated)
	require.Contains(t, hint.Of(err), "maascert account rollover")
	changes, err := acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err, fmt.Sprint(changes))
	for _, c := range clients {
		_, err := c.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	_, cas, clients := two(t, true)
	issued, err := clients[0].Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	version := certstore.Version{Directory: issued.Directory, Account: issued.Account, Bundle: issued.Bundle}
	require.NoError(t, clients[0].Revoke(t.Context(), version, acme.Reasons["superseded"]))
	require.True(t, cas[0].IsRevoked(issued.Bundle.Leaf()))
	require.NoError(t, clients[0].Revoke(t.Context(), version, acme.Reasons["superseded"]), "it is revoked already")
	require.ErrorContains(t, clients[1].Revoke(t.Context(), version, 0), "was not issued by")

	// By the certificate's own key, where another account ordered it.
	issued, err = clients[0].Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
	other := client(t, cas[0])
	require.NoError(t, other.Revoke(t.Context(), certstore.Version{Directory: issued.Directory, Account: issued.Account, Bundle: issued.Bundle}, 1))
	require.True(t, cas[0].IsRevoked(issued.Bundle.Leaf()))
}

func TestTermsThatChanged(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca)
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Link", `<https://ca.example/terms-2>;rel="terms-of-service"`)
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:userActionRequired","detail":"terms have changed","instance":"https://ca.example/agree"}`)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "terms have changed; the terms of service: https://ca.example/terms-2; visit: https://ca.example/agree")
	require.Contains(t, hint.Of(err), "do what it says there")
}

// A proxy stands in the way: nothing is made of that, and the account is the same afterwards.
func TestRolloverBehindAProxyThatRefuses(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	for _, ca := range cas {
		ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == keyChange {
				http.Error(w, "forbidden", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	_, err := acme.Rollover(t.Context(), store, clients)
	require.ErrorContains(t, err, "2 of 2 directories failed")
	require.Equal(t, before.Registrations, stored(t, store).Registrations)
	for _, ca := range cas {
		ca.Intercept(nil)
	}
	_, err = acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	require.Equal(t, before.Registrations[clients[0].Directory()].URL, stored(t, store).Registrations[clients[0].Directory()].URL)
}

// The old account is not deactivated at once: the old key is kept until it is.
func TestRolloverEndsTheFormerAccount(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	broken := true
	cas[0].Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case r.URL.Path == keyChange:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotImplemented)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:notImplemented","detail":"no"}`)
		case broken && strings.HasSuffix(before.Registrations[clients[0].Directory()].URL, r.URL.Path):
			http.Error(w, "forbidden", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
	_, err := acme.Rollover(t.Context(), store, clients)
	require.Error(t, err)
	between := stored(t, store)
	require.Equal(t, before.Key, between.Key)
	require.NotEmpty(t, between.Registrations[clients[0].Directory()].Former)
	_, err = clients[0].Obtain(t.Context(), request("b.example"))
	require.NoError(t, err, "the new account is used meanwhile")
	broken = false
	_, err = acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	after := stored(t, store)
	require.Empty(t, after.Registrations[clients[0].Directory()].Former)
	require.NotEqual(t, before.Key, after.Key)
}

// R7: the CA changed the key and its answer got lost. Orders and rehearsals go on with the new key by themselves.
func TestR7AnOrderInTheMiddleOfARolloverFindsTheNewKey(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	cas[0].Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == keyChange {
			next.ServeHTTP(httptest.NewRecorder(), r)
			http.Error(w, "bad gateway", http.StatusBadGateway)
			return
		}
		next.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := acme.Rollover(ctx, store, clients)
	require.Error(t, err)
	cas[0].Intercept(nil)
	_, err = clients[0].Rehearse(t.Context(), request("b.example"), false)
	require.NoError(t, err)
	_, err = clients[0].Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
	require.True(t, stored(t, store).Registrations[clients[0].Directory()].Next)
	_, err = clients[1].Obtain(t.Context(), request("b.example"))
	require.NoError(t, err, "a CA that has the old key gets the old one")
	_, err = acme.Rollover(t.Context(), store, clients)
	require.NoError(t, err)
	_, err = clients[0].Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
}

func TestDeactivateKeepsTheKeyWhileAnAccountIsOutOfReach(t *testing.T) {
	t.Parallel()
	store, _, clients := two(t, true)
	_, err := acme.Deactivate(t.Context(), store, clients[:1])
	require.Error(t, err)
	require.NotEmpty(t, stored(t, store).Key)
	require.Len(t, stored(t, store).Registrations, 1)
}

// Deactivating in the middle of a rollover ends the account with the old key as well, before that key is forgotten.
func TestDeactivateEndsTheFormerAccountToo(t *testing.T) {
	t.Parallel()
	store, cas, clients := two(t, true)
	before := stored(t, store)
	broken := true
	cas[0].Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case r.URL.Path == keyChange:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotImplemented)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:notImplemented","detail":"no"}`)
		case broken && strings.HasSuffix(before.Registrations[clients[0].Directory()].URL, r.URL.Path):
			http.Error(w, "forbidden", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
	_, err := acme.Rollover(t.Context(), store, clients)
	require.Error(t, err)
	broken = false
	_, err = acme.Deactivate(t.Context(), store, clients)
	require.NoError(t, err)
	require.Empty(t, stored(t, store).Key)

	leaked := certstore.NewOverlay(nil)
	_, err = certstore.SaveAccount(t.Context(), leaked, before, "")
	require.NoError(t, err)
	thief := client(t, cas[0], func(c *acme.Config) { c.Store = leaked })
	_, err = thief.Obtain(t.Context(), request("b.example"))
	require.ErrorIs(t, err, acme.ErrDeactivated, "nobody can use the old key")
}

// An account whose key is lost where keys are kept gives way to another one, with the next order and once the key is old enough for that; while
// nobody knows whether it is, nothing is asked of the CA.
func TestAnAccountWhoseKeyIsLost(t *testing.T) {
	t.Parallel()
	keys := storetest.NewKeeper()
	store := certstore.NewKeysApart(certstore.NewOverlay(nil), keys)
	ca := acmetest.New(t, acmetest.Options{})
	later := time.Duration(0)
	c := client(t, ca, func(c *acme.Config) {
		c.Store, c.Now = store, func() time.Time { return time.Now().Add(later) }
	})
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	before := stored(t, store)
	require.True(t, certstore.IsKeptApart(before.Key))

	keys.Away(errors.New("it is sealed"))
	orders := ca.Orders()
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.Equal(t, orders, ca.Orders())
	keys.Away(nil)

	forgetKeysOfAccount(t, keys)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.ErrorIs(t, err, certstore.ErrKeysAway, "a server may be behind")
	later = time.Hour
	_, err = c.Thumbprint(t.Context())
	require.ErrorIs(t, err, certstore.ErrKeyLost)
	require.Contains(t, hint.Of(err), "the next order takes another account")
	require.Error(t, c.RevokeCertificate(t.Context(), nil, nil, 4))
	require.Equal(t, before, stored(t, store), "only an order makes another one")
	require.Equal(t, orders, ca.Orders())
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	after := stored(t, store)
	require.NotEqual(t, before.Key, after.Key)
	require.NotEqual(t, before.Registrations[c.Directory()].URL, after.Registrations[c.Directory()].URL)

	// Whoever says that it is lost need not wait.
	forgetKeysOfAccount(t, keys)
	certain := request("a.example")
	certain.LoseKeys = true
	_, err = c.Obtain(t.Context(), certain)
	require.NoError(t, err)

	// A rollover keeps the next key apart as well.
	changes, err := acme.Rollover(t.Context(), store, []*acme.Client{c})
	require.NoError(t, err)
	require.Len(t, changes, 1)
	_, err = c.Obtain(t.Context(), request("b.example"))
	require.NoError(t, err)
}

// forgetKeysOfAccount removes the account's keys where they are kept, but for those of some names.
func forgetKeysOfAccount(t *testing.T, keys *storetest.Keeper, kept ...string) {
	t.Helper()
	for _, name := range keys.Names() {
		if _, at, isOne := strings.Cut(name, "/account/"); isOne && !slices.Contains(kept, at) {
			require.NoError(t, keys.Delete(t.Context(), name))
		}
	}
}

// Of two keys of an account, one for each CA, one is lost: what the other CA knows the account by stays, whichever orders first.
func TestOneOfTwoKeysOfAnAccountIsLost(t *testing.T) {
	t.Parallel()
	for _, isNextLost := range []bool{true, false} {
		keys := storetest.NewKeeper()
		store := certstore.NewKeysApart(certstore.NewOverlay(nil), keys)
		later := time.Duration(0)
		var cas []*acmetest.CA
		var clients []*acme.Client
		for range 2 {
			ca := acmetest.New(t, acmetest.Options{})
			cas = append(cas, ca)
			clients = append(clients, client(t, ca, func(c *acme.Config) {
				c.Store, c.Now = store, func() time.Time { return time.Now().Add(later) }
			}))
			_, err := clients[len(clients)-1].Obtain(t.Context(), request("a.example"))
			require.NoError(t, err)
		}
		cas[1].Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == keyChange {
				http.Error(w, "down", http.StatusBadGateway)
				return
			}
			next.ServeHTTP(w, r)
		})
		_, err := acme.Rollover(t.Context(), store, clients)
		require.Error(t, err)
		cas[1].Intercept(nil)
		half := stored(t, store)
		require.True(t, half.Registrations[clients[0].Directory()].Next)
		require.False(t, half.Registrations[clients[1].Directory()].Next)

		thumbprint := func(key string) string { return key[strings.LastIndex(key, ":")+1:] }
		hit, spared, kept := clients[0], clients[1], half.Key
		if !isNextLost {
			hit, spared, kept = clients[1], clients[0], half.NextKey
		}
		forgetKeysOfAccount(t, keys, thumbprint(kept))
		later = time.Hour
		_, err = hit.Obtain(t.Context(), request("a.example"))
		require.NoError(t, err)
		after := stored(t, store)
		require.Equal(t, kept, after.Key)
		require.Empty(t, after.NextKey)
		require.Equal(t, half.Registrations[spared.Directory()].URL, after.Registrations[spared.Directory()].URL)
		require.NotEqual(t, half.Registrations[hit.Directory()].URL, after.Registrations[hit.Directory()].URL)
		_, err = spared.Obtain(t.Context(), request("b.example"))
		require.NoError(t, err)
		require.Equal(t, after, stored(t, store))
	}
}
