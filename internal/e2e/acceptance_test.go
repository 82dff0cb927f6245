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

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/fleettest"
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
			second.StopRegiond()
			second.StopProxy()
			return
		}
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
	said, code = h.sh(run+" --patience 10m", "")
	require.Equal(t, 2, code, said)
	said, code = h.sh(strings.Replace(run, "--region-up", "--cert maas --config", 1), "")
	require.Equal(t, 2, code, "nobody would start the region again: %s", said)
	require.Empty(t, ca.Issued())
	h.must(`sed -i 's/^    endpoints:/    verify_timeout: 5s\n    endpoints:/' /etc/maascert/maascert.yaml && maascert renew --enable-tls`)

	said = h.must(run)
	t.Log(said)
	for _, row := range []string{
		"everything is ready", "a rehearsal changes nothing", "a renewal reaches every endpoint", "a region that is down is told",
		"it catches up when it is back", "there is a way back", "and forth again", "all is well in the end",
	} {
		require.Regexp(t, "(?m)^"+row+" +passed +[0-9]+ s  ", said)
	}
	require.Len(t, ca.Issued(), 3)
	showsNoNames := func() {
		table := h.must("cat /var/tmp/maascert-acceptance.*/table.txt")
		require.Contains(t, table, "endpoints: 2")
		for _, private := range append([]string{"maas.example.internal", "/etc/maascert"}, regionAddresses...) {
			require.NotContains(t, table, private)
		}
	}
	showsNoNames()

	// A region that never comes back.
	said, code = h.sh(strings.Replace(run, "/up'", "/down' --patience 6", 1), "")
	require.Equal(t, 1, code, said)
	require.Regexp(t, "(?m)^it catches up when it is back +FAILED", said)
	require.Contains(t, said, "nothing else was tried")
	showsNoNames()

	// A CA that refuses: nothing is stopped, and nothing is taken back.
	require.NoError(t, second.Restart())
	h.must("maascert renew")
	ca.DNS.Fail("maas.example.internal.", dns.RcodeNameError)
	calls := len(h.maas.Calls())
	said, code = h.sh(run, "")
	require.Equal(t, 1, code, said)
	require.Contains(t, said, "nothing else was tried")
	require.Len(t, h.maas.Calls(), calls)
	require.NotNil(t, second.Serves(5443))
}
