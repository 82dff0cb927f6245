package setup_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/config"
	"maascert/internal/preflight"
	"maascert/internal/setup"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig"
)

// caServer is a CA's own server, whose certificate leads to a root, and which answers at some paths.
func caServer(t *testing.T, authority *certtest.Authority, answers map[string]string, more ...[]byte) (directory string) {
	t.Helper()
	bundle, err := authority.Issue(certstore.EC256, time.Hour, 1000*time.Hour, "127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	pair.Certificate = append(pair.Certificate, more...)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, known := answers[r.URL.Path]
		if !known {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
			return
		}
		fmt.Fprint(w, text)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL + "/acme/acme/directory"
}

func rootOf(t *testing.T, authority *certtest.Authority) (text, fingerprint string) {
	t.Helper()
	certs, err := certstore.ParseCertificates(authority.RootPEM())
	require.NoError(t, err)
	return string(authority.RootPEM()), strings.TrimPrefix(certstore.Fingerprint(certs[0]), "sha256:")
}

func TestFindRoot(t *testing.T) {
	t.Parallel()
	dial := new(net.Dialer).DialContext
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	own, fingerprint := rootOf(t, authority)
	other, otherFingerprint := rootOf(t, stranger)
	wrapped, err := json.Marshal(map[string]string{"ca": own})
	require.NoError(t, err)
	for name, row := range map[string]struct {
		answers map[string]string
		wanted  string
		err     string
	}{
		"step-ca, by fingerprint":           {map[string]string{"/root/" + fingerprint: string(wrapped)}, fingerprint, ""},
		"step-ca, without one":              {map[string]string{"/roots.pem": own}, "", ""},
		"Caddy":                             {map[string]string{"/pki/ca/acme/certificates": own}, "", ""},
		"among others":                      {map[string]string{"/roots.pem": other + own}, fingerprint, ""},
		"of another fingerprint":            {map[string]string{"/roots.pem": own}, otherFingerprint, "no root certificate of this fingerprint"},
		"to which its server does not lead": {map[string]string{"/roots.pem": other}, otherFingerprint, "does not lead to it"},
		"another's":                         {map[string]string{"/roots.pem": other}, "", "does not show its root"},
		"none":                              {nil, "", "does not show its root"},
		"after so many others":              {map[string]string{"/roots.pem": strings.Repeat(other, 30) + own}, "", "does not show its root"},
		"too long to be one":                {map[string]string{"/roots.pem": strings.Repeat("x", 300<<10) + own}, "", "does not show its root"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := setup.FindRoot(t.Context(), dial, caServer(t, authority, row.answers), row.wanted)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, fingerprint, found.Fingerprint())
			require.Equal(t, own, string(found.PEM()))
			require.Len(t, found.Pairs(), 95)
		})
	}
	elsewhere := strings.Replace(caServer(t, authority, map[string]string{"/roots.pem": own}), "127.0.0.1", "localhost", 1)
	_, err = setup.FindRoot(t.Context(), dial, elsewhere, fingerprint)
	require.ErrorContains(t, err, "the CA shows the root of this fingerprint, and its own server's certificate does not lead to it: ")
	_, err = setup.FindRoot(t.Context(), dial, "http://127.0.0.1/directory", "")
	require.ErrorContains(t, err, "is no https URL")
	certs, err := certstore.ParseCertificates([]byte(other))
	require.NoError(t, err)
	var long [][]byte
	for range 20 {
		long = append(long, certs[0].Raw)
	}
	_, err = setup.FindRoot(t.Context(), dial, caServer(t, authority, map[string]string{"/roots.pem": own}, long...), "")
	require.ErrorContains(t, err, "more than 10 are not looked at")
}

func TestParseFingerprint(t *testing.T) {
	t.Parallel()
	plain := strings.Repeat("0aB1", 16)
	pairs := strings.TrimSuffix(strings.Repeat("0A:B1:", 16), ":")
	for _, text := range []string{plain, "sha256:" + plain, "SHA256:" + plain, "sha256 Fingerprint=" + pairs, "SHA-256: " + pairs, pairs, " " + plain + "\n"} {
		found, err := setup.ParseFingerprint(text)
		require.NoError(t, err, text)
		require.Equal(t, strings.ToLower(plain), found)
	}
	for _, text := range []string{"", plain[1:], plain + "0", strings.Repeat("x", 64)} {
		_, err := setup.ParseFingerprint(text)
		require.Error(t, err, text)
	}
}

// Whatever is said comes out of the file as it was said, and never as something else.
func TestYAML(t *testing.T) {
	t.Parallel()
	const hostile = "a\u009b31m\u202e: {b}, \"c\" # d\n  root: /evil"
	answers := setup.Answers{
		Directory: "https://ca.example/acme/acme/directory", Email: "ops@example.com", Profile: hostile, KeyType: certstore.RSA3072,
		Challenge: setup.Challenge{Type: "http-01", Why: "port 80 belongs to evil\nacme: {}"},
		Names:     []setup.Name{{Name: "maas.example.internal", Why: "MAAS's own URL\n  - evil.example"}, {Name: "10.0.0.11"}, {Name: "fd00::1"}},
		Endpoints: []string{"10.0.0.11", "[fd00::1]:5443"}, HAProxy: setup.Bind{PEM: "/etc/haproxy/a, b.pem", Endpoint: "127.0.0.1:443"}, APIKey: "file:api.key",
	}
	text, err := answers.YAML(time.Unix(0, 0))
	require.NoError(t, err)
	for _, r := range text {
		require.True(t, r == '\n' || r >= ' ' && r < 0x7f, "%q in %s", r, text)
	}
	file := filepath.Join(t.TempDir(), "maascert.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	conf, err := config.LoadAlone(file, maasconfig.KnownTypes())
	require.NoError(t, err, text)
	require.Equal(t, hostile, conf.ACME.Profile)
	require.Equal(t, "ops@example.com", conf.ACME.Email)
	require.Empty(t, conf.ACME.Root)
	require.Equal(t, []string{"maas.example.internal", "10.0.0.11", "fd00::1"}, conf.Certificates[0].Names)
	require.Equal(t, []string{"maas", "front"}, conf.Certificates[0].Targets)
	require.Equal(t, "haproxy", conf.Targets["front"].Type)
}

// region answers as a region says which regions run.
func region(t *testing.T, said string) world.Dial {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, said) }))
	t.Cleanup(server.Close)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.9:") { // which is down
			return nil, context.DeadlineExceeded
		}
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
}

// look finds the facts of a host of a test's own.
func look(t *testing.T, files map[string]string, dial world.Dial) setup.Facts {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	host := preflight.Host{
		Files: worldtest.Elsewhere{FS: world.OS{}, Root: root}, Runner: world.Exec{}, Dial: dial, Listening: func(int) []world.Listening { return nil }, Now: time.Now,
		MAAS: maasconfig.Installation{Kind: "snap", Command: "maas", Mode: "region\x1b[2J", Version: maasconfig.Version{Major: 3, Minor: 7, Patch: 3}},
	}
	return setup.Look(t.Context(), host, maasconfig.InstallationConfig{FS: host.Files, Runner: host.Runner, StateDir: "/var/lib/maascert"})
}

func TestRegionsAreAskedAtAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := look(t, map[string]string{"/etc/keepalived/keepalived.conf": "virtual_ipaddress { 192.0.2.100 }\n"}, region(t, `{"eventloops": {
		"one:pid=1": [["172.17.0.1", 5250], ["192.0.2.100", 5250], ["192.0.2.9", 5250], ["192.0.2.1", 5250], ["192.0.2.1", 5251]],
		"two:pid=2": [["172.17.0.1", 5250], ["192.0.2.2", 5250]], "three:pid=3": [["172.17.0.1", 5250]]}}`))
	require.Len(t, f.Regions, 3)
	require.Equal(t, []string{"192.0.2.1", "", "192.0.2.2"}, f.Endpoints, "one, three, two")
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.100")}, f.Virtual)
}

// Whoever stands in a region's place may say what he likes.
func TestRegionsOfAStranger(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprintf(`["10.0.%d.%d", 1]`, i/250, i%250+1))
	}
	f := look(t, nil, region(t, `{"eventloops": {"a\u001b[2J\u202e:pid=1": [["fe80::1%; curl evil", 1], ["0.0.0.0", 1], ["224.0.0.1", 1], ["no address", 1], [], `+strings.Join(many, ",")+`]}}`))
	require.Len(t, f.Regions, 1)
	require.Len(t, f.Regions[0].Addresses, 20)
	for _, line := range f.Words() {
		require.NotContains(t, line, "\x1b")
		require.NotContains(t, line, "\u202e")
	}
	none := look(t, nil, region(t, "<html>"))
	require.Empty(t, none.Regions)
	require.Error(t, none.NoRegions)
	require.Contains(t, strings.Join(none.Words(), "; "), "which regions run could not be seen")
	require.Empty(t, look(t, nil, region(t, `{"eventloops": `+strings.Repeat("[", 300<<10))).Regions)
}

func TestHAProxy(t *testing.T) {
	t.Parallel()
	f := look(t, map[string]string{"/etc/haproxy/certs/one.pem": "", "/etc/haproxy/haproxy.cfg": `frontend maas
	bind *:443 ssl crt /etc/haproxy/certs/maas.pem alpn h2
	bind :8443 ssl crt /etc/haproxy/certs/
	bind 127.0.0.2:9443 ssl crt /etc/haproxy/certs/one.pem # not /etc/haproxy/certs/two.pem
	bind unix@/run/x ssl crt /etc/x.pem
	bind *:80
	# bind *:1443 ssl crt /etc/old.pem
	bind 192.0.2.1:443 ssl crt /etc/haproxy/certs/another-hosts.pem
	bind 127.0.0.3:443 ssl crt /etc/haproxy/certs/moving.pem
`, "/etc/keepalived/keepalived.conf": "virtual_ipaddress {\n127.0.0.3\tdev lo\n}\n"}, region(t, "{}"))
	require.Equal(t, []setup.Bind{{PEM: "/etc/haproxy/certs/maas.pem", Endpoint: "127.0.0.1:443"}, {PEM: "/etc/haproxy/certs/one.pem", Endpoint: "127.0.0.2:9443"}}, f.HAProxy)
}

// silent is a name server that never answers.
type silent struct{}

func (silent) Addresses(ctx context.Context, _, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (silent) Zone(context.Context, string) (string, error) { return "", nil }

func TestASilentNameServerIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup.Facts{Host: "region1.example.internal"}
		for i := range 100 {
			f.Regions = append(f.Regions, maasconfig.Region{Name: fmt.Sprintf("region%d.maas", i)})
		}
		f.Endpoints = make([]string, len(f.Regions))
		begun := time.Now()
		for _, one := range f.Names(t.Context(), silent{}, "https://ca.example/") {
			require.False(t, one.Tick, one.Name)
		}
		require.Equal(t, 10*time.Second, time.Since(begun))
	})
}

func TestWhatIsProposed(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	served, err := authority.Issue(certstore.EC256, 0, time.Hour, "old.example.internal")
	require.NoError(t, err)
	f := setup.Facts{
		URL: "http://maas.example.internal:5240/MAAS", Virtual: []netip.Addr{netip.MustParseAddr("10.0.0.100")}, Served: served.Leaf(), Owners: map[int]string{80: "haproxy (process 7)"},
		Regions: []maasconfig.Region{{Name: "region1"}}, Endpoints: []string{"10.0.0.11"}, MAAS: maasconfig.Installation{Version: maasconfig.Version{Major: 3, Minor: 4}},
	}
	ticked := func(directory string) (names []string) {
		for _, one := range f.Names(t.Context(), silentAtOnce{}, directory) {
			if one.Tick {
				names = append(names, one.Name)
			}
		}
		return names
	}
	require.Equal(t, []string{"old.example.internal", "maas.example.internal", "10.0.0.100"}, ticked("https://ca.example/"))
	require.Empty(t, ticked("https://acme-v02.api.letsencrypt.org/directory"), "which issues for none of them")
	ways := f.Challenges([]string{"maas.example.internal"}, true)
	require.Equal(t, "http-01", ways[0].Type)
	require.Contains(t, ways[0].Why, "maascert account snippet haproxy")
	require.Len(t, ways, 2, "3.4 does not publish records by itself")
	f.Owners[80] = "python3 (process 8)"
	require.Equal(t, "tls-alpn-01", f.Challenges([]string{"maas.example.internal"}, false)[0].Type)
	require.Contains(t, f.WhyNot([]string{"*.example.internal"}, true), "does not publish")
	f.MAAS.Version.Minor = 7
	require.Equal(t, "dns-01", f.Challenges([]string{"*.example.internal"}, true)[0].Type)
	require.Empty(t, f.WhyNot([]string{"*.example.internal"}, true))
	require.Contains(t, f.WhyNot([]string{"10.0.0.1"}, true), "cannot prove addresses: 10.0.0.1")
	f.Served = selfSigned(t)
	require.NotContains(t, ticked("https://ca.example/"), "127.0.0.1", "what nobody signed is no reason")
}

// silentAtOnce is a name server that knows nothing.
type silentAtOnce struct{ silent }

func (silentAtOnce) Addresses(context.Context, string, string) ([]string, error) { return nil, nil }

// selfSigned is a certificate that nobody else signed.
func selfSigned(t *testing.T) *x509.Certificate {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	certs, err := certstore.ParseCertificates(authority.RootPEM())
	require.NoError(t, err)
	return certs[0]
}
