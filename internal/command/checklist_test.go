package command

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
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
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/config"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// behaviour is one thing that an ACME client has to be able to cope with, seen through the whole program: what CAs do
// and RFC 8555, RFC 9773 and the CAs' guides say that clients have to do about it. The CA is Pebble; what it never does
// is put into its answers.
type behaviour struct {
	name   string
	habits acmetest.Options
	config []string // old and new texts of the configuration
	ready  bool     // the deployment has a certificate already
	fault  func(t *testing.T, s *site)
	args   string // default: renew --force --enable-tls
	exit   int
	says   string // on either output
	check  func(t *testing.T, s *site)
	whole  func(t *testing.T) // instead of all the others
}

func TestChecklist(t *testing.T) {
	t.Parallel()
	for _, row := range checklist {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.whole != nil {
				row.whole(t)
				return
			}
			s, err := newSiteWith(t.TempDir(), row.habits)
			require.NoError(t, err)
			t.Cleanup(s.stop)
			s.edit(t, row.config...)
			if row.ready {
				code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
				require.Zero(t, code, stderr)
			}
			if row.fault != nil {
				row.fault(t, s)
			}
			args := strings.Fields(row.args)
			if row.args == "" {
				args = []string{"renew", "--force", "--enable-tls"}
			}
			code, stdout, stderr := inSite(t, s, world.OS{}, args...)
			require.Equal(t, row.exit, code, stdout+stderr)
			require.Regexp(t, row.says, stdout+stderr)
			if row.exit == exitOK {
				require.Empty(t, stderr)
			}
			if row.check != nil {
				row.check(t, s)
			}
			if row.exit == exitOK {
				checkConverged(t, s, 100)
			}
		})
	}
}

func (s *site) edit(t *testing.T, texts ...string) {
	t.Helper()
	path := filepath.Join(s.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := 0; i < len(texts); i += 2 {
		require.Contains(t, string(text), texts[i])
		text = bytes.ReplaceAll(text, []byte(texts[i]), []byte(texts[i+1]))
	}
	require.NoError(t, os.WriteFile(path, text, 0o640))
}

// instead answers requests for a path otherwise; answer returns false to leave one to the CA.
func instead(path string, answer func(w http.ResponseWriter, r *http.Request) bool) func(*testing.T, *site) {
	return func(_ *testing.T, s *site) {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, path) || !answer(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

func problem(w http.ResponseWriter, status int, kind, detail string) bool {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"urn:ietf:params:acme:error:%s","detail":%q,"status":%d}`, kind, detail, status)
	return true
}

// first does something only the first n times.
func first(n int32, answer func(w http.ResponseWriter, r *http.Request) bool) func(w http.ResponseWriter, r *http.Request) bool {
	var count atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool { return count.Add(1) <= n && answer(w, r) }
}

// rewrites changes the JSON documents that the CA answers with at some paths.
func rewrites(change func(path string, doc map[string]any, header http.Header)) func(*testing.T, *site) {
	return func(_ *testing.T, s *site) {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			recorder := httptest.NewRecorder()
			next.ServeHTTP(recorder, r)
			body := recorder.Body.Bytes()
			var doc map[string]any
			if json.Unmarshal(body, &doc) == nil && recorder.Code < 300 {
				change(r.URL.Path, doc, recorder.Header())
				if changed, err := json.Marshal(doc); err == nil {
					body = changed
				}
			}
			maps.Copy(w.Header(), recorder.Header())
			w.Header().Del("Content-Length")
			w.WriteHeader(recorder.Code)
			// A client that hung up does not read the answer.
			_, _ = w.Write(body)
		})
	}
}

func isOrder(path string) bool {
	return strings.Contains(path, acmetest.Order) || strings.Contains(path, acmetest.NewOrder) || strings.Contains(path, acmetest.Finalize)
}

// slowOrder has the CA call an order pending once more, with a Retry-After.
func slowOrder(retryAfter func() string) (func(*testing.T, *site), func(*testing.T, *site)) {
	var mu sync.Mutex
	var asked []time.Time
	fault := rewrites(func(path string, doc map[string]any, header http.Header) {
		if !strings.Contains(path, acmetest.Order) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, time.Now())
		if len(asked) == 1 {
			doc["status"] = "pending"
			header.Set("Retry-After", retryAfter())
		}
	})
	return fault, func(t *testing.T, _ *site) {
		mu.Lock()
		defer mu.Unlock()
		require.Greater(t, asked[1].Sub(asked[0]), 900*time.Millisecond, "the CA's Retry-After is obeyed")
	}
}

func inSeconds() string { return "1" }

func asDate() string { return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat) }

func retryAfterRow(name string, form func() string) behaviour {
	fault, check := slowOrder(form)
	return behaviour{name: name, fault: fault, check: check}
}

// limited has the CA refuse orders for two hours.
func limited(status int, kind string) func(*testing.T, *site) {
	return instead(acmetest.NewOrder, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "7200")
		return problem(w, status, kind, "slow down")
	})
}

// isLeftAlone checks that the next runs do not ask the CA for an order, forced or not.
func isLeftAlone(t *testing.T, s *site) {
	t.Helper()
	before := s.ca.Count(acmetest.NewOrder)
	for _, args := range [][]string{{"renew"}, {"renew", "--force"}} {
		code, _, stderr := inSite(t, s, world.OS{}, append(args, "--enable-tls")...)
		require.Equal(t, exitNotNow, code)
		require.Contains(t, stderr, "the CA set this time")
	}
	require.Equal(t, before, s.ca.Count(acmetest.NewOrder))
}

// payload is what a signed request says.
func payload(r *http.Request) map[string]any {
	var jws struct{ Payload string }
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(r.Body); err != nil || json.Unmarshal(body.Bytes(), &jws) != nil {
		return nil
	}
	r.Body = http.NoBody
	text, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	var doc map[string]any
	if err != nil || json.Unmarshal(text, &doc) != nil {
		return nil
	}
	return doc
}

// refusesReplaces refuses orders that name a predecessor.
func refusesReplaces(status int, kind string) behaviour {
	return behaviour{
		name: fmt.Sprintf("replaces refused with %d", status), ready: true,
		fault: func(t *testing.T, s *site) {
			s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
					next.ServeHTTP(w, r)
					return
				}
				body := new(bytes.Buffer)
				if _, err := body.ReadFrom(r.Body); err != nil {
					return
				}
				copied := r.Clone(r.Context())
				copied.Body = readCloser{bytes.NewReader(body.Bytes())}
				if payload(copied)["replaces"] != nil {
					problem(w, status, kind, "no such predecessor")
					return
				}
				r.Body = readCloser{bytes.NewReader(body.Bytes())}
				next.ServeHTTP(w, r)
			})
		},
		says: `obtained version 2 \(somebody asked for it\)`,
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// renewalInfo is a row about what the CA says of the time of renewal; a certificate that is a day old is looked at.
func renewalInfo(name string, says string, fault func(t *testing.T, s *site)) behaviour {
	return behaviour{name: name, ready: true, args: "renew", says: says, fault: func(t *testing.T, s *site) {
		s.grow(t, 24*time.Hour)
		s.letAskAgain(t)
		fault(t, s)
	}}
}

func (s *site) store() certstore.Store {
	return certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
}

// current is the version in use.
func (s *site) current(t *testing.T) certstore.Version {
	t.Helper()
	record, _, err := certstore.LoadRecord(t.Context(), s.store(), "maas")
	require.NoError(t, err)
	version, err := certstore.LoadVersion(t.Context(), s.store(), "maas", record.Current)
	require.NoError(t, err)
	return version
}

// grow makes the version in use look as if it had been obtained earlier.
func (s *site) grow(t *testing.T, age time.Duration) {
	t.Helper()
	path := filepath.Join(s.dir, "state", "store", "versions", "maas", strconv.Itoa(s.current(t).Number))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	created := regexp.MustCompile(`"created": "[^"]*"`)
	require.Regexp(t, created, string(text))
	text = created.ReplaceAll(text, []byte(fmt.Sprintf(`"created": %q`, time.Now().Add(-age).UTC().Format(time.RFC3339))))
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// letAskAgain makes the CA's last renewal information look as old as the CA allows.
func (s *site) letAskAgain(t *testing.T) {
	t.Helper()
	path := filepath.Join(s.dir, "state", "store", "state", "maas")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	again := regexp.MustCompile(`"ask_again": "[^"]*"`)
	require.Regexp(t, again, string(text))
	text = again.ReplaceAll(text, []byte(fmt.Sprintf(`"ask_again": %q`, time.Now().UTC().Format(time.RFC3339))))
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// window has the CA name a window.
func window(start, end time.Duration) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		now := time.Now()
		require.NoError(t, s.ca.SetRenewalInfo(s.current(t).Bundle.Leaf(), acmetest.RenewalWindow(now.Add(start), now.Add(end))))
	}
}

// nearlyOver is a window whose moment is past, but for one certificate in thirty thousand, and whose end is not.
func nearlyOver(t *testing.T, s *site) { window(-30000*time.Hour, time.Hour)(t, s) }

// ariAnswers has the CA answer something at the path of renewal information.
func ariAnswers(status int, kind, body string) func(*testing.T, *site) {
	return instead(acmetest.RenewalInfo, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
		return true
	})
}

// forges has the CA issue with another authority, which the configuration trusts: for the key of the request, with what
// change makes of the certificate.
func forges(change func(template *x509.Certificate)) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		authority, err := certtest.NewAuthority()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), authority.RootPEM(), 0o644))
		var mu sync.Mutex
		var chain []byte
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, acmetest.Finalize) {
				body := new(bytes.Buffer)
				if _, err := body.ReadFrom(r.Body); err != nil {
					return
				}
				copied := r.Clone(r.Context())
				copied.Body = readCloser{bytes.NewReader(body.Bytes())}
				der, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(payload(copied)["csr"]))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				chain, err = authority.Sign(der, change)
				mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				r.Body = readCloser{bytes.NewReader(body.Bytes())}
			}
			if strings.Contains(r.URL.Path, acmetest.Certificate) {
				mu.Lock()
				defer mu.Unlock()
				w.Header().Set("Content-Type", "application/pem-certificate-chain")
				// A client that hung up does not read the answer.
				_, _ = w.Write(chain)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

const macKey = "Nct7Wj63aDEyky48OYJjeKh1yIo-ewxn2R5dICdjyS5nDenHBrjpi8YYe6YyeMgK"

func withEAB(key string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "eab"), []byte(key), 0o600))
		s.edit(t, "  accept_terms: true\n", "  accept_terms: true\n  eab: {key_id: kid-1, hmac: \"file:eab\"}\n")
	}
}

var bound = acmetest.Options{RequireEAB: true, MACKeys: map[string]string{"kid-1": macKey}}

// otherNames has the certificate name somebody else.
func otherNames(template *x509.Certificate) { template.DNSNames = []string{"somebody.else.example"} }

var checklist = []behaviour{
	{name: "nonce 90 % rejection", habits: acmetest.Options{NonceReject: 90}},
	retryAfterRow("Retry-After in seconds", inSeconds),
	retryAfterRow("Retry-After as a date", asDate),
	{name: "order identifiers shuffled", fault: rewrites(func(path string, doc map[string]any, _ http.Header) {
		if identifiers, ok := doc["identifiers"].([]any); ok && isOrder(path) {
			slices.Reverse(identifiers)
		}
	})},
	{name: "a valid authorization is skipped", habits: acmetest.Options{AuthzReuse: 100}, ready: true, check: func(t *testing.T, s *site) {
		require.Equal(t, 2, s.ca.Count(acmetest.Challenge), "the second order needed no proof")
	}},
	{name: "more authorizations than identifiers", fault: rewrites(func(path string, doc map[string]any, _ http.Header) {
		if urls, ok := doc["authorizations"].([]any); ok && isOrder(path) {
			doc["authorizations"] = append(urls, urls[0])
		}
	})},
	{name: "an order is ready late", fault: instead(acmetest.Finalize, first(1, func(w http.ResponseWriter, _ *http.Request) bool {
		return problem(w, http.StatusForbidden, "orderNotReady", "the order is not ready")
	}))},
	{name: "finalize is processing, then valid", fault: func(t *testing.T, s *site) {
		var processing atomic.Int32
		rewrites(func(path string, doc map[string]any, _ http.Header) {
			if doc["status"] == "valid" && isOrder(path) && processing.Add(1) <= 3 {
				doc["status"] = "processing"
				delete(doc, "certificate")
			}
		})(t, s)
	}},
	{name: "an invalid order stops at once", exit: exitAttention, says: `validation: (maas|region1).example.internal: `,
		fault: func(_ *testing.T, s *site) { s.ca.DNS.Fail("maas.example.internal", dns.RcodeNameError) },
		check: func(t *testing.T, s *site) {
			require.LessOrEqual(t, s.ca.Count(acmetest.Order), 15)
			require.Zero(t, s.ca.Count(acmetest.Finalize))
		}},
	{name: "certificate 404, then 200", fault: instead(acmetest.Certificate, first(2, func(w http.ResponseWriter, _ *http.Request) bool {
		return problem(w, http.StatusNotFound, "malformed", "certificate not found")
	}))},
	{name: "503 with Retry-After", fault: limited(http.StatusServiceUnavailable, "serverInternal"), exit: exitNotNow, says: "the CA wants to be asked again at", check: isLeftAlone},
	{name: "429 with Retry-After", fault: limited(http.StatusTooManyRequests, "rateLimited"), exit: exitNotNow, says: "the CA wants to be asked again at", check: isLeftAlone},
	{name: "an HTML error page", exit: exitAttention, says: `newOrder: 502 Bad Gateway \(text/html, not an ACME answer\)`,
		fault: instead(acmetest.NewOrder, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>the proxy is unhappy</html>")
			return true
		})},
	{name: "a directory without renewalInfo and profiles, with unknown keys", fault: rewrites(func(path string, doc map[string]any, _ http.Header) {
		if meta, ok := doc["meta"].(map[string]any); ok && path == "/dir" {
			delete(doc, "renewalInfo")
			delete(meta, "profiles")
			doc["adhd1RJi6tc"], meta["novelty"] = "https://community.example/random-entry", []any{1, nil}
		}
	})},
	{name: "the terms of service changed", exit: exitAttention, says: "agree first; the terms of service: https://ca.example/terms",
		fault: instead(acmetest.NewOrder, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Link", `<https://ca.example/terms>;rel="terms-of-service"`)
			return problem(w, http.StatusForbidden, "userActionRequired", "agree first")
		})},
	{name: "the account is deactivated", ready: true, exit: exitAttention, says: "maascert account rollover",
		fault: func(t *testing.T, s *site) {
			require.NoError(t, os.CopyFS(filepath.Join(s.dir, "other"), os.DirFS(filepath.Join(s.dir, "state"))))
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "other", "store"), 0o700))
			s.edit(t, "state_dir: state", "state_dir: other")
			code, stdout, stderr := inSite(t, s, world.OS{}, "account", "deactivate")
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, "deactivated")
			s.edit(t, "state_dir: other", "state_dir: state")
		},
		check: func(t *testing.T, s *site) {
			code, _, stderr := inSite(t, s, world.OS{}, "account", "rollover")
			require.Zero(t, code, stderr)
			code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
			require.Zero(t, code, stderr)
		}},
	{name: "accountDoesNotExist after a reset of the CA", ready: true, fault: func(t *testing.T, s *site) {
		account, revision, err := certstore.LoadAccount(t.Context(), s.store())
		require.NoError(t, err)
		registration := account.Registrations[s.ca.Directory]
		registration.URL += "0"
		account.Registrations[s.ca.Directory] = registration
		key, err := certstore.EC256.Generate() // Pebble would find the account by its key
		require.NoError(t, err)
		text, err := certstore.MarshalKey(key)
		require.NoError(t, err)
		account.Key = string(text)
		_, err = certstore.SaveAccount(t.Context(), s.store(), account, revision)
		require.NoError(t, err)
	}},
	{name: "EAB needed and there", habits: bound, fault: withEAB(macKey)},
	{name: "EAB needed and missing", habits: bound, exit: exitAttention, says: "set acme.eab to what the CA's operator gave you"},
	{name: "EAB needed and wrong", habits: bound, exit: exitAttention, says: "hint: acme.eab: is key_id what the CA's operator gave you", fault: withEAB(strings.Repeat("A", 64))},
	refusesReplaces(http.StatusConflict, "alreadyReplaced"),
	refusesReplaces(http.StatusForbidden, "unauthorized"),
	refusesReplaces(http.StatusNotFound, "malformed"),
	refusesReplaces(http.StatusInternalServerError, "serverInternal"),
	renewalInfo("ARI 404", "nothing to do", ariAnswers(404, "application/problem+json", `{"type":"urn:ietf:params:acme:error:malformed"}`)),
	renewalInfo("ARI 500", "nothing to do", ariAnswers(500, "text/plain", "oops")),
	renewalInfo("ARI garbage", "nothing to do", ariAnswers(200, "application/json", `{}`)),
	renewalInfo("ARI end before start", "nothing to do", window(2*time.Hour, -2*time.Hour)),
	renewalInfo("ARI window in the past", `obtained version 2 \(the CA.s renewal window has come\)`, window(-3*time.Hour, -2*time.Hour)),
	renewalInfo("ARI window now", `obtained version 2 \(the CA.s renewal window has come\)`, nearlyOver),
	renewalInfo("ARI window in the far future", "nothing to do", window(9000*24*time.Hour, 9001*24*time.Hour)),
	renewalInfo("ARI window that moved", `obtained version 2 \(the CA.s renewal window has come\)`, func(t *testing.T, s *site) {
		window(48*time.Hour, 49*time.Hour)(t, s)
		code, stdout, _ := inSite(t, s, world.OS{}, "renew")
		require.Zero(t, code)
		require.Contains(t, stdout, "nothing to do")
		s.letAskAgain(t)
		nearlyOver(t, s)
	}),
	{name: "a certificate for another key", exit: exitAttention, says: "the private key does not belong to the certificate",
		fault: func(t *testing.T, s *site) {
			authority, err := certtest.NewAuthority()
			require.NoError(t, err)
			bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal", "region1.example.internal")
			require.NoError(t, err)
			instead(acmetest.Certificate, func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", "application/pem-certificate-chain")
				_, err := w.Write(bundle.FullChainPEM())
				return err == nil
			})(t, s)
		}},
	{name: "a certificate with other names", exit: exitAttention, says: "its names are somebody.else.example instead of", fault: forges(otherNames)},
	{name: "a chain that is too short", habits: acmetest.Options{ChainLength: 2}, exit: exitAttention, says: "the CA's certificate is refused",
		fault: func(_ *testing.T, s *site) {
			s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				recorder := httptest.NewRecorder()
				next.ServeHTTP(recorder, r)
				body := recorder.Body.String()
				if strings.Contains(r.URL.Path, acmetest.Certificate) {
					leaf, _, _ := strings.Cut(body, "-----END CERTIFICATE-----\n")
					body = leaf + "-----END CERTIFICATE-----\n"
				}
				maps.Copy(w.Header(), recorder.Header())
				w.Header().Del("Content-Length")
				w.WriteHeader(recorder.Code)
				fmt.Fprint(w, body)
			})
		}},
	{name: "an alternate chain", habits: acmetest.Options{AlternateRoots: 2}, fault: func(t *testing.T, s *site) {
		root := s.ca.Root(2)
		certs, err := certstore.ParseCertificates(root)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), root, 0o644))
		s.edit(t, "  accept_terms: true\n", fmt.Sprintf("  accept_terms: true\n  preferred_chain: %q\n", certs[0].Subject.CommonName))
	}},
	{name: "clock skew of some minutes", fault: forges(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(4 * time.Minute) })},
	{name: "clock skew of hours", exit: exitAttention, says: "hint: check this host's clock",
		fault: forges(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(4 * time.Hour) })},
	{name: "a certificate that the CA revoked", ready: true, args: "renew", says: `obtained version 2 \(the CA.s renewal window has come\)`, fault: func(t *testing.T, s *site) {
		s.grow(t, 24*time.Hour)
		s.letAskAgain(t)
		config, err := config.Load(filepath.Join(s.dir, "maascert.yaml"), maasconfig.KnownTypes())
		require.NoError(t, err)
		a := testApp(world.OS{})
		a.log = slog.New(slog.DiscardHandler)
		p := a.assemble(config)
		defer p.close()
		require.NoError(t, p.revoke(t.Context(), s.current(t), acme.Reasons["keyCompromise"]))
	}},
	{name: "a crash at each state, and the order taken up", whole: killedAnywhere},
	{name: "two at once make one order", whole: twoAtOnce},
	{name: "a disk full on save", whole: aDiskThatFillsUp},
	{name: "a deployment fails, then succeeds without a second order", exit: exitAttention,
		config: []string{"verify_timeout: 20s", "verify_timeout: 1s"},
		fault:  func(_ *testing.T, s *site) { s.maas.Regions[1].Break(maastest.Fault{Deaf: true}) },
		check: func(t *testing.T, s *site) {
			s.maas.Regions[1].Break(maastest.Fault{})
			require.NoError(t, s.maas.Regions[1].Restart())
			code, _, stderr := inSite(t, s, world.OS{}, "renew")
			require.Zero(t, code, stderr)
			checkConverged(t, s, 1)
		}},
	{name: "SIGTERM in the middle cleans up", whole: interrupted},
}

// twoAtOnce starts two programs that find the same work.
func twoAtOnce(t *testing.T) {
	s := startSite(t)
	var group sync.WaitGroup
	codes := make([]int, 2)
	for i := range codes {
		group.Go(func() {
			cmd := program(context.Background(), t, s, "renew", "--enable-tls", "--wait", "20s")
			// The exit code says it all.
			_ = cmd.Run()
			codes[i] = exitCode(cmd)
		})
	}
	group.Wait()
	require.Equal(t, []int{0, 0}, codes)
	require.Equal(t, 1, s.ca.Orders())
	checkConverged(t, s, 1)
}

func exitCode(cmd *exec.Cmd) int { return cmd.ProcessState.ExitCode() }
