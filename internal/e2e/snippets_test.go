//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/loopback"
)

// proxies are complete configurations around a snippet, and how each proxy is started with one.
var proxies = map[string]struct {
	program string
	config  string // DIR, ADDRESS and SNIPPET stand for what their names say
	args    []string
}{
	"nginx": {"nginx", `pid DIR/nginx.pid;
error_log DIR/error.log;
daemon off;
events {}
http {
    access_log off;
    client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
    server {
        listen ADDRESS;
SNIPPET
        location / { return 404; }
    }
}
`, []string{"-p", "DIR", "-c", "CONFIG"}},
	"haproxy": {"haproxy", `global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend plain
    bind ADDRESS
SNIPPET
    http-request return status 404
`, []string{"-db", "-f", "CONFIG"}},
	"apache": {"apache2", `ServerRoot DIR
PidFile DIR/apache.pid
ErrorLog DIR/error.log
ServerName localhost
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so
Listen ADDRESS
<VirtualHost *>
DocumentRoot /nonexistent
SNIPPET
</VirtualHost>
`, []string{"-DFOREGROUND", "-f", "CONFIG"}},
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// Each real proxy, with the snippet that maascert prints for it, answers for maascert: an order goes through although
// maascert cannot have the address.
func TestSnippets(t *testing.T) {
	for kind, proxy := range proxies {
		t.Run(kind, func(t *testing.T) {
			port, err := loopback.Port()
			require.NoError(t, err)
			ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
			s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
			path := filepath.Join(s.dir, "maascert.yaml")
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), "  challenge:", "  accept_terms: true\n  challenge:", 1)), 0o640))

			snippet := s.run(t, 0, "account", "snippet", kind)
			thumbprint := strings.TrimSpace(strings.TrimPrefix(s.run(t, 0, "account", "show"), "thumbprint "))
			require.Contains(t, snippet, thumbprint)
			require.Empty(t, ca.Requests(), "neither asks the CA")

			dir, address := t.TempDir(), net.JoinHostPort(s.maas.Regions[0].Address.String(), strconv.Itoa(port))
			require.NoError(t, os.Chmod(dir, 0o755))
			config := filepath.Join(dir, "proxy.conf")
			fill := strings.NewReplacer("DIR", dir, "ADDRESS", address, "SNIPPET", snippet, "CONFIG", config)
			require.NoError(t, os.WriteFile(config, []byte(fill.Replace(proxy.config)), 0o644))
			var args []string
			for _, arg := range proxy.args {
				args = append(args, fill.Replace(arg))
			}
			start(t, nil, program(t, proxy.program), args...)

			base := "http://" + address + "/.well-known/acme-challenge/"
			token := "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"
			require.Eventually(t, func() bool {
				status, body := get(t, base+token)
				return status == http.StatusOK && body == token+"."+thumbprint
			}, 20*time.Second, 50*time.Millisecond, "%s", fmt.Sprint(get(t, base+token)))
			for _, other := range []string{"a%22b", "a/b", "", "a.b", "%0d%0aX:y"} {
				status, body := get(t, base+other)
				require.NotContains(t, body, thumbprint, "%q is no token", other)
				require.NotEqual(t, http.StatusOK, status, "%q is no token", other)
			}
			s.run(t, 0, "check")
			s.run(t, 0, "renew", "--enable-tls")
			s.served(t)
		})
	}
}

// respond answers for another host's orders, with nothing but the thumbprint.
func TestRespond(t *testing.T) {
	port, err := loopback.Port()
	require.NoError(t, err)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	thumbprint := strings.Repeat("x", 43)
	start(t, nil, os.Getenv("MAASCERT_E2E_BINARY"), "respond", "--thumbprint", thumbprint, "--listen", address)
	require.Eventually(t, func() bool {
		status, body := get(t, "http://"+address+"/.well-known/acme-challenge/token")
		return status == http.StatusOK && body == "token."+thumbprint
	}, 20*time.Second, 20*time.Millisecond)
	status, _ := get(t, "http://"+address+"/")
	require.Equal(t, http.StatusNotFound, status)
}
