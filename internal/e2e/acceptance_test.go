//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/fleettest"
	"maascert/maasconfig/maastest"
)

// What an administrator of a real MAAS is asked to run passes on the simulated one, with a region that really is down for a while,
// and fails where maascert does not keep its word.
func TestTheAcceptance(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestTheAcceptance$", "-test.v", "-test.timeout", "10m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	startResolver(t)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	ca.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
	h := newRegionHost(t)
	second := h.maas.Regions[1]
	control := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			second.Break(maastest.Fault{Deaf: true})
			second.StopProxy()
			return
		}
		second.Break(maastest.Fault{})
		_ = second.Restart()
	}))
	t.Cleanup(control.Close)
	h.write("/etc/maascert/roots.pem", string(append(ca.DirectoryRoot(), ca.Root(0)...)))
	run := filepath.Join(project(t), "examples", "acceptance", "run.sh") + fmt.Sprintf(" --yes --region-down 'curl -fsS %[1]s/down' --region-up 'curl -fsS %[1]s/up'", control.URL)
	said, code := h.sh(run, "")
	require.Equal(t, 2, code, "there is no configuration: %s", said)

	h.must("maascert init --yes --directory " + ca.Directory + " --root /etc/maascert/roots.pem --accept-terms --name maas.example.internal --endpoint 10.0.0.11 --endpoint 10.0.0.12")
	said, code = h.sh(run, "")
	require.Equal(t, 2, code, "MAAS serves no TLS: %s", said)
	require.Empty(t, ca.Issued())
	h.must(`sed -i 's/^    endpoints:/    verify_timeout: 5s\n    endpoints:/' /etc/maascert/maascert.yaml && maascert renew --enable-tls`)

	said = h.must(run)
	t.Log(said)
	for _, row := range []string{
		"everything is ready", "a rehearsal changes nothing", "a renewal reaches every region", "a region that is down is told",
		"it catches up when it is back", "there is a way back", "and forth again", "all is well in the end",
	} {
		require.Regexp(t, "(?m)^"+row+" +passed +[0-9]+ s  ", said)
	}
	require.Len(t, ca.Issued(), 3)
	table := h.must("cat /var/tmp/maascert-acceptance.*/table.txt")
	for _, private := range append([]string{"maas.example.internal"}, regionAddresses...) {
		require.NotContains(t, table, private)
	}
	require.Contains(t, table, "endpoints: 2")

	// A region that never comes back.
	said, code = h.sh(strings.Replace(run, "/up'", "/down' --patience 6", 1), "")
	require.Equal(t, 1, code, said)
	require.Regexp(t, "(?m)^it catches up when it is back +FAILED", said)
	require.Regexp(t, "(?m)^all is well in the end +FAILED", said)
}
