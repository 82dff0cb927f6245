//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/fleettest"
	"maascert/internal/loopback"
)

// clients obtain a certificate for NAMES from the CA at DIRECTORY, and answer its challenges at HOST and PORT.
var clients = map[string]struct {
	program string
	args    string
}{
	"certbot": {"certbot", "certonly --config-dir FOLDER --work-dir FOLDER.work --logs-dir FOLDER.logs --server DIRECTORY --standalone --http-01-address HOST --http-01-port PORT " +
		"-n --agree-tos -m ops@example.com --deploy-hook /bin/true -d maas.example.test -d region1.example.test"},
	"dehydrated": {"dehydrated", "--config FOLDER.config --cron --accept-terms -d maas.example.test -d region1.example.test"},
	"lego":       {"lego", "--path FOLDER --server DIRECTORY --accept-tos -m ops@example.com --key-type ec256 --http --http.port HOST:PORT -d maas.example.test -d region1.example.test run"},
}

// prepareDehydrated makes an account of dehydrated's, and a web server that shows its answers.
func prepareDehydrated(t *testing.T, folder string, ca *acmetest.CA, address string, port int) (done func()) {
	t.Helper()
	config, answers, root := folder+".config", folder+".answers", filepath.Join(filepath.Dir(folder), "root.pem")
	require.NoError(t, os.MkdirAll(answers, 0o755))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "BASEDIR=%s\nCA=%q\nWELLKNOWN=%s\nKEY_ALGO=prime256v1\nCONTACT_EMAIL=ops@example.com\nLOCKFILE=%s.lock\n", folder, ca.Directory, answers, folder), 0o644))
	require.NoError(t, os.MkdirAll(folder, 0o700))
	cmd := exec.CommandContext(t.Context(), program(t, "dehydrated"), "--config", config, "--register", "--accept-terms")
	cmd.Env = append(os.Environ(), "CURL_CA_BUNDLE="+root)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	require.NoError(t, err)
	server := &http.Server{Handler: http.StripPrefix("/.well-known/acme-challenge/", http.FileServer(http.Dir(answers)))}
	go func() { _ = server.Serve(listener) }()
	return func() {
		require.NoError(t, server.Close()) // the port is maascert's from then on
		require.NoError(t, os.Rename(config, filepath.Join(folder, "config")))
	}
}

// What Debian's certbot, dehydrated and lego keep is taken over from them, and renewed by the account that they registered.
func TestImportFromRealClients(t *testing.T) {
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			port, err := loopback.Port()
			require.NoError(t, err)
			ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
			s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
			address := s.maas.Regions[0].Address.String()
			s.edit(t, "  challenge:", "  accept_terms: true\n  challenge:", "region1.example.test, "+address, "region1.example.test", "rsa3072", "ec256")
			folder := filepath.Join(s.dir, name)
			args := strings.Fields(strings.NewReplacer("FOLDER", folder, "DIRECTORY", ca.Directory, "HOST", address, "PORT", strconv.Itoa(port)).Replace(client.args))
			done := func() {}
			if name == "dehydrated" {
				done = prepareDehydrated(t, folder, ca, address, port)
			}
			cmd := exec.CommandContext(t.Context(), program(t, client.program), args...)
			root := filepath.Join(s.dir, "root.pem")
			cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+root, "LEGO_CA_CERTIFICATES="+root, "CURL_CA_BUNDLE="+root)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Equal(t, 1, ca.Orders())
			done()

			before, registered := documents(t, folder), ca.Count("sign-me-up")
			said := s.run(t, 0, "import", name, folder)
			require.Contains(t, said, "version 1 is current: maas.example.test, region1.example.test")
			url := strings.Fields(said[strings.Index(said, "took over the account "):])[6]
			require.Contains(t, s.run(t, 0, "renew", "--enable-tls"), "version 1")
			require.Equal(t, 1, ca.Orders(), "it is served without an order")
			require.Contains(t, s.run(t, 0, "verify"), "3 of 3 endpoints serve what they should")
			require.Contains(t, s.run(t, 0, "renew", "--force"), "obtained version 2")
			require.Contains(t, s.run(t, 0, "account", "show"), url)
			require.Equal(t, registered, ca.Count("sign-me-up"), "no account was registered beside the client's")
			require.Contains(t, s.run(t, 0, "revoke", "--version", "1", "--yes"), "the CA revoked version 1")
			require.Equal(t, before, documents(t, folder), "nothing of the other client's was touched")
		})
	}
}

// On a region host with certbot and no configuration of maascert's: import writes one, and what certbot obtained is served without an order, renewed
// by its account, and what runs certbot is named and switched off as it is said.
func TestImportOnAFreshHost(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestImportOnAFreshHost$", "-test.v", "-test.timeout", "5m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	startResolver(t)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	ca.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
	roots := slices.Concat(ca.DirectoryRoot(), ca.Root(0))
	h := newRegionHost(t)
	h.write("/etc/root.pem", string(roots))
	h.must("mkdir -p /etc/letsencrypt/renewal-hooks/deploy; printf '#!/bin/sh\\nmaas config-tls enable key cert --yes\\n' >/etc/letsencrypt/renewal-hooks/deploy/maas; chmod +x /etc/letsencrypt/renewal-hooks/deploy/maas")
	h.must("REQUESTS_CA_BUNDLE=/etc/root.pem certbot certonly --server " + ca.Directory + " --standalone -n --agree-tos -m ops@example.com --no-directory-hooks -d maas.example.internal")
	require.Equal(t, 1, ca.Orders())
	said := h.must("maascert import certbot --root /etc/root.pem")
	require.Contains(t, said, "wrote /etc/maascert/maascert.yaml")
	require.Contains(t, said, "maas: version 1 is current: maas.example.internal")
	require.Contains(t, said, "/etc/letsencrypt/renewal-hooks/deploy/maas")
	h.must("maascert renew --enable-tls")
	h.servesWith(roots)
	require.Equal(t, 1, ca.Orders(), "it is served without an order")
	require.Contains(t, h.must("maascert check"), "fix: chmod a-x /etc/letsencrypt/renewal-hooks/deploy/maas")
	h.must("chmod a-x /etc/letsencrypt/renewal-hooks/deploy/maas")
	require.Contains(t, h.must("maascert check"), "ok    managers")
	h.must("maascert renew --force")
	require.Equal(t, 2, ca.Orders())
	h.servesWith(roots)
}
