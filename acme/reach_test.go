package acme_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/internal/world"
)

// reaches has port 80 of every name be the CA's port for http-01.
func reaches(ca *acmetest.CA) func(*acme.Config) {
	return func(c *acme.Config) {
		c.Resolvers = []string{ca.DNS.Address}
		c.Reach = func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, port, err := net.SplitHostPort(address); err == nil && port == "80" {
				address = net.JoinHostPort(host, strconv.Itoa(ca.HTTPPort))
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
}

func TestCheckAnswersSeesWhatTheCAWouldSee(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	unseen, err := client(t, ca, reaches(ca)).CheckAnswers(t.Context(), []string{"a.example", "127.0.0.1"})
	require.NoError(t, err)
	require.Empty(t, unseen)
	require.Empty(t, ca.Requests(), "the CA is not asked")
}

// M10: it is said who was asked for a name: a CA on the same host may know it from /etc/hosts, which was not. A resolver that
// does not answer has not said that there is no address.
func TestM10ANameWithoutAnAddressIsToldWithWhoWasAsked(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	ca.DNS.Fail("a.example", dns.RcodeNameError)
	ca.DNS.Fail("b.example", dns.RcodeServerFailure)
	unseen, err := client(t, ca, reaches(ca)).CheckAnswers(t.Context(), []string{"a.example", "b.example", "c.example"})
	require.NoError(t, err)
	require.Len(t, unseen, 2)
	require.Contains(t, unseen["a.example"], "DNS, which was asked, has no address of a.example; /etc/hosts was not asked")
	require.Contains(t, unseen["b.example"], "DNS does not say where b.example is: ")
	require.Contains(t, unseen["b.example"], "SERVFAIL")
}

// A check of a webroot leaves nothing there, not even the folders of an answer.
func TestCheckAnswersLeavesNothingInAWebroot(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.FileServer(http.Dir(dir))}}
	server.Start()
	t.Cleanup(server.Close)
	c := client(t, ca, reaches(ca), func(c *acme.Config) { c.Solve = always(&challenge.Webroot{Dir: dir, FS: world.OS{}}) })
	unseen, err := c.CheckAnswers(t.Context(), []string{"a.example", "b.example"})
	require.NoError(t, err)
	require.Empty(t, unseen)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// A redirect leads where CAs follow one, or nowhere.
func TestCheckAnswersFollowsRedirectsAsCAsDo(t *testing.T) {
	t.Parallel()
	for to, want := range map[string]string{
		"http://127.0.0.1:5240/MAAS/": "it redirects to port 5240, which CAs do not follow",
		"http://127.0.0.1/secret":     "it redirects to the address 127.0.0.1, which CAs do not follow",
		"http://[::1]/secret":         "it redirects to the address ::1, which CAs do not follow",
	} {
		ca := acmetest.New(t, acmetest.Options{})
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
		require.NoError(t, err)
		server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.RedirectHandler(to, http.StatusFound)}}
		server.Start()
		t.Cleanup(server.Close)
		c := client(t, ca, reaches(ca), func(c *acme.Config) { c.Solve = always(&challenge.Webroot{Dir: t.TempDir(), FS: world.OS{}}) })
		unseen, err := c.CheckAnswers(t.Context(), []string{"a.example"})
		require.NoError(t, err)
		require.Contains(t, unseen["a.example"], want)
	}
}

func TestCAA(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		records []string
		want    string
	}{
		"none":                   {nil, ""},
		"this CA":                {[]string{`0 issue "ca.example"`}, ""},
		"this CA in capitals":    {[]string{`0 issue "CA.example"`}, ""},
		"another CA":             {[]string{`0 issue "other.example"`}, "allows other CAs only"},
		"nobody":                 {[]string{`0 issue ";"`}, "allows other CAs only"},
		"this and another":       {[]string{`0 issue "other.example"`, `0 issue "ca.example"`}, ""},
		"only wildcards named":   {[]string{`0 issuewild "other.example"`}, ""},
		"only mail":              {[]string{`0 iodef "mailto:a@b.example"`}, ""},
		"critical and unknown":   {[]string{`0 issue "ca.example"`, `128 novelty "x"`}, `critical property "novelty"`},
		"unknown":                {[]string{`0 issue "ca.example"`, `0 novelty "x"`}, ""},
		"another account":        {[]string{`0 issue "ca.example; accounturi=https://ca.example/7"`}, "allows only the account https://ca.example/7"},
		"another method":         {[]string{`0 issue "ca.example; validationmethods=dns-01"`}, "allows only dns-01, not http-01"},
		"one of several methods": {[]string{`0 issue "ca.example; validationmethods=dns-01,http-01"`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			for _, record := range row.records {
				require.NoError(t, ca.DNS.Set("sub.a.example. 1 IN CAA "+record))
			}
			c := client(t, ca, func(c *acme.Config) { c.Resolvers = []string{ca.DNS.Address} })
			found, err := c.CheckCAA(t.Context(), []string{"deep.sub.a.example", "127.0.0.1"})
			require.NoError(t, err)
			require.Contains(t, found["deep.sub.a.example"], row.want)
			require.Equal(t, row.want == "", len(found) == 0, "%v", found)
		})
	}
}

// H2: a public name does not have us ask servers inside.
func TestH2CheckAnswersDoesNotFollowARedirectInside(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	require.NoError(t, ca.DNS.Set("a.example. 1 IN A 203.0.113.7", "inside.example. 1 IN A 127.0.0.1"))
	var asked atomic.Int32
	outside := httptest.NewServer(http.RedirectHandler("http://inside.example/secret", http.StatusFound))
	t.Cleanup(outside.Close)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(inside.Close)
	c := client(t, ca, reaches(ca), func(c *acme.Config) {
		c.Solve = always(&challenge.Webroot{Dir: t.TempDir(), FS: world.OS{}})
		c.Reach = func(ctx context.Context, network, address string) (net.Conn, error) {
			to := inside
			if address == "203.0.113.7:80" {
				to = outside
			}
			return new(net.Dialer).DialContext(ctx, network, to.Listener.Addr().String())
		}
	})
	unseen, err := c.CheckAnswers(t.Context(), []string{"a.example"})
	require.NoError(t, err)
	require.Contains(t, unseen["a.example"], "a private address, which is not asked")
	require.Zero(t, asked.Load())
}
