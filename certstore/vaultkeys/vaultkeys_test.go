package vaultkeys_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/vaultkeys"
	"maascert/internal/hint"
)

// What Vault really does is in vault_test.go. Here somebody else answers in its place.

const (
	roleID   = "8b1ed98e-the-role-id"
	secretID = "f0e1a4aa-the-secret-id"
	keyText  = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n"
)

// pretender answers in Vault's place: logins as Vault does, and all else as a test wants.
type pretender struct {
	*httptest.Server
	logins atomic.Int64
	secret atomic.Value // that is good
}

func pretend(t *testing.T, answer http.HandlerFunc) *pretender {
	t.Helper()
	p := &pretender{}
	p.secret.Store(secretID)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/auth/approle/login" {
			answer(w, r)
			return
		}
		n := p.logins.Add(1)
		var asked map[string]string
		_ = json.NewDecoder(r.Body).Decode(&asked)
		if asked["secret_id"] != p.secret.Load() {
			say(w, http.StatusBadRequest, `{"errors":["invalid role or secret ID"]}`)
			return
		}
		say(w, http.StatusOK, fmt.Sprintf(`{"auth":{"client_token":"hvs.token-%d-of-maascert","lease_duration":3600,"renewable":true}}`, n))
	}))
	t.Cleanup(p.Close)
	return p
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (p *pretender) keys(t *testing.T, change func(*vaultkeys.Config)) *vaultkeys.Keys {
	t.Helper()
	config := vaultkeys.Config{
		Address: p.URL, Mount: "secret", Path: "maascert", AppRole: "approle", Dial: new(net.Dialer).DialContext, Now: time.Now,
		RoleID: func() (string, error) { return roleID, nil }, SecretID: func() (string, error) { return secretID, nil },
	}
	if change != nil {
		change(&config)
	}
	keys, err := vaultkeys.New(config)
	require.NoError(t, err)
	t.Cleanup(keys.Close)
	return keys
}

// questions are all that is asked of Vault about a key.
func questions(keys *vaultkeys.Keys) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"put": func(ctx context.Context) error { return keys.Put(ctx, "account/aa", []byte(keyText)) },
		"get": func(ctx context.Context) error {
			_, err := keys.Get(ctx, "account/aa")
			return err
		},
		"delete": func(ctx context.Context) error { return keys.Delete(ctx, "account/aa") },
		"list": func(ctx context.Context) error {
			_, _, err := keys.List(ctx, "account")
			return err
		},
		"age": func(ctx context.Context) error {
			_, err := keys.Age(ctx, "account/aa")
			return err
		},
		"ready": keys.Ready,
	}
}

// Whoever answers in Vault's place says what it likes: it is never taken for success, nor for a key that is not there, costs time and memory in
// bounds, and brings no secret into an error.
func TestALyingVault(t *testing.T) {
	t.Parallel()
	elsewhere := pretend(t, func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, `{"data":{"data":{"key":"x"}}}`) })
	for name, answer := range map[string]http.HandlerFunc{
		"an empty 404":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"a proxy's 404": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) },
		"JSON of others": func(w http.ResponseWriter, _ *http.Request) {
			say(w, http.StatusNotFound, `{"message":"no Route matched"}`)
		},
		"a page":            func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "<html>"+keyText) },
		"nothing":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"a gateway's error": func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusBadGateway, keyText) },
		"a standby": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"not modified": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) },
		"a flood": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
			}
		},
		"an echo": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			said, _ := json.Marshal(map[string][]string{"errors": {string(body) + r.Header.Get("X-Vault-Token") + "\x1b[31m" + strings.Repeat("y", 5000)}})
			say(w, http.StatusInternalServerError, string(said))
		},
		"a part of an echo": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			said, _ := json.Marshal(map[string][]string{"errors": {string(body[min(len(body), 60):]) + r.Header.Get("X-Vault-Token")[4:]}})
			say(w, http.StatusInternalServerError, string(said))
		},
		"a redirect with a body": func(w http.ResponseWriter, _ *http.Request) {
			say(w, http.StatusMultipleChoices, `{"data":{"data":{"key":"x"}}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := pretend(t, answer).keys(t, nil)
			for what, ask := range questions(keys) {
				err := ask(t.Context())
				require.Error(t, err, what)
				require.NotErrorIs(t, err, certstore.ErrNotFound, what)
				require.ErrorIs(t, err, certstore.ErrKeysAway, what)
				for _, secret := range []string{roleID, secretID, "hvs.", "MIGHAgEAMBM", "-of-maascert", "BEGIN", "\x1b"} {
					require.NotContains(t, err.Error(), secret, what)
				}
				require.Less(t, len(err.Error()), 1500, what)
			}
		})
	}
	require.Zero(t, elsewhere.logins.Load(), "nobody is led elsewhere")
}

// That Vault has no such key is the one answer that says so.
func TestAKeyThatIsNotThere(t *testing.T) {
	t.Parallel()
	keys := pretend(t, func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusNotFound, `{"errors":[]}`) }).keys(t, nil)
	ask := questions(keys)
	for _, what := range []string{"get", "age"} {
		require.ErrorIs(t, ask[what](t.Context()), certstore.ErrNotFound, what)
	}
	require.NoError(t, ask["delete"](t.Context()))
	require.NoError(t, ask["list"](t.Context()))
	require.Error(t, ask["put"](t.Context()))
}

// A name that leads out of the path is asked of nobody.
func TestNamesStayBelowThePath(t *testing.T) {
	t.Parallel()
	asked := atomic.Int64{}
	keys := pretend(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNoContent) }).keys(t, nil)
	for _, name := range []string{"../maas/global/tls", "account/..", "account//aa", "/account", "account/aa?version=1", "account/%2e%2e", ""} {
		require.Error(t, keys.Put(t.Context(), name, []byte(keyText)), name)
		_, err := keys.Get(t.Context(), name)
		require.Error(t, err, name)
		require.Error(t, keys.Delete(t.Context(), name), name)
		_, _, err = keys.List(t.Context(), name)
		require.Error(t, err, name)
	}
	require.Zero(t, asked.Load())
}

// A login that is refused is asked for once in half a minute, or as soon as there is another secret_id; many who want in at once log in once.
func TestLoginsAreFew(t *testing.T) {
	t.Parallel()
	p := pretend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	var secret atomic.Value
	secret.Store("an old one")
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	keys := p.keys(t, func(c *vaultkeys.Config) {
		c.SecretID = func() (string, error) { return secret.Load().(string), nil }
		c.Now = func() time.Time { return time.Unix(0, now.Load()) }
	})
	for range 20 {
		err := keys.Delete(t.Context(), "account/aa")
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.ErrorContains(t, err, "invalid role or secret ID")
		require.Contains(t, hint.Of(err), "secret-id")
	}
	require.EqualValues(t, 1, p.logins.Load())
	now.Add(int64(31 * time.Second))
	require.Error(t, keys.Delete(t.Context(), "account/aa"))
	require.EqualValues(t, 2, p.logins.Load())
	secret.Store(secretID)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := keys.Delete(t.Context(), "account/aa"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 3, p.logins.Load())
}

// A token that Vault refuses at each request makes no login of each.
func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	p := pretend(t, func(w http.ResponseWriter, _ *http.Request) {
		say(w, http.StatusForbidden, `{"errors":["permission denied"]}`)
	})
	keys := p.keys(t, nil)
	for range 50 {
		require.ErrorIs(t, keys.Delete(t.Context(), "account/aa"), certstore.ErrKeysAway)
	}
	require.LessOrEqual(t, p.logins.Load(), int64(10))

	// What the policy forbids is no fault of the token's.
	p = pretend(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "lookup-self") {
			say(w, http.StatusOK, `{"data":{}}`)
			return
		}
		say(w, http.StatusForbidden, `{"errors":["permission denied"]}`)
	})
	keys = p.keys(t, nil)
	for range 5 {
		err := keys.Delete(t.Context(), "account/aa")
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.Contains(t, hint.Of(err), "policy.hcl")
	}
	require.EqualValues(t, 1, p.logins.Load())
}

// A server that is behind the others is asked again.
func TestAServerThatIsBehind(t *testing.T) {
	t.Parallel()
	asked := atomic.Int64{}
	keys := pretend(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			say(w, http.StatusPreconditionFailed, `{"errors":["required index state not present"]}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}).keys(t, nil)
	require.NoError(t, keys.Delete(t.Context(), "account/aa"))
	require.EqualValues(t, 3, asked.Load())
}

// Whoever does not wait any longer is let go at once, also while somebody else logs in.
func TestNobodyWaitsForAVaultThatHangs(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hangs }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hangs) })
	keys := (&pretender{Server: server}).keys(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			_, err := keys.Get(ctx, "account/aa")
			assert.Equal(t, context.Canceled, err)
		})
	}
	cancel(nil)
	group.Wait()
}

// A command that asks several things waits once for a Vault that does not answer, and then not for half a minute.
func TestAVaultThatHangsIsNotAskedAgainAtOnce(t *testing.T) {
	t.Parallel()
	dials, now := 0, time.Now()
	keys := pretend(t, nil).keys(t, func(c *vaultkeys.Config) {
		c.Now = func() time.Time { return now }
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}
	})
	for _, row := range []struct {
		later time.Duration
		dials int
	}{{0, 1}, {0, 1}, {29 * time.Second, 1}, {time.Second, 2}, {0, 2}, {-time.Hour, 3}} {
		now = now.Add(row.later)
		_, err := keys.Get(t.Context(), "account/aa")
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.ErrorContains(t, err, "it does not answer in time")
		require.Contains(t, hint.Of(err), "vault status")
		require.Equal(t, row.dials, dials, row.later)
	}
}

// The environment of the vault program counts for nothing; the namespace is the configuration's.
func TestTheEnvironmentOfVault(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_TOKEN": "hvs.somebody-elses", "VAULT_NAMESPACE": "theirs", "VAULT_WRAP_TTL": "60", "VAULT_ADDR": "https://192.0.2.1:8200",
		"VAULT_HEADERS": `{"X-Theirs": "1"}`, "VAULT_MAX_RETRIES": "9", "VAULT_SKIP_VERIFY": "true",
	} {
		t.Setenv(name, value)
	}
	var seen http.Header
	p := pretend(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.WriteHeader(http.StatusNoContent)
	})
	require.NoError(t, p.keys(t, nil).Delete(t.Context(), "account/aa"))
	require.Equal(t, "hvs.token-1-of-maascert", seen.Get("X-Vault-Token"))
	for _, name := range []string{"X-Vault-Namespace", "X-Vault-Wrap-TTL", "X-Theirs"} {
		require.Empty(t, seen.Get(name), name)
	}
	require.NoError(t, p.keys(t, func(c *vaultkeys.Config) { c.Namespace = "ours/maas" }).Delete(t.Context(), "account/aa"))
	require.Equal(t, "ours/maas", strings.Trim(seen.Get("X-Vault-Namespace"), "/"))
}
