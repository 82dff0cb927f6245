package maasapi_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/maasconfig/maasapi"
	"maascert/maasconfig/maastest"
)

func TestMain(m *testing.M) {
	maastest.Main()
	os.Exit(m.Run())
}

// site is a deployment and whoever asks its API.
type site struct {
	*maastest.Deployment
	authority *certtest.Authority
	config    maasapi.Config
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Deployment: maastest.New(t, maastest.Options{Regions: 2})}
	var err error
	s.authority, err = certtest.NewAuthority()
	require.NoError(t, err)
	s.config = maasapi.Config{
		URL: "http://" + s.Regions[0].Address.String() + ":5240/MAAS", Dial: new(net.Dialer).DialContext, Trust: certstore.Trust{Roots: s.authority.Pool()},
		Time: 2 * time.Second, Pause: time.Millisecond,
	}
	s.setKey(t, s.APIKey("admin", true))
	return s
}

func (s *site) setKey(t *testing.T, text string) {
	t.Helper()
	key, err := maasapi.ParseKey(text)
	require.NoError(t, err)
	s.config.Key = func() (maasapi.Key, error) { return key, nil }
}

func (s *site) client(t *testing.T) *maasapi.Client {
	t.Helper()
	client, err := maasapi.New(s.config)
	require.NoError(t, err)
	return client
}

func TestRegions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t)
	for _, round := range []string{"TLS is off", "TLS was switched on"} {
		regions, err := client.Regions(t.Context())
		require.NoError(t, err, round)
		require.Len(t, regions, 2)
		require.Equal(t, "region1.maas", regions[0].Name)
		require.Equal(t, []netip.Addr{s.Regions[0].Address}, regions[0].Addresses)
		require.Equal(t, "127.0.0.0/8", regions[0].Subnets[0].String())
		version, err := client.Version(t.Context())
		require.NoError(t, err)
		require.Equal(t, "3.7.3", version)
		user, err := client.User(t.Context())
		require.NoError(t, err)
		require.Equal(t, maasapi.User{Name: "admin", IsAdmin: true}, user)
		bundle, err := s.authority.Issue(certstore.EC256, 0, time.Hour, s.Regions[0].Address.String())
		require.NoError(t, err)
		require.NoError(t, s.Enable(t.Context(), bundle, 5443))
	}
	// TLS is switched off, which this host has to know: whoever took the port could say so.
	s.Set(nil)
	require.Eventually(t, func() bool { return s.isPlain(t) }, 10*time.Second, 5*time.Millisecond)
	asked := len(s.Requests())
	_, err := client.Regions(t.Context())
	require.ErrorContains(t, err, "it answers without TLS, which it served before")
	require.Len(t, s.Requests(), asked+1, "the key is not sent without TLS after it was sent with TLS")
	s.config.TLSPort = func(context.Context) (int, bool) { return 0, true }
	client = s.client(t)
	_, err = client.Regions(t.Context())
	require.NoError(t, err)

	controllers := s.Controllers()
	controllers[0].Addresses = nil
	s.SetControllers(controllers...)
	regions, err := client.Regions(t.Context())
	require.NoError(t, err)
	require.Empty(t, regions[0].Addresses, "it has not commissioned itself")

	s.SetControllers()
	_, err = client.Regions(t.Context())
	require.ErrorContains(t, err, "lists no region controller")
	s.SetControllers(controllers...)
	s.setKey(t, s.APIKey("somebody", false))
	_, err = s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "lists no region controller")
	require.Contains(t, hint.Of(err), "administrator's")
}

// The key goes only to whom clients trust, or to whom is known to be MAAS.
func TestTheKeyGoesToNobodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	host := s.Regions[0].Address.String()
	for _, row := range []struct {
		name, names string
		authority   *certtest.Authority
		age         time.Duration
		known       maasapi.Knowledge
		ok          bool
	}{
		{"trusted under the URL's name", host, s.authority, 0, maasapi.Unknown, true},
		{"trusted under the URL's name, and revoked", host, s.authority, 0, maasapi.Revoked, false},
		{"trusted under another name, and not known", "maas.example", s.authority, 0, maasapi.Unknown, false},
		{"trusted under another name, and ours", "maas.example", s.authority, 0, maasapi.Ours, true},
		{"expired, and ours", host, s.authority, 2 * time.Hour, maasapi.Ours, true},
		{"expired, and not known", host, s.authority, 2 * time.Hour, maasapi.Unknown, false},
		{"a stranger's", host, stranger, 0, maasapi.Unknown, false},
		{"a stranger's that MAAS serves", host, stranger, 0, maasapi.Ours, true},
	} {
		bundle, err := row.authority.Issue(certstore.EC256, row.age, time.Hour, row.names)
		require.NoError(t, err)
		require.NoError(t, s.Enable(t.Context(), bundle, 5443))
		s.config.Known = func(_ context.Context, fingerprint string) maasapi.Knowledge {
			require.Equal(t, bundle.Fingerprint(), fingerprint)
			return row.known
		}
		asked := len(s.Requests())
		_, err = s.client(t).Regions(t.Context())
		if row.ok {
			require.NoError(t, err, row.name)
			continue
		}
		require.ErrorContains(t, err, "nothing is sent to whoever serves this certificate", row.name)
		require.Len(t, s.Requests(), asked, row.name)
	}
}

// isPlain tells whether a region answers without TLS, and does not lead to it.
func (s *site) isPlain(t *testing.T) bool {
	t.Helper()
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := plain.Get(s.config.URL + "/api/2.0/version/")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK && s.Regions[0].Serves(5443) == nil
}

// What this host knows of MAAS's TLS decides where the key goes, whatever is said on the plain port.
func TestTheKeyIsNotSentWithoutTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.config.TLSPort = func(context.Context) (int, bool) { return 5443, true }
	_, err := s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "it cannot be reached")
	require.Empty(t, s.Requests())
	s.config.TLSPort = func(context.Context) (int, bool) { return 0, false }
	s.config.MayBePlain = func(host, port string) error {
		require.Equal(t, s.Regions[0].Address.String()+" 5240", host+" "+port)
		return errors.New("somebody else listens there")
	}
	_, err = s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "somebody else listens there")
	require.Equal(t, []string{"GET /MAAS/api/2.0/version/"}, s.Requests())
}

func TestBadAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was asked, with %q", r.Host, r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	s := newSite(t)
	secret := strings.Split(s.APIKey("admin", true), ":")[2]
	answer := func(status int, kind, body string, header ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			if len(header) > 0 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	const html = "<html><body>welcome</body></html>"
	for _, row := range []struct {
		name   string
		do     func(http.ResponseWriter, *http.Request)
		words  string
		asked  int
		onlyOf string // a part of the path; other requests are answered as ever
	}{
		{"a page from the start", answer(200, "text/html", html), "answers with a page", 1, ""},
		{"a page later", answer(200, "text/html; charset=utf-8", html), "answers with a page", 1, "regioncontrollers"},
		{"503", answer(503, "text/plain", "busy", "Retry-After", "0"), "it answers 503 Service Unavailable", 4, "version"},
		{"503 later", answer(503, "text/plain", "busy"), "it answers 503: busy", 4, "regioncontrollers"},
		{"502", answer(502, "text/html", html), "it answers 502 Bad Gateway", 4, "regioncontrollers"},
		{"an exception", answer(500, "text/plain; charset=utf-8", "boom\x1b[31m"), "it answers 500: boom [31m", 1, "regioncontrollers"},
		{"nothing", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 2s", 1, "regioncontrollers"},
		{"nothing from the start", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 2s", 1, "version"},
		{"half an answer, and then nothing", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "[")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "no answer within 2s", 1, "regioncontrollers"},
		{"a redirect elsewhere from the start", answer(301, "text/html", html, "Location", elsewhere.URL+"/MAAS/api/2.0/version/"), "it redirects elsewhere", 1, "version"},
		{"a redirect elsewhere later", answer(302, "text/html", html, "Location", elsewhere.URL), "it redirects to another place", 2, "regioncontrollers"},
		{"a redirect to another host's TLS", answer(301, "text/html", html, "Location", "https://other.example:5443/MAAS/api/2.0/version/"), "it redirects elsewhere", 1, "version"},
		{"a megabyte from the start", answer(200, "application/json", strings.Repeat(" ", 1<<20)), "more than it has to say", 1, "version"},
		{"a megabyte later", answer(200, "application/json", strings.Repeat("x", 1<<20)), "something else than MAAS's API would", 1, "regioncontrollers"},
		{"five megabytes later", answer(200, "application/json", "["+strings.Repeat(" ", 5<<20)), "more than it has to say", 1, "regioncontrollers"},
		{"a thousand regions", answer(200, "application/json", "["+strings.Repeat(`{"system_id":"a","fqdn":"b"},`, 999)+`{"system_id":"a","fqdn":"b"}]`), "lists 1000 region controllers", 1, "regioncontrollers"},
		{"other JSON", answer(200, "application/json", `{"a":1}`), "something else than MAAS's API would", 1, "regioncontrollers"},
		{"half of it", answer(200, "application/json", `[{"system_id":"a"`), "something else than MAAS's API would", 1, "regioncontrollers"},
		{"what a proxy was sent", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusProxyAuthRequired)
			fmt.Fprint(w, r.Header)
		}, "it answers 407 Proxy Authentication Required", 1, "regioncontrollers"},
		{"an address with a zone", answer(200, "application/json", `[{"system_id":"a","fqdn":"b","ip_addresses":["fd00::1%`+strings.Repeat("z", 5000)+`"]}]`), "region b has an address that is none: fd00::1%zz", 1, "regioncontrollers"},
		{"an address that is none", answer(200, "application/json", `[{"system_id":"a","fqdn":"b","ip_addresses":["10.0.0.1","x y"]}]`), "region b has an address that is none: x y", 1, "regioncontrollers"},
	} {
		var asked atomic.Int32
		s.InterceptAPI(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
			if strings.Contains(r.URL.Path, row.onlyOf) {
				asked.Add(1)
				row.do(w, r)
				return
			}
			next(w, r)
		})
		_, err := s.client(t).Regions(t.Context())
		require.ErrorContains(t, err, row.words, row.name)
		require.NotContains(t, err.Error(), secret, row.name)
		require.EqualValues(t, row.asked, asked.Load(), row.name)
	}
	s.InterceptAPI(nil)

	s.setKey(t, strings.Replace(s.APIKey("admin", true), ":secret", ":wrong", 1))
	_, err := s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "MAAS refuses the API key (401)")
	require.NotContains(t, err.Error(), "secret", "the answer holds the right one")
	require.Contains(t, hint.Of(err), "maas apikey")
	s.setKey(t, s.APIKey("admin", true))
	s.SetClock(10 * time.Minute)
	s.InterceptAPI(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		w.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		next(w, r)
	})
	_, err = s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "MAAS refuses the API key (401)")
	require.Regexp(t, "MAAS's clock is (10m0s|9m5[0-9]s) ahead of this host's", hint.Of(err))
	s.SetClock(-time.Hour)
	_, err = s.client(t).Regions(t.Context())
	require.NoError(t, err, "a clock that is ahead does not matter")

	// It recovers while it is asked.
	var asked atomic.Int32
	s.InterceptAPI(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		if asked.Add(1) < 4 {
			answer(502, "text/html", html)(w, r)
			return
		}
		next(w, r)
	})
	_, err = s.client(t).Regions(t.Context())
	require.NoError(t, err)
	s.Regions[0].StopProxy()
	_, err = s.client(t).Regions(t.Context())
	require.ErrorContains(t, err, "it cannot be reached")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for text, words := range map[string]string{"": "no API key", "a": "no API key", "a:b": "no API key", "a:b:c:d": "no API key", "a::c": "half an API key", ":b:c": "half an API key", "a:b:": "half an API key", "a:b:c\"": "no API key"} {
		_, err := maasapi.ParseKey(text)
		require.ErrorContains(t, err, words, text)
	}
	key, err := maasapi.ParseKey("consumer:token:hunter2")
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", key, key, key, key), "hunter2")
	for address, plain := range map[string]bool{maasapi.UsualURL: false, "http://[::1]:5240/MAAS": false, "https://maas.example/MAAS": false, "http://localhost/MAAS": false, "http://maas.example/MAAS": true, "http://10.0.0.1/MAAS": true} {
		require.Equal(t, plain, maasapi.IsPlain(address), address)
	}
}

func TestExpiryNotice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t)
	const enabled, interval = "tls_cert_expiration_notification_enabled", "tls_cert_expiration_notification_interval"
	align := func(days int, changes bool) {
		t.Helper()
		changed, err := client.AlignExpiryNotice(t.Context(), days)
		require.NoError(t, err)
		require.Equal(t, changes, changed)
		require.Equal(t, days > 0, s.Setting(enabled))
	}
	align(0, false)
	align(15, true)
	require.Equal(t, 15, s.Setting(interval))
	align(15, false)
	align(1, true)
	align(0, true)
	align(0, false)
	require.Equal(t, 1, s.Setting(interval), "it is never empty")
	for _, days := range []int{-1, 91} {
		_, err := client.AlignExpiryNotice(t.Context(), days)
		require.Error(t, err)
	}
	s.setKey(t, s.APIKey("somebody", false))
	_, err := s.client(t).AlignExpiryNotice(t.Context(), 15)
	require.ErrorContains(t, err, "the API key is no administrator's (403)")
}

func TestNotices(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t)
	notice := maasapi.Notice{Ident: "maascert-maas-failed", Category: "error", Message: "<b>{x}</b> & 100%"}
	const shown = "maascert-maas-failed: &lt;b&gt;{{x}}&lt;/b&gt; &amp; 100%"
	id, err := client.Post(t.Context(), notice, 0)
	require.NoError(t, err)
	require.Equal(t, []string{shown}, s.Notifications())
	asked := len(s.Requests())
	again, err := client.Post(t.Context(), notice, id)
	require.NoError(t, err)
	require.Equal(t, id, again)
	for _, request := range s.Requests()[asked:] {
		require.True(t, strings.HasPrefix(request, "GET "), request)
	}
	notice.Message = "other words"
	again, err = client.Post(t.Context(), notice, id)
	require.NoError(t, err)
	require.NotEqual(t, id, again, "who dismissed the first sees the second")
	require.Equal(t, []string{"maascert-maas-failed: other words"}, s.Notifications())
	id = again

	// Somebody dismisses it; when it matters again it is there again.
	s.dismiss(t, id)
	require.Empty(t, s.Notifications())
	again, err = client.Post(t.Context(), notice, id)
	require.NoError(t, err)
	require.NotEqual(t, id, again)
	require.Equal(t, []string{"maascert-maas-failed: other words"}, s.Notifications())

	// It was dismissed, and nobody remembers its number.
	s.dismiss(t, again)
	spare, err := client.Post(t.Context(), notice, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"maascert-maas-failed~2: other words"}, s.Notifications())
	notice.Message = "third words"
	_, err = client.Post(t.Context(), notice, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"maascert-maas-failed~2: third words"}, s.Notifications())

	other, err := client.Post(t.Context(), maasapi.Notice{Ident: "maascert-maas-failed-not", Category: "info", Message: "another"}, 0)
	require.NoError(t, err)
	require.NoError(t, client.Withdraw(t.Context(), notice.Ident, spare))
	require.Equal(t, []string{"maascert-maas-failed-not: another"}, s.Notifications())
	require.NoError(t, client.Withdraw(t.Context(), notice.Ident, other), "a number that is another notice's")
	require.NoError(t, client.Withdraw(t.Context(), notice.Ident, 999))
	require.Equal(t, []string{"maascert-maas-failed-not: another"}, s.Notifications())

	_, err = client.Post(t.Context(), maasapi.Notice{Ident: strings.Repeat("i", 37), Category: "info", Message: "m"}, 0)
	require.Error(t, err)
	_, err = client.Post(t.Context(), maasapi.Notice{Ident: "i", Category: "critical", Message: "m"}, 0)
	require.ErrorContains(t, err, "it answers 400: category: Select a valid choice")
	long, err := client.Post(t.Context(), maasapi.Notice{Ident: "long", Category: "info", Message: strings.Repeat("ü\n{", 10000)}, 0)
	require.NoError(t, err)
	require.NotZero(t, long)
}

// dismiss is what an administrator does on MAAS's page.
func (s *site) dismiss(t *testing.T, id int) {
	t.Helper()
	key := strings.Split(s.APIKey("admin", true), ":")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.config.URL+fmt.Sprintf("/api/2.0/notifications/%d/?op=dismiss", id), nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", fmt.Sprintf(`OAuth oauth_nonce="%d", oauth_timestamp="%d", oauth_signature_method="PLAINTEXT", oauth_consumer_key="%s", oauth_token="%s", oauth_signature="%s"`,
		time.Now().UnixNano(), time.Now().Unix(), key[0], key[1], url.QueryEscape("&"+key[2])))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

func TestTXT(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t)
	s.AddDomain("example.internal", true)
	s.AddDomain("deep.example.internal", true)
	s.AddDomain("elsewhere.internal", false)
	const name = "_acme-challenge.region1.Example.internal."
	for range 2 {
		require.NoError(t, client.PutTXT(t.Context(), name, "one"))
	}
	require.NoError(t, client.PutTXT(t.Context(), name, "two"))
	require.NoError(t, client.PutTXT(t.Context(), "_acme-challenge.a.deep.example.internal.", "three"))
	require.Equal(t, []string{
		"_acme-challenge.region1.example.internal TXT one", "_acme-challenge.region1.example.internal TXT two", "_acme-challenge.a.deep.example.internal TXT three",
	}, s.Records())
	require.NoError(t, client.RemoveTXT(t.Context(), name, "one"))
	require.NoError(t, client.RemoveTXT(t.Context(), name, "one"))
	require.NoError(t, client.RemoveTXT(t.Context(), "_acme-challenge.gone.example.", "one"))
	require.Len(t, s.Records(), 2)

	_, err := client.CheckZone(t.Context(), "_acme-challenge.a.example.com.")
	require.ErrorContains(t, err, "MAAS has no domain for _acme-challenge.a.example.com; it has: maas, example.internal")
	err = client.PutTXT(t.Context(), "_acme-challenge.a.elsewhere.internal.", "x")
	require.ErrorContains(t, err, "MAAS is not authoritative for the domain elsewhere.internal")
	require.Contains(t, hint.Of(err), "authoritative=true")
	domain, err := client.CheckZone(t.Context(), "_acme-challenge.deep.example.internal.")
	require.NoError(t, err)
	require.Equal(t, "deep.example.internal", domain)

	// 191 characters are taken, 192 are not, and MAAS is not asked.
	long := "_acme-challenge." + strings.Repeat("a23456789.", 17) + "12345" // 191
	require.Len(t, long, 191)
	require.NoError(t, client.PutTXT(t.Context(), long+".maas.", "x"))
	require.NoError(t, client.RemoveTXT(t.Context(), long+".maas.", "x"))
	err = client.PutTXT(t.Context(), long+"6.maas.", "x")
	require.ErrorContains(t, err, "has 192 characters in the domain maas; MAAS takes 191")

	s.setKey(t, s.APIKey("somebody", false))
	require.ErrorContains(t, s.client(t).PutTXT(t.Context(), name, "x"), "no administrator's")
}

// Taking a record away is tried again while MAAS is busy, and what a proxy repeats of the request is not shown.
func TestARemovalThatFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, s.client(t).PutTXT(t.Context(), "_acme-challenge.maas.", "ours"))
	fail := func(status int, times int32) {
		var failed atomic.Int32
		s.InterceptAPI(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
			if r.Method == http.MethodDelete && failed.Add(1) <= times {
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(status)
				fmt.Fprint(w, "you sent ", r.Header)
				return
			}
			next(w, r)
		})
	}
	fail(400, 1)
	err := s.client(t).RemoveTXT(t.Context(), "_acme-challenge.maas.", "ours")
	require.ErrorContains(t, err, "it answers 400 Bad Request")
	require.NotContains(t, err.Error(), "oauth")
	fail(502, 3)
	require.NoError(t, s.client(t).RemoveTXT(t.Context(), "_acme-challenge.maas.", "ours"))
	require.Empty(t, s.Records())
}

// What is said on the plain port is not believed before MAAS was met behind it, and a port that moved is found again.
func TestARedirectThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t)
	s.InterceptAPI(func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Location", "https://"+s.Regions[0].Address.String()+":1/MAAS/api/2.0/version/")
		w.WriteHeader(http.StatusMovedPermanently)
	})
	_, err := client.Regions(t.Context())
	require.ErrorContains(t, err, "it cannot be reached")
	s.InterceptAPI(nil)
	_, err = client.Regions(t.Context())
	require.NoError(t, err)
	for _, port := range []int{5443, 6443} {
		bundle, err := s.authority.Issue(certstore.EC256, 0, time.Hour, s.Regions[0].Address.String())
		require.NoError(t, err)
		require.NoError(t, s.Enable(t.Context(), bundle, port))
		_, err = client.Regions(t.Context())
		require.NoError(t, err, port)
	}
}

// Records of a name that somebody gave a TTL are joined by one with a TTL: MAAS fails otherwise.
func TestTXTBesideOthersWithATTL(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.AddRecord("_acme-challenge", "maas", "TXT", "somebody's", 60)
	require.NoError(t, s.client(t).PutTXT(t.Context(), "_acme-challenge.maas.", "ours"))
	require.Len(t, s.Records(), 2)
	require.NoError(t, s.client(t).RemoveTXT(t.Context(), "_acme-challenge.maas.", "ours"))
	require.Equal(t, []string{"_acme-challenge.maas TXT somebody's"}, s.Records())
}

// A request whose answer was lost is made again; the record is there once.
func TestAnAnswerThatIsLostMakesNoSecondRecord(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var lost atomic.Bool
	s.InterceptAPI(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		if r.Method == http.MethodPost && !lost.Swap(true) {
			next(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		next(w, r)
	})
	require.NoError(t, s.client(t).PutTXT(t.Context(), "_acme-challenge.maas.", "ours"))
	require.True(t, lost.Load())
	require.Equal(t, []string{"_acme-challenge.maas TXT ours"}, s.Records())
}
