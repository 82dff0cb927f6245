//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/loopback"
	"maascert/maasconfig/maastest"
)

// A real Prometheus asks a real daemon and judges what it hears by the shipped rules; a real Alertmanager is told when a region stops
// serving the certificate, and when it does so again.
func TestPrometheusTellsOfARegionThatStops(t *testing.T) {
	var ports [4]int
	for i := range ports {
		var err error
		ports[i], err = loopback.Port()
		require.NoError(t, err)
	}
	at := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	board, prometheus, alertmanager := at(1), at(2), at(3)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: ports[0]})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, ports[0])
	s.edit(t, "  directory: ", "  accept_terms: true\n  directory: ")
	s.run(t, 0, "renew", "--enable-tls")
	s.edit(t, "node: region1", fmt.Sprintf("node: region1\nlisten: %s\nschedule: \"@every 1s\"", board), "verify_timeout: 30s", "verify_timeout: 2s")
	start(t, nil, os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "run")

	heard := &receiver{}
	webhook := httptest.NewServer(heard)
	t.Cleanup(webhook.Close)
	startAlertmanager(t, alertmanager, webhook.URL)
	startPrometheus(t, prometheus, board, alertmanager)
	query := func(expr string) int {
		return len(ask[struct{ Result []any }](t, prometheus, "query?query="+url.QueryEscape(expr)).Result)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		require.Eventually(t, is, time.Minute, 100*time.Millisecond, what)
	}
	until("every region is seen to serve it", func() bool { return query("maascert_endpoint_match == 1") == len(s.maas.Regions) })
	until("every rule was asked", func() bool {
		for _, group := range ask[struct {
			Groups []struct{ Rules []struct{ Health string } }
		}](t, prometheus, "rules").Groups {
			if slices.ContainsFunc(group.Rules, func(rule struct{ Health string }) bool { return rule.Health != "ok" }) || len(group.Rules) < 10 {
				return false
			}
		}
		return true
	})
	until("while all is well nobody is told anything", func() bool { return query("ALERTS") == 0 })

	stopped := s.maas.Regions[2]
	stopped.Break(maastest.Fault{Deaf: true}) // else the next pass would mend it
	stopped.StopProxy()
	const rule = "MaascertNotServedEverywhere"
	until("the alert reaches Alertmanager's receiver", func() bool { return heard.has("firing", rule, stopped.Address.String()) })
	require.False(t, heard.has("firing", rule, s.maas.Regions[0].Address.String()))
	require.NoError(t, stopped.Restart())
	until("and so does its end", func() bool { return heard.has("resolved", rule, stopped.Address.String()) })
}

// alert is one that Alertmanager tells its receiver.
type alert struct {
	Status string
	Labels map[string]string
}

// receiver remembers the alerts it was told.
type receiver struct {
	mu     sync.Mutex
	alerts []alert
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	var told struct{ Alerts []alert }
	if json.NewDecoder(req.Body).Decode(&told) == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.alerts = append(r.alerts, told.Alerts...)
	}
}

func (r *receiver) has(status, rule, address string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.alerts, func(a alert) bool {
		return a.Status == status && a.Labels["alertname"] == rule && strings.HasPrefix(a.Labels["endpoint"], address+":")
	})
}

func startAlertmanager(t *testing.T, address, webhook string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `route: {receiver: test, group_wait: 0s, group_interval: 1s, repeat_interval: 1h, group_by: ['...']}
receivers: [{name: test, webhook_configs: [{url: %q, send_resolved: true}]}]
`, webhook), 0o644))
	start(t, nil, program(t, "prometheus-alertmanager"), "--config.file", config, "--web.listen-address", address, "--cluster.listen-address=", "--storage.path", dir)
	wait(t, "http://"+address+"/-/ready", nil)
}

// startPrometheus starts one with the shipped configuration and rules, but for the addresses and how long things take.
func startPrometheus(t *testing.T, address, board, alertmanager string) {
	t.Helper()
	dir, shipped := t.TempDir(), filepath.Join("..", "..", "examples", "prometheus")
	for name, changes := range map[string][]string{
		"prometheus.yaml": {"127.0.0.1:9543", board, "scrape_interval: 1m", "scrape_interval: 1s", "scrape_configs:",
			"global: {evaluation_interval: 1s}\nalerting: {alertmanagers: [{static_configs: [{targets: ['" + alertmanager + "']}]}]}\nscrape_configs:"},
		"rules.yaml": {"for: 15m", "for: 1s", "for: 2h", "for: 1m"},
	} {
		text, err := os.ReadFile(filepath.Join(shipped, name))
		require.NoError(t, err)
		for _, old := range slices.Collect(slices.Chunk(changes, 2)) {
			require.Contains(t, string(text), old[0])
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.NewReplacer(changes...).Replace(string(text))), 0o644))
	}
	start(t, nil, program(t, "prometheus"), "--config.file", filepath.Join(dir, "prometheus.yaml"), "--web.listen-address", address, "--storage.tsdb.path", filepath.Join(dir, "data"))
	wait(t, "http://"+address+"/-/ready", nil)
}

// ask is an answer of Prometheus's API.
func ask[T any](t *testing.T, address, path string) T {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + address + "/api/v1/" + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var answer struct{ Data T }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Data
}
