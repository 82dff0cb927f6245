//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// named is a region's real name server, which MAAS writes zone files for and has read them again.
type named struct {
	dir     string
	process *os.Process
}

// startNamed starts one on a region's address, without zones yet.
func startNamed(t *testing.T, address string) (*named, error) {
	out, err := exec.Command(program(t, "ip"), "address", "add", address+"/8", "dev", "lo").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	// Named leaves root's rights behind, so its folder is where anybody may go.
	dir, err := os.MkdirTemp("/var/tmp", "maascert-e2e-")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	config := fmt.Sprintf(`options {
	directory "%s"; pid-file none; session-keyfile none; listen-on { %s; }; listen-on-v6 { none; };
	recursion yes; dnssec-validation no; empty-zones-enable no; query-source address %[2]s;
};
controls { };
zone "." { type primary; file "root"; };
include "%[1]s/zones.conf";
`, dir, address)
	for name, text := range map[string]string{"named.conf": config, "zones.conf": "", "root": "$TTL 2\n@ IN SOA . . 1 3600 60 86400 1\n@ IN NS ns.\nns IN A 127.0.0.2\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program(t, "named"), "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	log, err := os.Create(filepath.Join(t.TempDir(), "named.log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		// It may have ended by itself.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("named of %s said:\n%s", address, text)
		}
	})
	// Before it answers, a signal would end it.
	require.Eventually(t, func() bool { return len(lookup(t, address, ".", dns.TypeSOA)) == 1 }, 30*time.Second, 20*time.Millisecond, address)
	return &named{dir, cmd.Process}, nil
}

func (n *named) Publish(zones map[string]string) error {
	config := ""
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		if err := os.WriteFile(filepath.Join(n.dir, zone), []byte(zones[zone]), 0o644); err != nil {
			return err
		}
		config += fmt.Sprintf("zone %q { type primary; file %[1]q; };\n", zone)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "zones.conf"), []byte(config), 0o644); err != nil {
		return err
	}
	return n.process.Signal(syscall.SIGHUP)
}

// maasZone is a deployment whose regions publish a zone by their own name servers, and a configuration that proves names in it.
func maasZone(t *testing.T, version maasconfig.Version, poll time.Duration) (*site, []*named) {
	t.Helper()
	s := &site{dir: t.TempDir()}
	var servers []*named
	s.maas = maastest.New(t, maastest.Options{Dir: s.dir, Version: version, PollZones: poll, NameServer: func(region *maastest.Region) (maastest.NameServer, error) {
		one, err := startNamed(t, region.Address.String())
		servers = append(servers, one)
		return one, err
	}})
	s.maas.AddDomain("example.internal", true)
	for i, region := range s.maas.Regions {
		s.maas.AddHost(fmt.Sprintf("region%d", i+1), "example.internal", region.Address)
	}
	for _, region := range s.maas.Regions {
		require.Eventually(t, func() bool {
			return len(lookup(t, region.Address.String(), "region3.example.internal.", dns.TypeA)) == 1
		}, 30*time.Second, 50*time.Millisecond)
	}
	resolver := net.JoinHostPort(s.maas.Regions[0].Address.String(), "53")
	directory, root, issuer := pebble(t, resolver, "PEBBLE_VA_SLEEPTIME=1", "PEBBLE_AUTHZREUSE=0")
	s.root = issuer
	for name, text := range map[string]string{"root.pem": string(root), "issuer.pem": string(issuer), "api.key": s.maas.APIKey("admin", true)} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	text := fmt.Sprintf(`state_dir: state
resolvers: [%q]
acme:
  directory: %s
  root: root.pem
  issuer_root: issuer.pem
  accept_terms: true
  challenge: {type: dns-01, dns: {provider: maas}}
certificates:
  - {name: maas, names: ["*.example.internal", region1.example.internal, region2.example.internal, region3.example.internal], key_type: rsa2048}
targets:
  maas: {verify_timeout: 30s}
maas: {command: %q, http_dir: %q, stage_dir: stage, networks: [127.0.0.0/8], api: {url: "http://%s:5240/MAAS", key: "file:api.key"}}
`, resolver, directory, s.maas.Command, s.maas.Regions[0].HTTPDir, s.maas.Regions[0].Address)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o640))
	return s, servers
}

func (s *site) requireNoRecord(t *testing.T, when string) {
	t.Helper()
	require.Empty(t, s.maas.Records(), when)
}

// killWhile forces a renewal and kills it as soon as something is so.
func (s *site) killWhile(t *testing.T, isSo func() bool) {
	t.Helper()
	cmd := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "renew", "--force")
	require.NoError(t, cmd.Start())
	require.Eventually(t, isSo, 30*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.True(t, isSo())
}

// A wildcard and the regions' names by MAAS's own DNS: the API as the real one answers, BIND on every region, Pebble. Killed anywhere, no
// record stays after the next pass. What a region does once a minute, these do each second.
func TestMAASDNS(t *testing.T) {
	if !isolated(t, "127.0.0.2") {
		return
	}
	s, servers := maasZone(t, maasconfig.Version{Major: 3, Minor: 7, Patch: 3}, time.Second)
	s.run(t, 0, "check")
	s.run(t, 0, "renew", "--dry-run", "--enable-tls")
	s.requireNoRecord(t, "after a rehearsal")
	require.Contains(t, s.run(t, 0, "renew", "--enable-tls"), "obtained version 1")
	s.requireNoRecord(t, "after a renewal")
	s.run(t, 0, "verify")
	killed, left := 0, 0
	s.killWhile(t, func() bool { return len(s.maas.Records()) > 0 })
	s.run(t, 0, "renew")
	s.requireNoRecord(t, "killed while there were records")
	for after := 20 * time.Millisecond; after < 2200*time.Millisecond; after += 110 * time.Millisecond {
		cmd := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "renew", "--force")
		require.NoError(t, cmd.Start())
		timer := time.AfterFunc(after, func() {
			// It may have ended by itself.
			_ = cmd.Process.Kill()
		})
		if err := cmd.Wait(); err != nil {
			killed++
		}
		timer.Stop()
		if len(s.maas.Records()) > 0 {
			left++
		}
		s.run(t, 0, "renew")
		s.requireNoRecord(t, fmt.Sprintf("killed after %v", after))
	}
	t.Logf("%d runs were killed, %d of them left records behind, which the next pass took away", killed, left)
	for _, region := range s.maas.Regions {
		require.Eventually(t, func() bool {
			return len(lookup(t, region.Address.String(), "_acme-challenge.example.internal.", dns.TypeTXT)) == 0
		}, 30*time.Second, 50*time.Millisecond)
	}

	// A region whose BIND is silent is waited for, and then the others count: the order goes on.
	s.edit(t, "provider: maas", `provider: maas, settings: {MAAS_PROPAGATION_TIMEOUT: "5"}`)
	require.NoError(t, servers[2].process.Signal(syscall.SIGSTOP))
	s.run(t, 0, "renew", "--force")
	require.NoError(t, servers[2].process.Signal(syscall.SIGCONT))
	s.requireNoRecord(t, "with a silent region")
}

// Before 3.3 each change is published at once; from 3.3 to 3.6 a new record is published by nothing, which check says, and an order ends
// in time, without a record.
func TestMAASDNSOfOtherVersions(t *testing.T) {
	if !isolated(t, "127.0.0.2") {
		return
	}
	s, _ := maasZone(t, maasconfig.Version{Major: 3, Minor: 2, Patch: 9}, time.Minute)
	require.Contains(t, s.run(t, 0, "renew", "--enable-tls"), "obtained version 1")
	s.requireNoRecord(t, "3.2")

	s, _ = maasZone(t, maasconfig.Version{Major: 3, Minor: 4, Patch: 8}, time.Minute)
	require.Contains(t, s.run(t, 0, "check"), "MAAS 3.4.8 publishes a new TXT record only when something else makes it reload its zones")
	s.edit(t, "provider: maas", `provider: maas, settings: {MAAS_PROPAGATION_TIMEOUT: "3"}`)
	require.Contains(t, s.run(t, 1, "renew", "--enable-tls"), "after 3s the TXT record _acme-challenge.")
	s.requireNoRecord(t, "3.4")
}
