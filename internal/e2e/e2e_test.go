//go:build e2e

// Package e2e runs the built maascert with real CAs, step-ca and Caddy, onto a simulated MAAS whose regions have a real
// nginx each, with each real proxy that answers challenges by the snippet that maascert prints for it, and with a real
// Prometheus. What Makefile says that it needs and is missing is a failure, never a skip. Everything listens on the loopback or in a
// network namespace of its own.
package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/internal/loopback"
	"maascert/maasconfig/maastest"
)

func TestMain(m *testing.M) {
	maastest.Main()
	os.Exit(m.Run())
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv("MAASCERT_E2E_TOOLS"), name)
	require.FileExists(t, path, "make e2e installs it")
	return path
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "Debian has it: apt-get install %s", name)
	return path
}

// start runs a server until the test ends.
func start(t *testing.T, env []string, name string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), filepath.Base(name)+".log"))
	require.NoError(t, err)
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		// It may have ended by itself.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			if extra, err := os.ReadFile(filepath.Join(filepath.Dir(args[len(args)-1]), "error.log")); err == nil {
				t.Logf("error.log:\n%s", extra)
			}
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", filepath.Base(name), text)
		}
	})
	return stop
}

// site is a MAAS with real proxies, and a configuration for a CA.
type site struct {
	dir  string
	maas *maastest.Deployment
	root []byte
}

// newSite makes one. All names lead to the first region, where challenges are answered on a port.
func newSite(t *testing.T, directory string, root []byte, resolver *acmetest.DNS, challenge int) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), root: root}
	s.maas = maastest.New(t, maastest.Options{Dir: s.dir, Nginx: program(t, "nginx")})
	region1 := s.maas.Regions[0].Address.String()
	resolver.Point(s.maas.Regions[0].Address)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "root.pem"), root, 0o644))
	endpoints := strings.Join(s.maas.Endpoints(), ", ")
	text := fmt.Sprintf(`node: region1
state_dir: state
resolvers: [%q]
acme:
  directory: %s
  root: root.pem
  challenge: {type: http-01, listen: %q}
certificates:
  - {name: maas, names: [maas.example.test, region1.example.test, %s], key_type: rsa3072}
targets:
  maas: {endpoints: [%s], verify_timeout: 30s}
maas: {command: %q, http_dir: %q, stage_dir: stage, version: 3.7.3}
`, resolver.Address, directory, net.JoinHostPort(region1, strconv.Itoa(challenge)), region1, endpoints, s.maas.Command, s.maas.Regions[0].HTTPDir)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o640))
	return s
}

func (s *site) run(t *testing.T, want int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	binary := os.Getenv("MAASCERT_E2E_BINARY")
	require.FileExists(t, binary)
	cmd := exec.CommandContext(ctx, binary, append([]string{"--config", filepath.Join(s.dir, "maascert.yaml")}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	// The exit code says it all.
	_ = cmd.Run()
	t.Logf("maascert %s (%.2f s)\n%s", strings.Join(args, " "), time.Since(begun).Seconds(), out.String())
	require.Equal(t, want, cmd.ProcessState.ExitCode())
	return out.String()
}

// served is the leaf that every region serves to a client that trusts the root, under a DNS name and under the address.
func (s *site) served(t *testing.T) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	for _, region := range s.maas.Regions {
		for _, name := range []string{"maas.example.test", "region1.example.test", s.maas.Regions[0].Address.String()} {
			conn, err := tls.Dial("tcp", net.JoinHostPort(region.Address.String(), "5443"), &tls.Config{
				ServerName: name, RootCAs: acmetest.Pool(s.root),
			})
			require.NoError(t, err, "a client that trusts only the root")
			state := conn.ConnectionState()
			require.NoError(t, conn.Close())
			require.GreaterOrEqual(t, len(state.PeerCertificates), 2, "the chain is sent")
			if leaf != nil {
				require.True(t, leaf.Equal(state.PeerCertificates[0]), "every region serves the same")
			}
			leaf = state.PeerCertificates[0]
		}
	}
	return leaf
}

// mainJob is what every CA must make possible.
func (s *site) mainJob(t *testing.T) {
	s.run(t, 0, "check")
	require.Contains(t, s.run(t, 0, "renew", "--dry-run", "--enable-tls"), "the CA proved every name and issued nothing")
	require.Empty(t, s.maas.Calls())
	s.run(t, 1, "renew")
	s.run(t, 0, "renew", "--enable-tls")
	first := s.served(t)
	require.Empty(t, first.Subject.CommonName)
	require.Len(t, first.IPAddresses, 1)
	s.run(t, 0, "verify")
	require.Contains(t, s.run(t, 0, "renew"), "nothing to do")
	require.Contains(t, s.run(t, 0, "renew", "--dry-run"), "change nothing (it is not due")
	s.run(t, 0, "renew", "--force")
	second := s.served(t)
	require.False(t, first.Equal(second))
	require.Len(t, s.maas.Calls(), 2)
	var status struct {
		Healthy      bool
		Certificates []struct{ Fingerprint string }
	}
	require.NoError(t, json.Unmarshal([]byte(s.run(t, 0, "status", "--json")), &status))
	require.True(t, status.Healthy)
	require.Equal(t, certstore.Fingerprint(second), status.Certificates[0].Fingerprint)
}

// wait waits until a server answers, whose certificate has a root, or that has none.
func wait(t *testing.T, url string, root []byte) {
	t.Helper()
	client := &http.Client{Timeout: time.Second}
	if len(root) > 0 {
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: acmetest.Pool(root)}}
	}
	require.Eventually(t, func() bool {
		resp, err := client.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, time.Minute, 50*time.Millisecond, url)
}

func TestStepCA(t *testing.T) {
	resolver, err := acmetest.StartDNS(0)
	require.NoError(t, err)
	t.Cleanup(resolver.Stop)
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte("for this test only"), 0o600))
	port, err := loopback.Port()
	require.NoError(t, err)
	challenge, err := loopback.Port()
	require.NoError(t, err)
	address := "127.0.0.1:" + strconv.Itoa(port)
	env := []string{"STEPPATH=" + dir}
	initialize := exec.Command(tool(t, "step"), "ca", "init", "--name", "e2e", "--dns", "127.0.0.1", "--address", address,
		"--provisioner", "admin", "--password-file", password, "--deployment-type", "standalone", "--acme")
	initialize.Env = append(os.Environ(), env...)
	out, err := initialize.CombinedOutput()
	require.NoError(t, err, string(out))
	alpn, err := loopback.Port()
	require.NoError(t, err)
	addProvisioners(t, filepath.Join(dir, "config", "ca.json"))
	start(t, env, tool(t, "step-ca"), filepath.Join(dir, "config", "ca.json"), "--password-file", password,
		"--resolver", resolver.Address, "--insecure", "--acme-http-port", strconv.Itoa(challenge), "--acme-tls-port", strconv.Itoa(alpn))
	root, err := os.ReadFile(filepath.Join(dir, "certs", "root_ca.crt"))
	require.NoError(t, err)
	directory := "https://" + address + "/acme/acme/directory"
	wait(t, directory, root)
	s := newSite(t, directory, root, resolver, challenge)
	s.mainJob(t)

	// It can revoke, and it cannot change an account's key: the account is replaced.
	require.Contains(t, s.run(t, 0, "revoke"), "the CA revoked version 2")
	require.Contains(t, s.run(t, 0, "account", "rollover"), "has a new account with the new key")
	s.run(t, 0, "renew", "--force")

	// A lifetime of an hour, proven by tls-alpn-01: renewed after half of it.
	s.edit(t, "/acme/acme/directory", "/acme/hourly/directory")
	require.Contains(t, s.run(t, 1, "renew"), "its key belongs to another provisioner")
	require.Contains(t, s.run(t, 0, "account", "rollover"), "has a new account with the new key")
	s.edit(t, "type: http-01, listen: ", "type: tls-alpn-01, listen: ", ":"+strconv.Itoa(challenge), ":"+strconv.Itoa(alpn))
	require.Contains(t, s.run(t, 0, "renew", "--force"), "obtained version 5")
	left := time.Until(s.served(t).NotAfter)
	require.InDelta(t, time.Hour, left, float64(5*time.Minute))
	var status struct {
		Certificates []struct {
			RenewAt time.Time `json:"renew_at"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.run(t, 0, "status", "--json")), &status))
	require.WithinDuration(t, time.Now().Add(30*time.Minute), status.Certificates[0].RenewAt, 5*time.Minute)

	// Accounts that have to be bound: told before anything is tried, and a rehearsal binds nothing.
	s.edit(t, "/acme/hourly/directory", "/acme/bound/directory", "state_dir: state", "state_dir: another")
	require.Contains(t, s.run(t, 1, "check"), "the CA registers only accounts that are bound to an external one (EAB)")
	require.Contains(t, s.run(t, 0, "renew", "--dry-run"), "the CA was asked for nothing")
	require.Contains(t, s.run(t, 1, "renew"), "set acme.eab to what the CA's operator gave you")
}

// addProvisioners gives step-ca one whose certificates last an hour, and one that wants accounts to be bound.
func addProvisioners(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(text, &config))
	authority := config["authority"].(map[string]any)
	authority["provisioners"] = append(authority["provisioners"].([]any),
		map[string]any{"type": "ACME", "name": "hourly", "claims": map[string]any{"minTLSCertDuration": "5m", "defaultTLSCertDuration": "1h", "maxTLSCertDuration": "1h"}},
		map[string]any{"type": "ACME", "name": "bound", "requireEAB": true})
	text, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
}

// edit replaces texts of the configuration.
func (s *site) edit(t *testing.T, texts ...string) {
	t.Helper()
	path := filepath.Join(s.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := 0; i < len(texts); i += 2 {
		require.Contains(t, string(text), texts[i])
		text = bytes.ReplaceAll(text, []byte(texts[i]), []byte(texts[i+1]))
	}
	require.NoError(t, os.WriteFile(path, text, 0o640))
}

// isolated runs a test in a network namespace of its own, where every port of the loopback is free and one address is the
// resolver. It returns true inside; outside the test is over then.
func isolated(t *testing.T, resolver string) bool {
	const inside = "MAASCERT_E2E_INSIDE"
	if os.Getenv(inside) != "" {
		return true
	}
	name := fmt.Sprintf("maascert-e2e-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	ip := program(t, "ip")
	run := func(args ...string) {
		out, err := exec.Command(ip, args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	run("netns", "add", name)
	t.Cleanup(func() { run("netns", "delete", name) })
	run("netns", "exec", name, ip, "link", "set", "lo", "up")
	etc := filepath.Join("/etc/netns", name)
	require.NoError(t, os.MkdirAll(etc, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(etc)) })
	require.NoError(t, os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver "+resolver+"\n"), 0o644))
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), ip, "netns", "exec", name, self, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	return false
}

// Caddy validates on port 80 and with the system's resolver.
func TestCaddy(t *testing.T) {
	if !isolated(t, "127.0.0.1") {
		return
	}
	resolver, err := acmetest.StartDNS(53)
	require.NoError(t, err)
	t.Cleanup(resolver.Stop)
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `{
	admin off
	skip_install_trust
	auto_https disable_redirects
	storage file_system %s
}
https://ca.example.test:8443 {
	tls internal
	acme_server
}
`, dir), 0o600))
	start(t, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, tool(t, "caddy"), "run", "--config", file, "--adapter", "caddyfile")
	rootFile := filepath.Join(dir, "pki", "authorities", "local", "root.crt")
	require.Eventually(t, func() bool {
		root, err := os.ReadFile(rootFile)
		return err == nil && bytes.Contains(root, []byte("END CERTIFICATE"))
	}, time.Minute, 50*time.Millisecond)
	root, err := os.ReadFile(rootFile)
	require.NoError(t, err)
	directory := "https://ca.example.test:8443/acme/local/directory"
	wait(t, directory, root)
	s := newSite(t, directory, root, resolver, 80)
	s.mainJob(t)
}
