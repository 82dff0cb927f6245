//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore/postgres/postgrestest"
	"maascert/internal/fleettest"
)

// ansible-lint finds nothing in the role and its playbooks.
func TestTheAnsibleRoleIsAsItShouldBe(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(program(t, "ansible-lint"), "--offline", "--nocolor", "--profile", "production", "-q", filepath.Join(project(t), "examples", "ansible"))
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// recap is Ansible's last line about a host.
var recap = regexp.MustCompile(`ok=(\d+) +changed=(\d+) +unreachable=0 +failed=0 `)

// play runs a playbook of the examples on one host of the inventory, and tells how much it changed there.
func (d *debian) play(host, playbook string, options ...string) (changed string) {
	d.Helper()
	said := d.must(fmt.Sprintf("cd %s/ansible && ansible-playbook -c local -i inventory.yaml -l %s %s %s", d.shared, host, strings.Join(options, " "), playbook))
	found := recap.FindStringSubmatch(said)
	require.NotNil(d, found, said)
	return found[2]
}

// withRole gives machines the examples' role and today's package.
func withRole(t *testing.T, shared string) {
	t.Helper()
	require.NoError(t, os.CopyFS(filepath.Join(shared, "ansible"), os.DirFS(filepath.Join(project(t), "examples", "ansible"))))
	in(t, "/", "cp", builtPackage(t, "amd64"), filepath.Join(shared, "ansible", "maascert_amd64.deb"))
}

// The playbooks of the examples, on machines on which nothing of maascert is yet: one region host, and two that share a store. The
// first run does all that is to be done, the second changes nothing.
func TestTheAnsibleRoleRunsTwice(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestTheAnsibleRoleRunsTwice$", "-test.v", "-test.timeout", "15m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	resolver := startResolver(t)
	for _, kind := range []string{"single", "fleet"} {
		t.Run(kind, func(t *testing.T) {
			shared, self := newShared(t)
			maas := startRegions(t, shared, self)
			ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
			ca.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
			for _, names := range []*acmetest.DNS{ca.DNS, resolver} {
				require.NoError(t, names.Set("region2.example.internal. 60 IN A "+regionAddresses[1]))
			}
			withRole(t, shared)
			dir := filepath.Join(shared, "ansible")
			require.NoError(t, os.WriteFile(filepath.Join(dir, "root_ca.crt"), slices.Concat(ca.DirectoryRoot(), ca.Root(0)), 0o644))
			// The example's, with what is elsewhere here.
			text, err := os.ReadFile(filepath.Join(dir, kind+".inventory.yaml"))
			require.NoError(t, err)
			inventory := strings.NewReplacer(
				"https://ca.example.internal/acme/acme/directory", ca.Directory+"\n        accept_terms: true",
				", region3.example.internal]", "]",
				"endpoints: [10.0.0.11]", "endpoints: [10.0.0.11, 10.0.0.12]", ", 10.0.0.13]", "]",
			).Replace(string(text))
			var hosts []string
			if kind == "fleet" {
				database := postgrestest.Start(t)
				inventory = strings.NewReplacer("{{ vault_maascert_database_url }}", database.URL(), "{{ vault_maascert_seal }}", strings.Repeat("seal", 8),
					"      db_ca.crt: \"{{ lookup('ansible.builtin.file', 'db_ca.crt') }}\"\n", "", "    region3.example.internal:\n", "",
					"    region1.example.internal:\n", "    region1.example.internal: {address: 10.0.0.11}\n", "    region2.example.internal:\n", "    region2.example.internal: {address: 10.0.0.12}\n",
					"      node:", "      listen: \"{{ address }}:9543\"\n      node:",
					"accept_terms: true", "accept_terms: true\n        challenge: {type: http-01, listen: \"{{ address }}:80\"}",
				).Replace(inventory)
				hosts = []string{"region1.example.internal", "region2.example.internal"}
			} else {
				hosts = []string{"region1.example.internal"}
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "inventory.yaml"), []byte(inventory), 0o644))
			var machines []*debian
			for n := range hosts {
				d := newDebian(t, shared)
				d.must(asSnap(maas, n))
				require.NoError(t, d.start(), "the role has systemd start the unit")
				machines = append(machines, d)
			}
			first := "-e maascert_enable_tls=true"
			if kind == "fleet" { // Ansible makes the first play on all hosts before the second
				for n, d := range machines {
					require.NotEqual(t, "0", d.play(hosts[n], kind+".yaml", first, "--skip-tags renew"))
				}
			}
			for n, d := range machines {
				changed := d.play(hosts[n], kind+".yaml", first)
				if n == 0 {
					require.NotEqual(t, "0", changed)
				}
			}
			for n, d := range machines {
				require.Equal(t, "0", d.play(hosts[n], kind+".yaml"), "once more")
				require.Equal(t, "active", d.must("systemctl is-active maascert"))
				d.isEnabled("enabled")
				require.Contains(t, d.must("maascert status"), "version 1")
			}
			require.Len(t, ca.Issued(), 1, "one certificate for all")
		})
	}
}
