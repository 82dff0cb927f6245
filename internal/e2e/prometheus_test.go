//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
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
	"maascert/certstore"
	"maascert/internal/loopback"
	"maascert/internal/world"
	"maascert/maasconfig/maastest"
)

// A real Prometheus asks a real daemon and a real node_exporter and judges what it hears by the shipped rules; a real Alertmanager is told
// when a rehearsal fails, when a region stops serving the certificate, and when all is well again. The shipped dashboard shows nothing empty.
func TestPrometheusTellsWhatIsWrong(t *testing.T) {
	var ports [6]int
	for i := range ports {
		var err error
		ports[i], err = loopback.Port()
		require.NoError(t, err)
	}
	at := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	board, prometheus, alertmanager, exporter, blackbox := at(1), at(2), at(3), at(4), at(5)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: ports[0], Validity: 90 * 24 * time.Hour})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, ports[0])
	s.edit(t, "  directory: ", "  accept_terms: true\n  directory: ")
	s.run(t, 0, "renew", "--enable-tls")
	s.edit(t, "node: region1", fmt.Sprintf("node: region1\nlisten: %s\nmetrics: {textfile: maascert.prom}\nnotify: [{type: exec, name: nobody, command: [\"true\"]}]\nschedule: \"@every 12h\"", board),
		"verify_timeout: 30s", "verify_timeout: 2s")
	run := func() (stop func()) {
		return start(t, nil, os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "run")
	}
	s.age(t, 2*24*time.Hour) // or the order would be too near for a rehearsal
	stop := run()

	heard := &receiver{}
	webhook := httptest.NewServer(heard)
	t.Cleanup(webhook.Close)
	startAlertmanager(t, alertmanager, webhook.URL)
	start(t, nil, program(t, "prometheus-node-exporter"), "--web.listen-address", exporter, "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory", s.dir)
	startPrometheus(t, prometheus, board, alertmanager, exporter)
	query := func(expr string) int {
		return len(ask[struct{ Result []any }](t, prometheus, "query?query="+url.QueryEscape(expr)).Result)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		require.Eventually(t, is, time.Minute, 100*time.Millisecond, what)
	}
	until("every region is seen to serve it", func() bool { return query(`maascert_endpoint_match{job="maascert"} == 1`) == len(s.maas.Regions) })
	until("node_exporter tells the same", func() bool { return query(`maascert_endpoint_match{job="node"} == 1`) == len(s.maas.Regions) })
	until("the next renewal was rehearsed", func() bool { return query(`maascert_rehearsal_success{job="maascert"} == 1`) == 1 })
	until("every rule was asked", func() bool {
		for _, group := range ask[struct {
			Groups []struct{ Rules []struct{ Health string } }
		}](t, prometheus, "rules").Groups {
			if slices.ContainsFunc(group.Rules, func(rule struct{ Health string }) bool { return rule.Health != "ok" }) || len(group.Rules) < 13 {
				return false
			}
		}
		return true
	})
	until("while all is well nobody is told anything", func() bool { return query("ALERTS") == 0 })
	for _, expr := range dashboardQueries(t) {
		until("the dashboard shows "+expr, func() bool { return query(expr) > 0 })
	}
	s.seenByBlackbox(t, blackbox)

	stop()
	taken, err := net.Listen("tcp", net.JoinHostPort(s.maas.Regions[0].Address.String(), strconv.Itoa(ports[0])))
	require.NoError(t, err)
	s.age(t, 8*24*time.Hour)
	stop = run()
	until("a rehearsal that fails reaches Alertmanager's receiver", func() bool { return heard.has("firing", "MaascertRehearsalFails", "cert", "maas") })
	require.False(t, heard.has("firing", "MaascertNotServedEverywhere", "cert", "maas"))
	stop()
	require.NoError(t, taken.Close())
	s.age(t, 24*time.Hour)
	stop = run()
	until("and so does its end", func() bool { return heard.has("resolved", "MaascertRehearsalFails", "cert", "maas") })
	stop()

	s.edit(t, "@every 12h", "@every 1s")
	run()
	until("the daemon is back", func() bool { return query(`up{job="maascert"} == 1`) == 1 })
	stopped := s.maas.Regions[2]
	stopped.Break(maastest.Fault{Deaf: true}) // else the next pass would mend it
	stopped.StopProxy()
	const rule = "MaascertNotServedEverywhere"
	until("the alert reaches Alertmanager's receiver", func() bool { return heard.has("firing", rule, "endpoint", stopped.Address.String()+":") })
	require.False(t, heard.has("firing", rule, "endpoint", s.maas.Regions[0].Address.String()+":"))
	require.NoError(t, stopped.Restart())
	until("and so does its end", func() bool { return heard.has("resolved", rule, "endpoint", stopped.Address.String()+":") })
}

// age makes what the store remembers of orders and rehearsals older.
func (s *site) age(t *testing.T, by time.Duration) {
	t.Helper()
	store := certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
	record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	for i := range record.Attempts {
		record.Attempts[i].At = record.Attempts[i].At.Add(-by)
	}
	if r := record.Rehearsal; r != nil {
		r.At, r.Tried = r.At.Add(-by), r.Tried.Add(-by)
	}
	_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
	require.NoError(t, err)
}

// dashboardQueries are all that the shipped dashboard asks.
func dashboardQueries(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "prometheus", "dashboard.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	var all []string
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			all = append(all, target.Expr)
		}
	}
	require.Greater(t, len(all), 10)
	return all
}

// seenByBlackbox has a real blackbox_exporter look at a region with the shipped module, and with other roots than clients trust.
func (s *site) seenByBlackbox(t *testing.T, address string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "prometheus", "blackbox.yaml"))
	require.NoError(t, err)
	const shipped = "/var/lib/maascert/public/maas.roots.pem"
	require.Contains(t, string(text), shipped)
	_, modules, _ := strings.Cut(string(text), "modules:\n")
	trusting := strings.Replace(modules, shipped, filepath.Join(s.dir, "state", "public", "maas.roots.pem"), 1)
	untrusting := strings.NewReplacer("maas_tls:", "untrusted:", "ca_file: "+shipped, "insecure_skip_verify: false").Replace(modules)
	config := filepath.Join(t.TempDir(), "blackbox.yaml")
	require.NoError(t, os.WriteFile(config, []byte("modules:\n"+trusting+untrusting), 0o644))
	start(t, nil, program(t, "prometheus-blackbox-exporter"), "--config.file", config, "--web.listen-address", address)
	wait(t, "http://"+address+"/-/healthy", nil)
	probe := func(module string) string {
		target := "https://" + s.maas.Regions[0].Address.String() + ":5443/MAAS/"
		resp, err := http.Get("http://" + address + "/probe?module=" + module + "&target=" + url.QueryEscape(target))
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(body)
	}
	seen := probe("maas_tls")
	require.Contains(t, seen, "\nprobe_success 1\n")
	require.Contains(t, seen, "\nprobe_ssl_earliest_cert_expiry ")
	require.Contains(t, probe("untrusted"), "\nprobe_success 0\n")
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

func (r *receiver) has(status, rule, label, begins string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.alerts, func(a alert) bool {
		return a.Status == status && a.Labels["alertname"] == rule && strings.HasPrefix(a.Labels[label], begins)
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
func startPrometheus(t *testing.T, address, board, alertmanager, exporter string) {
	t.Helper()
	dir, shipped := t.TempDir(), filepath.Join("..", "..", "examples", "prometheus")
	for name, changes := range map[string][]string{
		"prometheus.yaml": {"127.0.0.1:9543", board, "scrape_interval: 1m", "scrape_interval: 1s", "scrape_configs:",
			"global: {evaluation_interval: 1s}\nalerting: {alertmanagers: [{static_configs: [{targets: ['" + alertmanager + "']}]}]}\nscrape_configs:\n  - {job_name: node, scrape_interval: 1s, static_configs: [{targets: ['" + exporter + "']}]}"},
		"rules.yaml": {"for: 15m", "for: 1s", "for: 2h", "for: 1s"},
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
