// Package vaulttest starts HashiCorp Vault for tests: Vault's own core, on a free loopback address, with a KV store of version 2 and a role for
// maascert. It can be sealed, unsealed, and stopped and started again with what it holds.
package vaulttest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// T is a test, or another program that ends like one.
type T interface {
	require.TestingT
	Helper()
	Cleanup(func())
}

// Where the role keeps its keys.
const (
	Mount = "secret"
	Path  = "maascert"
)

// Server is a Vault.
type Server struct {
	Address string         // its URL
	Roots   *x509.CertPool // that its certificate leads to
	RootPEM []byte         // the same
	RoleID  string
	Root    *api.Client // with all rights

	t         T
	pair      tls.Certificate
	dir       string
	cmd       *exec.Cmd
	unsealKey string

	mu       sync.Mutex
	secretID string
}

// Start starts one on the loopback that is unsealed, with a role whose tokens last for tokenTTL. The server is a program of its own, which
// MAASCERT_E2E_TOOLS names the folder of.
func Start(t T, tokenTTL time.Duration) *Server {
	t.Helper()
	return StartAt(t, tokenTTL, "127.0.0.1")
}

// StartAt starts one at an address.
func StartAt(t T, tokenTTL time.Duration, host string) *Server {
	t.Helper()
	s := &Server{t: t}
	var err error
	s.dir, err = os.MkdirTemp("", "vault")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	pair, err := authority.Issue(certstore.EC256, 0, 24*time.Hour, "127.0.0.1", host)
	require.NoError(t, err)
	s.RootPEM, s.Roots = authority.RootPEM(), authority.Pool()
	s.pair, err = tls.X509KeyPair(pair.FullChainPEM(), pair.KeyPEM())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "cert.pem"), pair.FullChainPEM(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "key.pem"), pair.KeyPEM(), 0o600))
	s.Up(host + ":0")
	t.Cleanup(s.Down)

	ctx := context.Background()
	made, err := s.Root.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	require.NoError(t, err)
	s.unsealKey = made.Keys[0]
	s.Root.SetToken(made.RootToken)
	s.Unseal()
	require.NoError(t, s.Root.Sys().MountWithContext(ctx, Mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	require.NoError(t, s.Root.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}))
	s.Role("maascert", tokenTTL)
	require.Eventually(t, func() bool { // the store upgrades itself first
		_, err := s.Root.KVv2(Mount).Put(ctx, "begin", map[string]any{"key": "value"})
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, s.Root.KVv2(Mount).DeleteMetadata(ctx, "begin"))
	return s
}

// Policy is the one of the examples.
func Policy(t T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if text, err := os.ReadFile(filepath.Join(dir, "examples", "vault", "policy.hcl")); err == nil {
			return string(text)
		}
		require.NotEqual(t, "/", dir, "there is no examples/vault/policy.hcl")
		dir = filepath.Dir(dir)
	}
}

// Role makes the role that maascert logs in as, with the policy of the examples.
func (s *Server) Role(name string, tokenTTL time.Duration) {
	s.t.Helper()
	ctx := context.Background()
	require.NoError(s.t, s.Root.Sys().PutPolicyWithContext(ctx, name, Policy(s.t)))
	_, err := s.Root.Logical().WriteWithContext(ctx, "auth/approle/role/"+name, map[string]any{
		"token_policies": name, "token_ttl": tokenTTL.String(), "token_max_ttl": (2 * tokenTTL).String(),
	})
	require.NoError(s.t, err)
	read, err := s.Root.Logical().ReadWithContext(ctx, "auth/approle/role/"+name+"/role-id")
	require.NoError(s.t, err)
	s.RoleID = read.Data["role_id"].(string)
	s.NewSecretID()
}

// RevokeTokens has every token of the role end.
func (s *Server) RevokeTokens() {
	s.t.Helper()
	_, err := s.Root.Logical().WriteWithContext(context.Background(), "sys/leases/revoke-prefix/auth/approle/login", nil)
	require.NoError(s.t, err)
}

// Intercept opens another way to the server, on which a function has each request and hands it on as it likes. It returns the URL there.
func (s *Server) Intercept(t T, serve func(w http.ResponseWriter, r *http.Request, next http.Handler)) (address string) {
	t.Helper()
	at, err := url.Parse(s.Address)
	require.NoError(t, err)
	next := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(at) },
		Transport:    &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12}},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as when it is away
	}
	way := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, next) }))
	way.TLS = &tls.Config{Certificates: []tls.Certificate{s.pair}, MinVersion: tls.VersionTLS12}
	way.Config.ErrorLog = log.New(io.Discard, "", 0)
	way.StartTLS()
	t.Cleanup(way.Close)
	return way.URL
}

// NewSecretID makes another secret_id, and takes the ones before away.
func (s *Server) NewSecretID() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := context.Background()
	const at = "auth/approle/role/maascert/secret-id"
	if s.secretID != "" {
		_, err := s.Root.Logical().WriteWithContext(ctx, at+"/destroy", map[string]any{"secret_id": s.secretID})
		require.NoError(s.t, err)
	}
	made, err := s.Root.Logical().WriteWithContext(ctx, at, nil)
	require.NoError(s.t, err)
	s.secretID = made.Data["secret_id"].(string)
}

// SecretID is the one that is good now.
func (s *Server) SecretID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secretID
}

// Seal seals it: it answers, and lets nobody at anything.
func (s *Server) Seal() { require.NoError(s.t, s.Root.Sys().SealWithContext(context.Background())) }

// Unseal ends that.
func (s *Server) Unseal() {
	s.t.Helper()
	_, err := s.Root.Sys().UnsealWithContext(context.Background(), s.unsealKey)
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		health, err := s.Root.Sys().HealthWithContext(context.Background())
		return err == nil && !health.Sealed && !health.Standby
	}, 20*time.Second, 20*time.Millisecond)
}

// Restart stops it, and starts it again where it was; it is sealed then.
func (s *Server) Restart() {
	s.t.Helper()
	s.Down()
	s.Up(strings.TrimPrefix(s.Address, "https://"))
}

// Up starts it.
func (s *Server) Up(listen string) {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(os.Getenv("MAASCERT_E2E_TOOLS"), "vault"), "-listen", listen, "-dir", filepath.Join(s.dir, "store"),
		"-cert", filepath.Join(s.dir, "cert.pem"), "-key", filepath.Join(s.dir, "key.pem"))
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := s.cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, s.cmd.Start())
	address, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(s.t, err)
	s.Address = "https://" + strings.TrimSpace(address)
	token := ""
	if s.Root != nil {
		token = s.Root.Token()
	}
	s.Root, err = api.NewClient(&api.Config{
		Address: s.Address, HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12}}},
	})
	require.NoError(s.t, err)
	s.Root.SetToken(token)
}

// Down stops it.
func (s *Server) Down() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}
