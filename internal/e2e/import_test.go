//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/loopback"
)

// clients obtain a certificate for NAMES from the CA at DIRECTORY, and answer its challenges at HOST and PORT.
var clients = map[string]struct {
	program string
	args    string
}{
	"certbot": {"certbot", "certonly --config-dir FOLDER --work-dir FOLDER.work --logs-dir FOLDER.logs --server DIRECTORY --standalone --http-01-address HOST --http-01-port PORT " +
		"-n --agree-tos -m ops@example.com --deploy-hook /bin/true -d maas.example.test -d region1.example.test"},
	"lego": {"lego", "--path FOLDER --server DIRECTORY --accept-tos -m ops@example.com --key-type ec256 --http --http.port HOST:PORT -d maas.example.test -d region1.example.test run"},
}

// What Debian's certbot and lego keep is taken over from them, and renewed by the account that they registered.
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
			cmd := exec.CommandContext(t.Context(), program(t, client.program), args...)
			root := filepath.Join(s.dir, "root.pem")
			cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+root, "LEGO_CA_CERTIFICATES="+root)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Equal(t, 1, ca.Orders())

			before := documents(t, folder)
			said := s.run(t, 0, "import", name, folder)
			require.Contains(t, said, "version 1 is current: maas.example.test, region1.example.test")
			url := strings.Fields(said[strings.Index(said, "took over the account "):])[6]
			require.Contains(t, s.run(t, 0, "renew", "--enable-tls"), "version 1")
			require.Equal(t, 1, ca.Orders(), "it is served without an order")
			require.Contains(t, s.run(t, 0, "verify"), "3 of 3 endpoints serve what they should")
			require.Contains(t, s.run(t, 0, "renew", "--force"), "obtained version 2")
			require.Contains(t, s.run(t, 0, "account", "show"), url)
			require.Equal(t, 1, ca.Count("sign-me-up"), "no account was registered beside the client's")
			require.Contains(t, s.run(t, 0, "revoke", "--version", "1", "--yes"), "the CA revoked version 1")
			require.Equal(t, before, documents(t, folder), "nothing of the other client's was touched")
		})
	}
}
