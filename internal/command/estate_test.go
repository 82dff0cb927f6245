package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/internal/loopback"
	"maascert/internal/world"
	"maascert/maasconfig/maastest"
)

// estate is a deployment of any size: MAAS's certificate and others, on a host that others have a store in common with, some weeks after
// everything was issued.
type estate struct {
	*site
	board string // where the daemon tells how it is
	names []string
}

// age is how long ago the certificates of an estate were issued.
const age = 33 * 24 * time.Hour

// otherServices are what else a site has certificates for.
var otherServices = []string{"ceph", "gitlab", "grafana", "harbor", "jenkins", "keycloak", "landscape", "netbox", "prometheus", "vault", "zabbix"}

// startEstate starts one, whose certificates are issued and served. trouble is what is broken in it.
func startEstate(t *testing.T, certificates, hosts int, isBroken bool) *estate {
	t.Helper()
	e := &estate{site: startSite(t), names: append([]string{"maas"}, otherServices[:certificates-1]...)}
	port, err := loopback.Port()
	require.NoError(t, err)
	e.board = fmt.Sprintf("127.0.0.1:%d", port)
	var issuers, entries, targets strings.Builder
	others := []*acmetest.CA{e.ca}
	for name, validity := range map[string]time.Duration{"short": 60 * 24 * time.Hour, "long": 200 * 24 * time.Hour} {
		ca, err := acmetest.Start(acmetest.Options{HTTPPort: e.ca.HTTPPort, Validity: validity})
		require.NoError(t, err)
		t.Cleanup(ca.Stop)
		others = append(others, ca)
		require.NoError(t, os.WriteFile(filepath.Join(e.dir, name+"_root.pem"), ca.DirectoryRoot(), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(e.dir, name+"_issuer.pem"), ca.Root(0), 0o644))
		fmt.Fprintf(&issuers, "  %s: {directory: %q, root: %s_root.pem, issuer_root: %s_issuer.pem, accept_terms: true, challenge: {type: http-01, listen: \"127.0.0.1:%d\"}}\n", name, ca.Directory, name, name, e.ca.HTTPPort)
	}
	for n, name := range e.names[1:] {
		require.NoError(t, os.Mkdir(filepath.Join(e.dir, name), 0o700))
		key, chain := filepath.Join(e.dir, name, "key.pem"), filepath.Join(e.dir, name, "fullchain.pem")
		fmt.Fprintf(&entries, "  - {name: %s, names: [%s.example.internal], key_type: ec256, issuer: %s, targets: [%s]}\n", name, name, []string{"short", "long", "acme"}[n%3], name)
		fmt.Fprintf(&targets, "  %s: {type: files, key: %s, fullchain: %s, reload: [\"true\"], endpoints: [%q]}\n", name, key, chain, fileServer(t, key, chain, new(atomic.Int64)))
	}
	text := strings.NewReplacer(
		`listen: ""`, fmt.Sprintf("listen: %q\nnotify:\n  - {type: exec, name: on-call, command: [\"true\"]}", e.board),
		"key_type: ec256}\n", "key_type: ec256, targets: [maas]}\n"+entries.String(), "certificates:", "issuers:\n"+issuers.String()+"certificates:",
		"verify_timeout: 20s}\n", "verify_timeout: 2s}\n"+targets.String(), "region1.example.internal]", "region1.example.internal, region2.example.internal, region3.example.internal]",
	).Replace(e.config())
	require.NoError(t, os.WriteFile(filepath.Join(e.dir, "maascert.yaml"), []byte(text), 0o640))
	code, _, stderr := inSite(t, e.site, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	for _, ca := range others { // whose clocks go as the hosts' do
		ca.SetClock(func() time.Time { return time.Now().Add(age) })
	}
	e.addHosts(t, hosts, isBroken)
	if isBroken {
		e.maas.Regions[1].Break(maastest.Fault{Deaf: true}) // or the next call would start its proxy
		e.maas.Regions[1].StopProxy()
	}
	return e
}

// addHosts has others say how they are, the last of which have their troubles in a broken estate.
func (e *estate) addHosts(t *testing.T, hosts int, isBroken bool) {
	t.Helper()
	store, now := certstore.NewFileStore(world.OS{}, filepath.Join(e.dir, "state", "store")), time.Now().Add(age)
	own, _, err := certstore.LoadNode(t.Context(), store, "region1")
	require.NoError(t, err)
	for n := 2; n <= hosts; n++ {
		require.NoError(t, certstore.UpdateNode(t.Context(), store, fmt.Sprintf("region%d", n), func(node *certstore.Node) {
			served := 1
			node.Version, node.Wishes, node.OK, node.LastPass = own.Version, own.Wishes, true, now.Add(-time.Duration(n)*31*time.Minute)
			node.Targets = []certstore.NodeTarget{{Certificate: "maas", Name: "haproxy", Version: &served}}
			switch {
			case isBroken && n == hosts:
				node.OK, served = false, 0
			case isBroken && n == hosts-1:
				node.LastPass = now.Add(-50 * time.Hour)
			case isBroken && n == hosts-2:
				node.ClockSkewMS = 300_000
			}
			node.LastRun = node.LastPass
		}))
	}
}

// program is the real program on a host of an estate, at the time of the estate.
func (e *estate) program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := program(t.Context(), t, e.site, args...)
	cmd.Env = append(os.Environ(), "CLOCK_AHEAD="+age.String())
	return cmd
}
