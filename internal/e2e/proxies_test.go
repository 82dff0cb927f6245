//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/loopback"
)

// front is a real proxy before MAAS, with the configuration of an example.
type front struct {
	kind    string
	address string // host:port
	target  string // of the configuration
	reload  []string
}

// startBackend answers as MAAS without TLS does: its page, and a WebSocket that says again what it hears.
func startBackend(t *testing.T, host netip.Addr) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host.String(), "5240"))
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/MAAS/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "MAAS by %s for %s", r.Header.Get("X-Forwarded-Proto"), r.Host)
	})
	mux.HandleFunc("/MAAS/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			return
		}
		accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 4.2.2
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(accept[:]))
		if err == nil {
			_, _ = io.Copy(conn, buffered) // until whoever asked goes away
		}
	})
	server := &http.Server{Handler: mux}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	return listener.Addr().String()
}

// startFront starts a real proxy with an example's configuration, at other places than the example's, and with a certificate that
// nobody trusts.
func startFront(t *testing.T, kind string, host netip.Addr, backend string) *front {
	t.Helper()
	dir := t.TempDir()
	f := &front{kind: kind, address: net.JoinHostPort(host.String(), "443")}
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.test")
	require.NoError(t, err)
	for name, text := range map[string][]byte{"maas.pem": slices.Concat(bundle.FullChainPEM(), bundle.KeyPEM()), "maas.key": bundle.KeyPEM()} {
		if kind != "haproxy" && name == "maas.pem" {
			text = bundle.FullChainPEM()
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	place := strings.NewReplacer("    bind 10.0.0.10:443 transparent ssl", "    # bind 10.0.0.10:443 transparent ssl", "10.0.0.11:443", f.address, "10.0.0.10:443", f.address, "10.0.0.11:5240", backend, "10.0.0.12:5240", backend, "10.0.0.10", host.String(),
		"/etc/haproxy/certs", dir, "/run/haproxy", dir, "/etc/nginx/ssl", dir, "/etc/apache2/ssl", dir, "maas.example.internal", "maas.example.test")
	name := map[string]string{"haproxy": "haproxy/termination.cfg", "nginx": "nginx/maas.conf", "apache": "apache/maas.conf"}[kind]
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	require.NoError(t, err)
	example := filepath.Join(dir, filepath.Base(name))
	require.NoError(t, os.WriteFile(example, []byte(place.Replace(string(text))), 0o600))
	check, run, files := f.configure(t, dir, example)
	start(t, nil, program(t, check[0]), run...)
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", f.address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, kind)
	f.target = fmt.Sprintf("  %s: {type: %s, %s, check: %s, reload: %s, verify_timeout: 30s, endpoints: [%q]}\n",
		kind, kind, files, words(check), words(f.reload), f.address)
	return f
}

// configure writes what an example needs around it, and returns how the proxy's configuration is tested, how it is started, and which
// files the target has.
func (f *front) configure(t *testing.T, dir, example string) (check, run []string, files string) {
	t.Helper()
	files = fmt.Sprintf("key: %[1]s/maas.key, fullchain: %[1]s/maas.pem", dir)
	switch f.kind {
	case "haproxy":
		f.reload = []string{"sh", "-c", "kill -USR2 $(cat " + filepath.Join(dir, "pid") + ")"}
		return []string{"haproxy", "-c", "-f", example}, []string{"-W", "-p", filepath.Join(dir, "pid"), "-f", example}, fmt.Sprintf("pem: %s/maas.pem", dir)
	case "nginx":
		main := filepath.Join(dir, "nginx.conf")
		require.NoError(t, os.WriteFile(main, fmt.Appendf(nil, `pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 1000; }
http {
    access_log off;
    client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
    include %[2]s;
}
`, dir, example), 0o600))
		f.reload = []string{"nginx", "-s", "reload", "-c", main}
		return []string{"nginx", "-t", "-c", main}, []string{"-g", "daemon off;", "-c", main}, files
	default:
		main := filepath.Join(dir, "apache2.conf")
		var modules strings.Builder
		for _, module := range []string{"mpm_event", "authz_core", "socache_shmcb", "ssl", "proxy", "proxy_http", "proxy_wstunnel", "rewrite", "headers"} {
			fmt.Fprintf(&modules, "LoadModule %[1]s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", module)
		}
		require.NoError(t, os.WriteFile(main, fmt.Appendf(nil, `ServerRoot %[1]s
DefaultRuntimeDir %[1]s
PidFile %[1]s/pid
ErrorLog %[1]s/error.log
ServerName localhost
User www-data
Group www-data
%[2]sListen %[3]s
Include %[4]s
`, dir, modules.String(), f.address, example), 0o600))
		f.reload = []string{"apache2", "-k", "graceful", "-f", main}
		return []string{"apache2", "-t", "-f", main}, []string{"-DFOREGROUND", "-f", main}, files
	}
}

// words is an argument list as YAML.
func words(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = fmt.Sprintf("%q", arg)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// socket is a WebSocket that is held open through a proxy.
type socket struct {
	conn   net.Conn
	reader *bufio.Reader
}

func openSocket(t *testing.T, address string, roots *x509.CertPool) *socket {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: "maas.example.test", RootCAs: roots, NextProtos: []string{"http/1.1"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	s := &socket{conn, bufio.NewReader(conn)}
	_, err = io.WriteString(conn, "GET /MAAS/ws HTTP/1.1\r\nHost: maas.example.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	response, err := http.ReadResponse(s.reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode, "the example's WebSocket path")
	return s
}

// says sends a text and expects it back.
func (s *socket) says(t *testing.T, kind, text string) {
	t.Helper()
	_, err := io.WriteString(s.conn, text)
	require.NoError(t, err, kind)
	require.NoError(t, s.conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	back := make([]byte, len(text))
	_, err = io.ReadFull(s.reader, back)
	require.NoError(t, err, "the WebSocket through %s was cut", kind)
	require.Equal(t, text, string(back))
}

// crowd is many clients that shake hands without pause, and trust nothing but the CA.
type crowd struct {
	mu       sync.Mutex
	shakes   map[string]int // by kind
	failures map[string][]string
	stop     chan struct{}
	group    sync.WaitGroup
}

func (c *crowd) shake(kind, address string, roots *x509.CertPool) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, &tls.Config{ServerName: "maas.example.test", RootCAs: roots})
	if err == nil {
		_ = conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shakes[kind]++
	if err != nil {
		c.failures[kind] = append(c.failures[kind], err.Error())
	}
}

// count is how many handshakes there were by kind, and how many of them failed; it begins anew.
func (c *crowd) count() (shakes map[string]int, failures map[string][]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	shakes, failures = c.shakes, c.failures
	c.shakes, c.failures = map[string]int{}, map[string][]string{}
	return shakes, failures
}

// startCrowd starts 64 clients of all endpoints.
func startCrowd(t *testing.T, endpoints [][2]string, roots *x509.CertPool) *crowd {
	t.Helper()
	c := &crowd{shakes: map[string]int{}, failures: map[string][]string{}, stop: make(chan struct{})}
	for i := range 64 {
		c.group.Go(func() {
			for n := i; ; n++ {
				select {
				case <-c.stop:
					return
				default:
					at := endpoints[n%len(endpoints)]
					c.shake(at[0], at[1], roots)
				}
			}
		})
	}
	return c
}

// startFronts starts a proxy of each kind before a backend, and adds them to a site's configuration.
func startFronts(t *testing.T, s *site, hosts []netip.Addr, backend string) []*front {
	t.Helper()
	var fronts []*front
	targets := ""
	for i, kind := range []string{"haproxy", "nginx", "apache"} {
		fronts = append(fronts, startFront(t, kind, hosts[i], backend))
		targets += fronts[i].target
	}
	path := filepath.Join(s.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	config := strings.Replace(string(text), "  challenge:", "  accept_terms: true\n  challenge:", 1)
	config = strings.Replace(config, "key_type: rsa3072", "key_type: ec256, targets: [maas, haproxy, nginx, apache]", 1)
	config = strings.Replace(config, "targets:\n", "targets:\n"+targets, 1)
	require.NoError(t, os.WriteFile(path, []byte(config), 0o640))
	return fronts
}

// Ten renewals under the hands of 64 clients, of a certificate that MAAS's regions, HAProxy, nginx and Apache serve: not one handshake
// fails, but for what bare reloads of Apache cost as well, and the WebSockets stay open.
func TestRotationUnderLoad(t *testing.T) {
	port, err := loopback.Port()
	require.NoError(t, err)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
	hosts, err := loopback.Hosts(4, 443, 5240)
	require.NoError(t, err)
	fronts := startFronts(t, s, hosts[:3], startBackend(t, hosts[3]))
	checked := s.run(t, 0, "check")
	require.NotContains(t, checked, "does not name", "the examples name the files")
	s.run(t, 0, "renew", "--enable-tls")

	roots := acmetest.Pool(ca.Root(0))
	var endpoints [][2]string
	for _, region := range s.maas.Regions {
		endpoints = append(endpoints, [2]string{"regions", net.JoinHostPort(region.Address.String(), "5443")})
	}
	sockets := map[string]*socket{}
	for _, f := range fronts {
		endpoints = append(endpoints, [2]string{f.kind, f.address})
		sockets[f.kind] = openSocket(t, f.address, roots)
		require.Equal(t, "MAAS by https for maas.example.test", getTLS(t, f.address, roots))
	}
	c := startCrowd(t, endpoints, roots)
	stop := sync.OnceFunc(func() {
		close(c.stop)
		c.group.Wait()
	})
	defer stop()

	apache := fronts[2]
	for range 10 {
		out, err := exec.Command(apache.reload[0], apache.reload[1:]...).CombinedOutput()
		require.NoError(t, err, string(out))
		time.Sleep(time.Second) // a bare reload says nothing of its end
	}
	shakes, bare := c.count()
	t.Logf("ten bare reloads of Apache: %v handshakes, Apache failed %d", shakes, len(bare["apache"]))
	for n := range 10 {
		s.run(t, 0, "renew", "--force")
		for kind, socket := range sockets {
			socket.says(t, kind, fmt.Sprintf("after renewal %d", n+1))
		}
	}
	stop()
	shakes, failures := c.count()
	t.Logf("ten renewals: %v handshakes, failures: regions %d, haproxy %d, nginx %d, apache %d",
		shakes, len(failures["regions"]), len(failures["haproxy"]), len(failures["nginx"]), len(failures["apache"]))
	for _, kind := range []string{"regions", "haproxy", "nginx"} {
		require.Greater(t, shakes[kind], 500)
		require.Empty(t, failures[kind], kind)
	}
	require.LessOrEqual(t, len(failures["apache"]), len(bare["apache"]), "%v", failures["apache"])
	for _, failure := range failures["apache"] {
		require.NotContains(t, failure, "x509", "no client sees a chain that does not verify")
	}
	last := s.served(t)
	s.run(t, 0, "rollback")
	s.run(t, 0, "verify")
	require.False(t, last.Equal(s.served(t)))
	for _, f := range fronts {
		require.True(t, served(t, f.address, roots).Equal(s.served(t)), "every kind goes back")
	}
}

// HAProxy passes TCP through to regions that serve TLS themselves: its address is one more endpoint of MAAS, and one more name.
func TestPassthrough(t *testing.T) {
	port, err := loopback.Port()
	require.NoError(t, err)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
	hosts, err := loopback.Hosts(1, 443)
	require.NoError(t, err)
	virtual, dir := net.JoinHostPort(hosts[0].String(), "443"), t.TempDir()
	text, err := os.ReadFile("../../examples/haproxy/passthrough.cfg")
	require.NoError(t, err)
	place := strings.NewReplacer("10.0.0.10:443", virtual, "10.0.0.11:", s.maas.Regions[0].Address.String()+":",
		"10.0.0.12:", s.maas.Regions[1].Address.String()+":", "/run/haproxy", dir)
	config := filepath.Join(dir, "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, []byte(place.Replace(string(text))), 0o600))
	start(t, nil, program(t, "haproxy"), "-db", "-f", config)

	path := filepath.Join(s.dir, "maascert.yaml")
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	changed := strings.Replace(string(text), "  challenge:", "  accept_terms: true\n  challenge:", 1)
	changed = strings.Replace(changed, "  maas: {endpoints: [", "  maas: {endpoints: [\""+virtual+"\", ", 1)
	require.NoError(t, os.WriteFile(path, []byte(changed), 0o640))
	require.Contains(t, s.run(t, 0, "renew", "--enable-tls"), virtual+" serves it")
	s.run(t, 0, "renew", "--force")
	require.Contains(t, s.run(t, 0, "verify"), virtual+" serves it")
	require.Equal(t, s.served(t).SerialNumber, served(t, virtual, acmetest.Pool(ca.Root(0))).SerialNumber)
}

// served is the leaf that an address serves to a client that trusts only some roots.
func served(t *testing.T, address string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: "maas.example.test", RootCAs: roots})
	require.NoError(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// getTLS asks a proxy for MAAS's page.
func getTLS(t *testing.T, address string, roots *x509.CertPool) string {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{ServerName: "maas.example.test", RootCAs: roots}, DisableKeepAlives: true}
	request, err := http.NewRequest(http.MethodGet, "https://"+address+"/MAAS/", nil)
	require.NoError(t, err)
	request.Host = "maas.example.test"
	response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}
