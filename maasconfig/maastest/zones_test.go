package maastest_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// heard is a name server that keeps what it is told.
type heard struct {
	mu    sync.Mutex
	zones map[string]string
	times int
}

func (h *heard) Publish(zones map[string]string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.zones, h.times = zones, h.times+1
	return nil
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(fmt.Sprint(h.zones), text)
}

// From 3.3 to 3.6 a record that is added is not published before something else has all of it published; from 3.7 on each region looks
// for itself.
func TestRecordsArePublishedAsLateAsEachVersionDoes(t *testing.T) {
	t.Parallel()
	for version, isPublished := range map[maasconfig.Version]bool{
		{Major: 3, Minor: 2, Patch: 9}: true, {Major: 3, Minor: 3}: false, {Major: 3, Minor: 4, Patch: 8}: false, {Major: 3, Minor: 6}: false, {Major: 3, Minor: 7, Patch: 3}: true,
	} {
		servers := []*heard{}
		s := &apiSite{Deployment: maastest.New(t, maastest.Options{Regions: 2, Version: version, PollZones: 5 * time.Millisecond, NameServer: func(*maastest.Region) (maastest.NameServer, error) {
			servers = append(servers, &heard{})
			return servers[len(servers)-1], nil
		}})}
		s.admin, s.client = s.APIKey("admin", true), newPlainClient()
		api := "http://" + s.Regions[0].Address.String() + ":5240/MAAS/api/2.0/"
		all := func(text string) bool { return servers[0].has(text) && servers[1].has(text) }
		s.AddDomain("example.internal", true)
		s.AddDomain("elsewhere.internal", false)
		require.Eventually(t, func() bool { return all("example.internal. IN SOA") && all("region1.maas. IN A 127.") }, 10*time.Second, time.Millisecond)
		require.False(t, servers[0].has("elsewhere.internal"), "it is not MAAS's to publish")
		post := func(value string) {
			got := s.ask(t, s.oauth(s.admin), "POST", api+"dnsresourcerecords/", url.Values{"name": {"_acme-challenge"}, "domain": {"example.internal"}, "rrtype": {"TXT"}, "rrdata": {value}}.Encode())
			require.Equal(t, 200, got.status, got.body)
		}
		post("one")
		post("two")
		const line = "_acme-challenge.example.internal. IN TXT one"
		if isPublished {
			require.Eventually(t, func() bool { return all(line) && all("TXT two") }, 10*time.Second, time.Millisecond, version)
		} else {
			// Whatever is heard is heard in turn: when the removal of the second is published, the first was passed over.
			before := servers[0].published()
			require.Equal(t, 204, s.ask(t, s.oauth(s.admin), "DELETE", api+"dnsresourcerecords/2/", "").status)
			require.Eventually(t, func() bool { return servers[0].published() > before }, 10*time.Second, time.Millisecond)
			require.False(t, servers[0].has("TXT"), version)
			require.Equal(t, 200, s.ask(t, s.oauth(s.admin), "PUT", api+"domains/1/", "ttl=30").status)
			require.Eventually(t, func() bool { return all(line) }, 10*time.Second, time.Millisecond, "a whole reload brings it")
		}
		require.Equal(t, 204, s.ask(t, s.oauth(s.admin), "DELETE", api+"dnsresourcerecords/1/", "").status)
		require.Eventually(t, func() bool { return !servers[0].has(line) && !servers[1].has(line) }, 10*time.Second, time.Millisecond)
	}
}

func (h *heard) published() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.times
}
