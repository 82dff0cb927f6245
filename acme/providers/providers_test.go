package providers_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	legochallenge "github.com/go-acme/lego/v4/challenge"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/acme/providers"
	"maascert/internal/world"
)

var txt = challenge.TXT{
	FQDN: "_acme-challenge.a.example.", Value: "61rBZ_4knHblO0MNoxFsXZ_eTFUHum0B6IVRbhvUn5I", Name: "a.example", Token: "token", KeyAuthorization: "token.thumbprint",
}

// settings are enough to build each provider without asking anybody.
var settings = map[string]providers.Settings{
	"acme-dns":     {"ACME_DNS_API_BASE": "http://127.0.0.1:9", "ACME_DNS_STORAGE_PATH": "STORAGE"},
	"bluecat":      {"BLUECAT_SERVER_URL": "http://127.0.0.1:9", "BLUECAT_USER_NAME": "u", "BLUECAT_PASSWORD": "hunter2", "BLUECAT_CONFIG_NAME": "c", "BLUECAT_DNS_VIEW": "v"},
	"cloudflare":   {"CLOUDFLARE_DNS_API_TOKEN": "hunter2"},
	"designate":    nil, // signs in at once
	"digitalocean": {"DO_AUTH_TOKEN": "hunter2"},
	"exec":         {"EXEC_PATH": "/bin/true"},
	"httpreq":      {"HTTPREQ_ENDPOINT": "http://127.0.0.1:9"},
	"maas":         {"MAAS_PROPAGATION_TIMEOUT": "9"},
	"infoblox":     {"INFOBLOX_HOST": "127.0.0.1", "INFOBLOX_USERNAME": "u", "INFOBLOX_PASSWORD": "hunter2"},
	"pdns":         {"PDNS_API_URL": "http://127.0.0.1:9", "PDNS_API_KEY": "hunter2", "PDNS_API_VERSION": "1"},
	"rfc2136":      {"RFC2136_NAMESERVER": "127.0.0.1:9"},
	"route53":      {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "us-east-1", "AWS_HOSTED_ZONE_ID": "z"},
}

// parts ask a resolver on the loopback.
func parts(t *testing.T) (providers.Parts, *acmetest.DNS) {
	t.Helper()
	return providers.Parts{Runner: world.Exec{}, Resolvers: []string{resolver.Address}}, resolver
}

// resolver is one for all tests: which one lego's providers ask is one setting of the whole process.
var resolver *acmetest.DNS

func TestMain(m *testing.M) {
	var err error
	if resolver, err = acmetest.StartDNS(0); err != nil {
		panic(err)
	}
	code := m.Run()
	resolver.Stop()
	os.Exit(code)
}

func TestEachProviderIsBuiltFromItsSettingsAndLeavesNoneBehind(t *testing.T) {
	p, _ := parts(t)
	names := slices.DeleteFunc(providers.Names(), func(name string) bool { return name == "stuck" || name == "led" }) // other tests'
	require.ElementsMatch(t, slices.Collect(maps.Keys(settings)), names)
	for name, row := range settings {
		for key, value := range row {
			require.NoError(t, providers.CheckSetting(name, key))
			if value == "STORAGE" {
				row[key] = filepath.Join(t.TempDir(), "accounts.json")
			}
		}
		if name != "route53" { // which may find a role of the machine's
			_, err := providers.Connect(t.Context(), name, nil, nil, p)
			require.Error(t, err, "%s wants settings", name)
		}
		if row == nil {
			continue
		}
		p.Zone = &maasZone{}
		records, err := providers.Connect(t.Context(), name, row, nil, p)
		p.Zone = nil
		require.NoError(t, err, name)
		require.GreaterOrEqual(t, records.Patience(), time.Duration(0))
		for key := range row {
			_, left := os.LookupEnv(key)
			require.False(t, left, "%s is left in the environment", key)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	require.ErrorContains(t, providers.CheckName("godaddy"), `"godaddy" is unknown; there are: acme-dns, bluecat,`)
	require.ErrorContains(t, providers.CheckSetting("cloudflare", "LD_PRELOAD"), "begin with CLOUDFLARE_ or CF_")
	for _, name := range []string{"CLOUDFLARE_DNS_API_TOKEN", "RFC2136_TSIG_SECRET", "AWS_SECRET_ACCESS_KEY", "PDNS_API_KEY", "OS_PASSWORD", "OS_APPLICATION_CREDENTIAL_SECRET"} {
		require.True(t, providers.IsSecret(name), name)
	}
	for _, name := range []string{"RFC2136_TSIG_KEY", "AWS_ACCESS_KEY_ID", "CLOUDFLARE_DNS_API_TOKEN_FILE", "RFC2136_TSIG_FILE", "EXEC_PATH"} {
		require.False(t, providers.IsSecret(name), name)
	}
}

// A variable that was there before is there again.
func TestTheEnvironmentIsPutBack(t *testing.T) {
	p, _ := parts(t)
	t.Setenv("DO_AUTH_TOKEN", "before")
	_, err := providers.Connect(t.Context(), "digitalocean", settings["digitalocean"], nil, p)
	require.NoError(t, err)
	require.Equal(t, "before", os.Getenv("DO_AUTH_TOKEN"))
}

func TestNoErrorTellsASecret(t *testing.T) {
	p, _ := parts(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		http.Error(w, "no access for "+user+" with "+password, http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	records, err := providers.Connect(t.Context(), "httpreq", providers.Settings{
		"HTTPREQ_ENDPOINT": server.URL, "HTTPREQ_USERNAME": "me", "HTTPREQ_PASSWORD": "hunter2",
	}, []string{"hunter2", ""}, p)
	require.NoError(t, err)
	err = records.Put(t.Context(), txt)
	require.ErrorContains(t, err, "no access for me with …")
	require.NotContains(t, err.Error(), "hunter2")
}

// httpreq: what is put is what the TXT record has to be.
func TestHTTPReq(t *testing.T) {
	p, _ := parts(t)
	var mu sync.Mutex
	got := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message struct{ FQDN, Value string }
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = message.FQDN + " " + message.Value
	}))
	t.Cleanup(server.Close)
	records, err := providers.Connect(t.Context(), "httpreq", providers.Settings{"HTTPREQ_ENDPOINT": server.URL, "HTTPREQ_PROPAGATION_TIMEOUT": "7"}, nil, p)
	require.NoError(t, err)
	require.Equal(t, 7*time.Second, records.Patience())
	require.NoError(t, records.Put(t.Context(), txt))
	require.NoError(t, records.Remove(t.Context(), txt))
	require.Equal(t, map[string]string{"/present": txt.FQDN + " " + txt.Value, "/cleanup": txt.FQDN + " " + txt.Value}, got)
}

// rfc2136 with TSIG, the zone found by itself.
func TestRFC2136(t *testing.T) {
	p, server := parts(t)
	row := providers.Settings{"RFC2136_NAMESERVER": server.Address, "RFC2136_TSIG_KEY": acmetest.KeyName, "RFC2136_TSIG_SECRET": acmetest.Key, "RFC2136_TSIG_ALGORITHM": "hmac-sha256."}
	for _, prefix := range []string{"RFC2136_", "DNSUPDATE_"} {
		named := providers.Settings{}
		for key, value := range row {
			named[strings.Replace(key, "RFC2136_", prefix, 1)] = value
		}
		records, err := providers.Connect(t.Context(), "rfc2136", named, nil, p)
		require.NoError(t, err)
		require.NoError(t, records.Put(t.Context(), txt), prefix)
		require.Equal(t, []string{txt.FQDN + " " + txt.Value}, server.TXT())
		require.NoError(t, records.Remove(t.Context(), txt))
		require.Empty(t, server.TXT())
	}
	_, err := providers.Connect(t.Context(), "rfc2136", providers.Settings{"RFC2136_NAMESERVER": server.Address, "RFC2136_TSIG_SECRET": acmetest.Key}, nil, p)
	require.ErrorContains(t, err, "belong together", "lego would not sign")
	row["RFC2136_TSIG_SECRET"] = "AAAA"
	records, err := providers.Connect(t.Context(), "rfc2136", row, nil, p)
	require.NoError(t, err)
	require.Error(t, records.Put(t.Context(), txt))
	require.Empty(t, server.TXT())
}

// S7: a record is added beside others of its name, which are somebody else's.
func TestS7RFC2136AddsAndRemovesNothingElse(t *testing.T) {
	p, server := parts(t)
	server.Put(txt.FQDN, "v=spf1 -all")
	t.Cleanup(func() { server.Remove(txt.FQDN, "v=spf1 -all") })
	records, err := providers.Connect(t.Context(), "rfc2136", providers.Settings{
		"RFC2136_NAMESERVER": server.Address, "RFC2136_TSIG_KEY": acmetest.KeyName, "RFC2136_TSIG_SECRET": acmetest.Key, "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
	}, nil, p)
	require.NoError(t, err)
	require.NoError(t, records.Put(t.Context(), txt))
	require.Len(t, server.TXT(), 2)
	require.NoError(t, records.Remove(t.Context(), txt))
	require.Equal(t, []string{txt.FQDN + " v=spf1 -all"}, server.TXT())
}

// S7: a record goes where the name was found to lead, which acme has checked; lego's providers would follow another answer.
func TestS7ARecordGoesOnlyWhereItsNameWasFoundToLead(t *testing.T) {
	p, server := parts(t)
	moved := txt
	moved.Name, moved.FQDN = "moved.example", "_acme-challenge.moved.example."
	server.Alias(moved.FQDN, "victim.example.")
	rfc2136, err := providers.Connect(t.Context(), "rfc2136", providers.Settings{
		"RFC2136_NAMESERVER": server.Address, "RFC2136_TSIG_KEY": acmetest.KeyName, "RFC2136_TSIG_SECRET": acmetest.Key, "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
	}, nil, p)
	require.NoError(t, err)
	checked := moved
	checked.FQDN = "_proofs.example."
	require.NoError(t, rfc2136.Put(t.Context(), checked))
	require.Equal(t, []string{"_proofs.example. " + txt.Value}, server.TXT())
	require.NoError(t, rfc2136.Remove(t.Context(), checked))
	require.Empty(t, server.TXT())

	s := &stuck{present: make(chan struct{})}
	close(s.present)
	providers.Add("led", providers.Provider{Prefixes: []string{"LED_"}, New: func() (legochallenge.Provider, error) { return s, nil }})
	other, err := providers.Connect(t.Context(), "led", nil, nil, p)
	require.NoError(t, err)
	require.ErrorContains(t, other.Put(t.Context(), moved), "leads to victim.example. here, and a moment ago to _acme-challenge.moved.example.")
	require.False(t, s.there)
	moved.FQDN = "victim.example."
	require.NoError(t, other.Put(t.Context(), moved))
	require.True(t, s.there)
}

// stuck is a provider whose calls hang until they are let go.
type stuck struct {
	mu      sync.Mutex
	there   bool
	present chan struct{}
}

func (s *stuck) Present(string, string, string) error {
	<-s.present
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = true
	return nil
}

func (s *stuck) CleanUp(string, string, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = false
	return nil
}

// lego's providers know no context: a call that hangs is left to itself, and what it puts all the same is taken away
// after it.
func TestACallThatHangsIsLeftToItselfAndCleanedUpAfter(t *testing.T) {
	s := &stuck{present: make(chan struct{})}
	providers.Add("stuck", providers.Provider{Prefixes: []string{"STUCK_"}, New: func() (legochallenge.Provider, error) { return s, nil }})
	p, _ := parts(t)
	records, err := providers.Connect(t.Context(), "stuck", nil, nil, p)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("ended"))
	require.ErrorContains(t, records.Put(ctx, txt), "ended")
	removed := make(chan error)
	go func() { removed <- records.Remove(t.Context(), txt) }()
	close(s.present)
	require.NoError(t, <-removed)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.False(t, s.there)
}

// maasZone is MAAS's DNS as far as the provider sees it.
type maasZone struct {
	mu        sync.Mutex
	records   []string
	isPartial bool
}

func (z *maasZone) PutTXT(_ context.Context, fqdn, value string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records = append(z.records, fqdn+" "+value)
	return nil
}

func (z *maasZone) RemoveTXT(_ context.Context, fqdn, value string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records = slices.DeleteFunc(z.records, func(have string) bool { return have == fqdn+" "+value })
	return nil
}

func (z *maasZone) Nameservers(context.Context) ([]string, bool, error) {
	return []string{"10.0.0.11:53", "10.0.0.12:53"}, !z.isPartial, nil
}

func TestMAAS(t *testing.T) {
	zone := &maasZone{}
	records, err := providers.Connect(t.Context(), "maas", nil, nil, providers.Parts{Zone: zone})
	require.NoError(t, err)
	require.Equal(t, 180*time.Second, records.Patience())
	servers, others, err := records.(challenge.Published).Nameservers(t.Context())
	require.NoError(t, err)
	require.Len(t, servers, 2)
	require.Zero(t, others)
	zone.isPartial = true
	_, others, err = records.(challenge.Published).Nameservers(t.Context())
	require.NoError(t, err)
	require.Equal(t, 70*time.Second, others, "the others look once a minute")
	require.NoError(t, records.Put(t.Context(), txt))
	require.Equal(t, []string{txt.FQDN + " " + txt.Value}, zone.records)
	require.NoError(t, records.Remove(t.Context(), txt))
	require.Empty(t, zone.records)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // whichever comes first, the turn or the end
		if err := records.Put(ctx, txt); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	for _, settings := range []providers.Settings{{"MAAS_TTL": "30"}, {"MAAS_PROPAGATION_TIMEOUT": "soon"}, {"MAAS_PROPAGATION_TIMEOUT": "0"}} {
		_, err := providers.Connect(t.Context(), "maas", settings, nil, providers.Parts{Zone: zone})
		require.ErrorContains(t, err, "the only setting is MAAS_PROPAGATION_TIMEOUT")
	}
}

func TestProgram(t *testing.T) {
	p, _ := parts(t)
	t.Setenv("EXEC_TOKEN", "hunter2")
	dir := t.TempDir()
	hook := filepath.Join(dir, "hook")
	require.NoError(t, os.WriteFile(hook, []byte("#!/bin/sh\necho \"$@ $EXEC_TOKEN\" >>"+dir+"/told\n[ \"$1\" = present ] || { echo no such record >&2; exit 3; }\n"), 0o755))
	for mode, want := range map[string]string{
		"":    "present " + txt.FQDN + " " + txt.Value + " \ncleanup " + txt.FQDN + " " + txt.Value + " \n",
		"RAW": "present -- a.example token token.thumbprint \ncleanup -- a.example token token.thumbprint \n",
	} {
		records, err := providers.Connect(t.Context(), "exec", providers.Settings{"EXEC_PATH": hook, "EXEC_MODE": mode, "EXEC_PROPAGATION_TIMEOUT": "9"}, nil, p)
		require.NoError(t, err)
		require.Equal(t, 9*time.Second, records.Patience())
		require.NoError(t, records.Put(t.Context(), txt))
		require.ErrorContains(t, records.Remove(t.Context(), txt), "hook cleanup: exit 3: no such record")
		told, err := os.ReadFile(filepath.Join(dir, "told"))
		require.NoError(t, err)
		require.Equal(t, want, string(told))
		require.NoError(t, os.Remove(filepath.Join(dir, "told")))
	}
	_, err := providers.Connect(t.Context(), "exec", providers.Settings{"EXEC_PATH": hook, "EXEC_PROPAGATION_TIMEOUT": "soon"}, nil, p)
	require.ErrorContains(t, err, "no number of seconds")
}
