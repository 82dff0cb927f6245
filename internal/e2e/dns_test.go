//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore/certtest"
	"maascert/internal/loopback"
	"maascert/maasconfig/maastest"
)

// bind runs a primary and a secondary name server on port 53 of two addresses, and returns the primary's folder.
func bind(t *testing.T, primary, secondary string) {
	t.Helper()
	named := program(t, "named")
	zone := `$TTL 2
@ IN SOA ns1 root 1 3600 60 86400 1
@ IN NS ns1
@ IN NS ns2
ns1 IN A %s
ns2 IN A %s
maas IN A 127.0.0.1
`
	for _, one := range []struct{ address, zone string }{
		{primary, `zone "%[1]s" { type primary; file "%[1]s"; allow-update { key "maascert."; }; also-notify { ` + secondary + `; }; notify explicit; };`},
		{secondary, `zone "%[1]s" { type secondary; file "%[1]s"; primaries { ` + primary + `; }; };`},
	} {
		// Named listens only on addresses that an interface has.
		out, err := exec.Command(program(t, "ip"), "address", "add", one.address+"/8", "dev", "lo").CombinedOutput()
		require.NoError(t, err, string(out))
		// Named leaves root's rights behind, so its folder is where anybody may go.
		dir, err := os.MkdirTemp("/var/tmp", "maascert-e2e-")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
		zones := ""
		for _, name := range []string{"example.test", "delegated.test"} {
			zones += fmt.Sprintf(one.zone, name) + "\n"
			if one.address == primary {
				text := fmt.Sprintf(zone, primary, secondary)
				if name == "example.test" {
					text += "_acme-challenge.front IN CNAME front.delegated.test.\n"
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
			}
		}
		config := fmt.Sprintf(`key "maascert." { algorithm hmac-sha256; secret "%s"; };
options {
	directory "%s"; pid-file none; session-keyfile none; listen-on { %s; }; listen-on-v6 { none; };
	notify-delay 1; recursion yes; dnssec-validation no; empty-zones-enable no;
	query-source address %[3]s; transfer-source %[3]s; notify-source %[3]s;
};
controls { };
zone "." { type primary; file "root"; };
%s`, acmetest.Key, dir, one.address, zones)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "root"), []byte("$TTL 2\n@ IN SOA . . 1 3600 60 86400 1\n@ IN NS ns.\nns IN A 127.0.0.2\n"), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "named.conf"), []byte(config), 0o644))
		start(t, nil, named, "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	}
	for _, address := range []string{primary, secondary} {
		require.Eventually(t, func() bool { return len(lookup(t, address, "ns2.example.test.", dns.TypeA)) == 1 }, 30*time.Second, 50*time.Millisecond, address)
		require.Eventually(t, func() bool { return len(lookup(t, address, "ns2.delegated.test.", dns.TypeA)) == 1 }, 30*time.Second, 50*time.Millisecond, address)
	}
}

func lookup(t *testing.T, address, name string, qtype uint16) []dns.RR {
	t.Helper()
	answer, err := dns.Exchange(new(dns.Msg).SetQuestion(name, qtype), net.JoinHostPort(address, "53"))
	if err != nil {
		return nil
	}
	return answer.Answer
}

// pebble runs Pebble as a program and returns its directory, the root of that, and the root that it issues from.
func pebble(t *testing.T, resolver string, env ...string) (directory string, root, issuer []byte) {
	t.Helper()
	dir := t.TempDir()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue("ec256", 0, time.Hour, "127.0.0.1", "localhost")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), bundle.FullChainPEM(), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), bundle.KeyPEM(), 0o600))
	port, err := loopback.Port()
	require.NoError(t, err)
	manage, err := loopback.Port()
	require.NoError(t, err)
	address := "127.0.0.1:" + strconv.Itoa(port)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": address, "managementListenAddress": "127.0.0.1:" + strconv.Itoa(manage),
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"), "httpPort": 80, "tlsPort": 443,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"short": map[string]any{"description": "a day", "validityPeriod": 86400}},
	}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	start(t, env, tool(t, "pebble"), "-strict", "-dnsserver", resolver, "-config", filepath.Join(dir, "config.json"))
	directory = "https://" + address + "/dir"
	root = authority.RootPEM()
	wait(t, directory, root)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: acmetest.Pool(root)}}}
	resp, err := client.Get("https://127.0.0.1:" + strconv.Itoa(manage) + "/roots/0")
	require.NoError(t, err)
	defer resp.Body.Close()
	issuer, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	return directory, root, issuer
}

// BIND with two servers and signed updates, Pebble as strict and as fussy as it can be: a wildcard, its base name, and a
// name whose CNAME leads into another zone.
func TestBIND(t *testing.T) {
	const primary, secondary = "127.0.0.2", "127.0.0.3"
	if !isolated(t, primary) {
		return
	}
	bind(t, primary, secondary)
	directory, root, issuer := pebble(t, primary+":53", "PEBBLE_WFE_NONCEREJECT=30", "PEBBLE_VA_SLEEPTIME=2", "PEBBLE_AUTHZREUSE=0", "PEBBLE_CHAIN_LENGTH=2")
	s := &site{dir: t.TempDir(), root: issuer}
	s.maas = maastest.New(t, maastest.Options{Dir: s.dir, Nginx: program(t, "nginx")})
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "root.pem"), root, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "tsig"), []byte(acmetest.Key), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer.pem"), s.root, 0o644))
	text := fmt.Sprintf(`state_dir: state
acme:
  directory: %s
  root: root.pem
  issuer_root: issuer.pem
  accept_terms: true
  profile: short
  challenge:
    type: dns-01
    dns:
      provider: rfc2136
      settings: {RFC2136_NAMESERVER: %q, RFC2136_TSIG_KEY: maascert., RFC2136_TSIG_ALGORITHM: hmac-sha256.}
      secrets: {RFC2136_TSIG_SECRET: "file:tsig"}
certificates:
  - {name: maas, names: ["*.example.test", example.test, maas.example.test, front.example.test], key_type: rsa2048}
targets:
  maas: {endpoints: [%s], verify_timeout: 30s}
maas: {command: %q, http_dir: %q, stage_dir: stage, version: 3.7.3}
`, directory, primary+":53", strings.Join(s.maas.Endpoints(), ", "), s.maas.Command, s.maas.Regions[0].HTTPDir)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o640))
	noRecord := func() {
		for _, name := range []string{"_acme-challenge.example.test.", "_acme-challenge.maas.example.test.", "front.delegated.test."} {
			require.Empty(t, lookup(t, primary, name, dns.TypeTXT), name)
		}
	}
	s.run(t, 0, "check")
	s.run(t, 0, "renew", "--dry-run", "--enable-tls")
	noRecord()
	s.run(t, 0, "renew", "--enable-tls")
	noRecord()
	s.run(t, 0, "verify")

	// Ended in the middle, at any moment: no record stays.
	for after := 50 * time.Millisecond; after < 3*time.Second; after += 250 * time.Millisecond {
		cmd := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "renew", "--force")
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		time.AfterFunc(after, func() {
			// It may have ended by itself.
			_ = cmd.Process.Signal(syscall.SIGTERM)
			close(ended)
		})
		<-ended
		begun := time.Now()
		// The exit code is looked at below.
		_ = cmd.Wait()
		require.Less(t, time.Since(begun), time.Second, "after %v", after)
		require.Contains(t, []int{0, 3, 130}, cmd.ProcessState.ExitCode(), "after %v", after)
		noRecord()
	}
	s.run(t, 0, "renew")
}
