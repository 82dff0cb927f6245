package preflight_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/preflight"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig"
)

// printed are what programs print, by their command line; the exit code comes first where it is not 0.
type printed map[string]string

func (p printed) LookPath(name string) (string, error) { return name, nil }

func (p printed) Run(_ context.Context, command world.Command) (world.Result, error) {
	text, known := p[command.String()]
	if !known {
		return world.Result{}, errors.New(command.String() + ": no such program")
	}
	result := world.Result{Stdout: []byte(text)}
	if rest, failed := strings.CutPrefix(text, "exit 1: "); failed {
		result = world.Result{Exit: 1, Stdout: []byte(rest)}
	}
	return result, nil
}

// host is one of a test's own, with some files.
func host(t *testing.T, files map[string]string, programs printed) preflight.Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o640))
	}
	return preflight.Host{
		Files: worldtest.Elsewhere{FS: world.OS{}, Root: root}, Runner: programs, Dial: new(net.Dialer).DialContext, Now: time.Now, UID: os.Geteuid(),
		MAAS: maasconfig.Installation{Kind: "snap", Command: "maas", Version: maasconfig.Version{Major: 3, Minor: 7, Patch: 3}, StageDir: "/var/snap/maas/common/maascert"},
	}
}

// said are items in one line each.
func said(items []report.Item) string {
	var lines strings.Builder
	for _, item := range items {
		fmt.Fprintf(&lines, "%s %s: %s", item.State, item.Code, item.Summary)
		if item.Fix != "" {
			fmt.Fprintf(&lines, " -> %s", item.Fix)
		}
		lines.WriteString("\n")
	}
	return lines.String()
}

func TestVersionTraps(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	ec, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	rsa, err := authority.Issue(certstore.RSA2048, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	v := func(major, minor, patch int) maasconfig.Version {
		return maasconfig.Version{Major: major, Minor: minor, Patch: patch}
	}
	for name, row := range map[string]struct {
		kind    string
		version maasconfig.Version
		port    int
		cert    preflight.Certificate
		says    []string
	}{
		"well":                           {"snap", v(3, 7, 3), 5443, preflight.Certificate{KeyType: certstore.RSA3072, Served: rsa.Leaf()}, []string{"ok ec-key", "ok version"}},
		"unknown":                        {"snap", maasconfig.Version{}, 5443, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"warn version: which version"}},
		"nginx is restarted":             {"snap", v(3, 4, 8), 5443, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"warn version: up to 3.4 MAAS restarts"}},
		"nginx is restarted in a window": {"snap", v(3, 4, 8), 5443, preflight.Certificate{KeyType: certstore.RSA3072, HasWindow: true}, []string{"ok version"}},
		"a deb reloads":                  {"deb", v(3, 4, 8), 5443, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"ok version"}},
		"DHCP with TLS":                  {"snap", v(3, 7, 2), 5443, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"warn version: MAAS 3.7.0 to 3.7.2", "-> snap refresh maas --channel=3.7/stable"}},
		"DHCP with TLS, deb":             {"deb", v(3, 7, 0), 5443, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"-> apt-get install --only-upgrade maas-region-api"}},
		"DHCP without TLS":               {"snap", v(3, 7, 2), 0, preflight.Certificate{KeyType: certstore.RSA3072}, []string{"ok version"}},
		"EC is wanted":                   {"snap", v(3, 7, 3), 5443, preflight.Certificate{KeyType: certstore.EC256, Served: rsa.Leaf()}, []string{"warn ec-key: MAAS 3.8 loads RSA keys alone"}},
		"EC is served before an upgrade": {"snap", v(3, 7, 3), 5443, preflight.Certificate{KeyType: certstore.RSA3072, Served: ec.Leaf()}, []string{"warn ec-key: MAAS 3.8 loads RSA keys alone"}},
		"EC is served after an upgrade":  {"snap", v(3, 8, 0), 5443, preflight.Certificate{KeyType: certstore.RSA3072, Served: ec.Leaf()}, []string{"fail ec-key: the certificate in service has no RSA key"}},
		"RSA is served after an upgrade": {"snap", v(3, 8, 0), 5443, preflight.Certificate{KeyType: certstore.RSA3072, Served: rsa.Leaf()}, []string{"ok ec-key", "ok version"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host(t, nil, nil)
			h.MAAS.Kind, h.MAAS.Version, h.Port, h.PortKnown = row.kind, row.version, row.port, true
			for _, words := range row.says {
				require.Contains(t, said(h.CheckVersion(row.cert)), words)
			}
		})
	}
}

func TestClusterCertificates(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	const file = "/var/snap/maas/current/certificates/cluster.pem"
	for words, lifetime := range map[string][2]time.Duration{
		"ok cluster-ca: MAAS's own certificate ":             {time.Hour, 1000 * time.Hour},
		"warn cluster-ca: MAAS's own certificate ":           {2000 * time.Hour, 2100 * time.Hour},
		"warn cluster-ca: MAAS's own certificate expired on": {2 * time.Hour, time.Hour},
	} {
		bundle, err := authority.Issue(certstore.EC256, lifetime[0], lifetime[1], "maas")
		require.NoError(t, err)
		require.Contains(t, said(host(t, map[string]string{file: string(bundle.LeafPEM())}, nil).CheckClusterCertificates()), words)
	}
	require.Empty(t, host(t, nil, nil).CheckClusterCertificates(), "up to 3.4 there are none")
}

func TestHardening(t *testing.T) {
	t.Parallel()
	const asked, isOn = "maas config-hardening validate", "maas config-hardening get hardening_enabled"
	for text, words := range map[string]string{
		"exit 1: usage: maas\n\nargument COMMAND: invalid choice: 'config-hardening' (choose from 'config-tls')\n": "",
		"OK: no hardening violations.\n": "ok hardening",
		"exit 1: VIOLATIONS (2):\n  [MISSING_TLS_CERT] TLS certificate is not configured\n    Resolution: Run: maas config-tls enable <key> <cert>\n    Config key: tls\n" +
			"  [WILDCARD_BIND_NOT_ALLOWED] dns_bind is not configured\n    Resolution: Run: maas config-hardening set dns_bind <address>\n": "warn hardening: MAAS itself finds: TLS certificate is not configured (MISSING_TLS_CERT) -> maascert renew --enable-tls\n" +
			"warn hardening: MAAS itself finds: dns_bind is not configured (WILDCARD_BIND_NOT_ALLOWED) -> maas config-hardening set dns_bind <address>\n",
		"exit 1: the database is down\n": "warn hardening: MAAS does not say whether it is as hardened as it should be: the database is down -> maas status\n",
	} {
		found := said(host(t, nil, printed{isOn: "hardening_enabled [config] = on\n", asked: text}).CheckHardening(t.Context()))
		if words == "" {
			found = said(host(t, nil, printed{isOn: text}).CheckHardening(t.Context()))
			require.Empty(t, found)
		}
		require.Contains(t, found, words)
	}
	off := printed{isOn: "hardening_enabled [config] = auto\n", asked: "exit 1: VIOLATIONS (1):\n  [MISSING_TLS_CERT] TLS certificate is not configured\n"}
	require.Equal(t, "ok hardening: MAAS's hardening is not on, so nothing is asked for by it\n", said(host(t, nil, off).CheckHardening(t.Context())))
	require.Contains(t, said(host(t, map[string]string{"/proc/sys/crypto/fips_enabled": "1\n"}, off).CheckHardening(t.Context())), "(MISSING_TLS_CERT)")
}

// secured is TLS by an authority, for a server on the loopback.
func secured(t *testing.T, lifetime time.Duration) (authority *certtest.Authority, config *tls.Config) {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, time.Hour, lifetime, "127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	return authority, &tls.Config{Certificates: []tls.Certificate{pair}}
}

func TestMAASsVault(t *testing.T) {
	t.Parallel()
	authority, config := secured(t, 1000*time.Hour)
	status := http.StatusOK
	vault := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/v1/sys/health", r.URL.Path)
		require.Empty(t, r.Header.Get("X-Vault-Token"))
		w.WriteHeader(status)
	}))
	var serving atomic.Pointer[tls.Config]
	serving.Store(config)
	vault.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return serving.Load(), nil }}
	vault.StartTLS()
	t.Cleanup(vault.Close)
	conf := maasconfig.Regiond{Vault: vault.URL, VaultPath: "maas", VaultRole: "r", VaultSecret: "s"}
	h := host(t, nil, nil)
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "fail vault: MAAS keeps its secrets in Vault, which cannot be asked: tls: failed to verify certificate", "MAAS trusts what the system trusts")
	h.Roots = x509.NewCertPool()
	require.True(t, h.Roots.AppendCertsFromPEM(authority.RootPEM()))
	require.Regexp(t, `^ok vault: MAAS's Vault answers; MAAS's secrets are at mount secret and path maas\nok vault-tls: the certificate of MAAS's Vault lasts until .*\n$`, said(h.CheckVault(t.Context(), conf)))
	status = http.StatusInternalServerError
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "warn vault: whether MAAS's Vault is well cannot be told: it answers 500")
	status = http.StatusTooManyRequests // a standby
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "ok vault: ")
	status = http.StatusServiceUnavailable
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "fail vault: MAAS keeps its secrets in Vault, and it is sealed -> vault operator unseal")
	status = http.StatusOK
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "ok vault: ", "it was unsealed")
	for _, unconfigured := range []maasconfig.Regiond{{Vault: vault.URL, VaultRole: "r"}, {Vault: vault.URL, VaultSecret: "s"}} {
		require.Contains(t, said(h.CheckVault(t.Context(), unconfigured)), "warn vault: this region is not configured to log in to MAAS's Vault")
	}
	require.NotContains(t, said(h.CheckVault(t.Context(), conf)), "not configured to log in")
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "ok vault-tls: ")
	bundle, err := authority.Issue(certstore.EC256, time.Hour, 80*time.Minute, "127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	serving.Store(&tls.Config{Certificates: []tls.Certificate{pair}})
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "warn vault-tls: the certificate of MAAS's Vault lasts until ")
	serving.Store(config)
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "ok vault-tls: ", "it was renewed, as the fix says")
	vault.Close()
	require.Contains(t, said(h.CheckVault(t.Context(), conf)), "fail vault: MAAS keeps its secrets in Vault, which cannot be asked")
	require.Empty(t, h.CheckVault(t.Context(), maasconfig.Regiond{}))
}

// A server that takes connections as PostgreSQL does.
func postgres(t *testing.T, answer byte, config *tls.Config) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
					return
				}
				if _, err := conn.Write([]byte{answer}); err == nil && answer == 'S' {
					// Who only looks at the certificate hangs up.
					_, _ = bufio.NewReader(tls.Server(conn, config)).ReadByte()
				}
			}()
		}
	}()
	_, port, err = net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

func TestMAASsDatabase(t *testing.T) {
	t.Parallel()
	_, config := secured(t, 1000*time.Hour)
	_, ending := secured(t, 80*time.Minute)
	h := host(t, nil, nil)
	check := func(port string) string {
		return said(h.CheckDatabase(t.Context(), maasconfig.Regiond{Host: "127.0.0.1", Port: port}))
	}
	require.Regexp(t, `^ok database: .*\nok database-tls: the certificate of MAAS's database lasts until .*\n$`, check(postgres(t, 'S', config)))
	require.Contains(t, check(postgres(t, 'S', ending)), "warn database-tls: ")
	require.Equal(t, "ok database: somebody answers as PostgreSQL does where MAAS's database is\n", check(postgres(t, 'N', nil)), "nobody reads along on this host")
	require.Contains(t, check(postgres(t, 'H', nil)), "fail database: who answers at the address of MAAS's database is no PostgreSQL")
	closed := postgres(t, 'N', nil)
	h.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	require.Contains(t, check(closed), "fail database: MAAS's database cannot be reached, and maas config-tls stores nothing without it: connection refused")
	local, remote := net.Pipe()
	t.Cleanup(func() { _ = local.Close() })
	go func() {
		_, _ = io.ReadFull(remote, make([]byte, 8))
		_, _ = remote.Write([]byte{'N'})
	}()
	h.Dial = func(context.Context, string, string) (net.Conn, error) { return local, nil }
	require.Contains(t, said(h.CheckDatabase(t.Context(), maasconfig.Regiond{Host: "db.example"})), "warn database-tls: MAAS's database takes no TLS")
}
